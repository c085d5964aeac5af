"""Old versions leave MLflow; what an alias, the ledger or a rollback needs stays.

What leaves can come back: git and the DVC remote keep every attempt, and a rollback to a version that was pruned registers
it again.
"""

from dataclasses import dataclass

from retrain import ledger
from retrain.errors import ParamsError
from retrain.jobs import RELEASE, entries, job
from retrain.registry import Registry
from retrain.workspace import Workspace


@dataclass(frozen=True)
class Pruned:
    """MLflow's numbers: those that stay, each with why, and those that left (or would, in a dry run)."""

    kept: dict[int, str]
    dropped: tuple[int, ...]


def prune(workspace: Workspace, adapter: str, *, keep: int, dry: bool) -> Pruned:
    """Delete the versions, and the bytes in their runs, that nothing needs: `keep` that served last stay in any case."""
    if keep < 1:
        raise ParamsError(f"--keep is {keep}: at least 1, the newest version that served")
    with job(workspace, adapter, "prune", lock=RELEASE):
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        kept = needed(entries(workspace, adapter), registry.aliases(adapter), keep=keep)
        versions = registry.versions(adapter)
        state = ledger.state(entries(workspace, adapter))
        if state.challenger and (waits := registry.by_digest(adapter, state.challenger.digest)):
            kept.setdefault(waits, "waits to be promoted")
        dropped = tuple(version.version for version in versions if version.version not in kept)
        for number in () if dry else dropped:
            registry.drop(adapter, number)
        return Pruned({v.version: kept[v.version] for v in versions if v.version in kept}, dropped)


def needed(lines: list[ledger.Entry], aliases: dict[str, int], *, keep: int) -> dict[int, str]:
    """MLflow's number -> why it must stay. Pure."""
    state = ledger.state(lines)
    found = {state.number(line.version): f"{line.tag}, one of the last {keep} that served" for line in _last(lines)[:keep]}
    for line, why in ((state.previous, "a rollback goes there"), (state.champion, "it serves")):
        found |= {state.number(line.version): f"{line.tag}: {why}"} if line else {}
    return {**{number: f"alias {name}" for name, number in aliases.items()}, **found}


def _last(lines: list[ledger.Entry]) -> list[ledger.Promotion]:
    """Every version that served, the one that served last first."""
    versions, order = ledger.state(lines).versions, list[int]()
    for line in lines:
        if isinstance(line, ledger.Promotion | ledger.Rollback):
            order = [*(version for version in order if version != line.version), line.version]
    return [versions[version] for version in reversed(order)]
