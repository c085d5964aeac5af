"""A version that MLflow has lost, or whose bytes there are no longer right, is registered again from the DVC remote."""

import tempfile
from pathlib import Path

from retrain import ledger
from retrain.jobs import now
from retrain.objects import GoneError
from retrain.registry import Registry
from retrain.registry.champion import from_dvc
from retrain.store import Store
from retrain.workspace import Clone, Workspace


def restored(workspace: Workspace, clone: Clone, promotion: ledger.Promotion) -> tuple[str | None, ledger.Restored | None]:
    """(why MLflow had to be given the version's bytes again, None where it has them; the line to write of it).

    The line is None where MLflow gave the same number again. Bytes that DVC has not got either raise what it said: GoneError,
    IntegrityError. Under the release lock.
    """
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    state = ledger.state(ledger.read(clone.root, promotion.adapter))
    number = state.number(promotion.version)
    why = registry.lost(promotion.adapter, number, promotion.digest)
    if why is None:
        return None, None
    again = _copy(registry, state, promotion) or _register(workspace, registry, state, promotion)
    if again == number:
        return why, None
    line = ledger.Restored(
        at=now(), adapter=promotion.adapter, version=promotion.version, number=again, digest=promotion.digest, reason=why
    )
    return why, line


def _copy(registry: Registry, state: ledger.LedgerState, promotion: ledger.Promotion) -> int | None:
    """Another number under which MLflow has the bytes: of a restore that died before it was recorded, or of two promoters."""
    adapter, digest, taken = promotion.adapter, promotion.digest, state.taken()
    same = [v.version for v in registry.versions(adapter) if v.digest == digest and taken.get(v.version, digest) == digest]
    return next((number for number in same if registry.lost(adapter, number, digest) is None), None)


def _register(workspace: Workspace, registry: Registry, state: ledger.LedgerState, promotion: ledger.Promotion) -> int:
    adapter = promotion.adapter
    attempts = reversed(state.attempts)
    attempt = next((a for a in attempts if (a.digest, a.commit) == (promotion.digest, promotion.commit)), None)
    told = tags_of(attempt, promotion.reason if promotion.forced else None) if attempt else {"commit": promotion.commit}
    tags = {**told, "name": promotion.tag, "guard": f"registered again at {now()}"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = from_dvc(workspace, adapter, promotion.commit, Path(scratch) / "adapter", digest=promotion.digest)
        card = card_of(workspace, adapter, promotion.commit)
        return registry.register_again(
            adapter, folder, digest=promotion.digest, tags=tags, description=card, taken=state.taken()
        )


def tags_of(attempt: ledger.Attempt, forced: str | None) -> dict[str, object]:
    """What a version's page in MLflow says of the attempt; forced: the reason for which a person put it past the gate."""
    found = {"verdict": attempt.status, "commit": attempt.commit, "dataset": attempt.dataset, "base": attempt.base_digest}
    return {**found, **({"forced": forced} if forced else {})}


def card_of(workspace: Workspace, adapter: str, commit: str) -> str:
    """The card of a commit; empty where an erasure took it."""
    store = Store(workspace)
    try:
        blob = store.out(commit, f"gate@{adapter}", f"out/{adapter}/card.md").get("")
        return store.read(blob).decode("utf-8") if blob else ""
    except GoneError:
        return ""
