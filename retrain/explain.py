"""The story of one version: why it was trained, on what, how it was judged, who let it through, what it replaced, and since.

Told from where each fact is recorded: ledger and git, the DVC remote, MLflow. A place that does not answer, or has nothing any
more, is said in its chapter and takes no other down.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retrain import ledger, lineage
from retrain.errors import IntegrityError, RetrainError
from retrain.markdown import unmarked
from retrain.registry import Registry
from retrain.restore import card_of
from retrain.rows import difference
from retrain.store import Store
from retrain.workspace import Workspace

WINDOWS = 400  # looked through for the one that opened the retraining


@dataclass(frozen=True)
class Chapter:
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    promotion: ledger.Promotion
    attempt: ledger.Attempt
    chapters: tuple[Chapter, ...]

    def as_dict(self) -> dict[str, Any]:
        told = {chapter.title: list(chapter.lines) for chapter in self.chapters}
        return {"schema": 1, "version": self.promotion.as_dict(), "attempt": self.attempt.as_dict(), "chapters": told}


def explain(workspace: Workspace, name: str) -> Explained:
    """A version named as support-v2; ParamsError where none is called so."""
    promotion = lineage.promoted(workspace, name)
    lines = lineage.entries(workspace, promotion.adapter)
    attempt = next((a for a in reversed(ledger.state(lines).attempts) if a.digest == promotion.digest), None)
    if attempt is None:
        raise IntegrityError(f"{name} was promoted, and no attempt in the ledger has its bytes {promotion.digest[:12]}")
    store = Store(workspace)
    registry = _Later(workspace)
    chapters = (
        Chapter("why it was trained", _told(lambda: _why(registry, attempt))),
        Chapter("what it learned", _told(lambda: _rows(workspace, store, lines, promotion))),
        Chapter("training", _told(lambda: _training(registry, attempt))),
        Chapter("verdict", _told(lambda: _verdict(workspace, attempt))),
        Chapter("approval", (_approval(lines, promotion),)),
        *_rollout(lines, promotion),
        Chapter("what it replaced", (_replaced(lines, promotion),)),
        Chapter("since then", _since(lines, promotion)),
    )
    return Explained(promotion, attempt, chapters)


@dataclass
class _Later:
    """MLflow, asked when a chapter needs it."""

    workspace: Workspace

    def open(self) -> Registry:
        return Registry.open(self.workspace.params.mlflow, self.workspace.root)


def _told(chapter: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    try:
        return tuple(chapter())
    except RetrainError as error:
        return (f"not to be had: {error}",)


def _why(mlflow: _Later, attempt: ledger.Attempt) -> list[str]:
    windows = mlflow.open().windows(attempt.adapter, WINDOWS)
    fired = next((row for row in reversed(windows) if row["end"] == attempt.end and row.get("fire")), None)
    if fired is None:
        return [f"purpose {attempt.purpose}: a person, or an erasure, asked for it; no window that ended {attempt.end} fired"]
    drift = fired["drift_status"].replace("_", " ")
    seen = f"the window {fired['start']} to {fired['end']} fired: {fired['rows']} rows, {drift}"
    return [f"purpose {attempt.purpose}", seen, *fired["reasons"]]


def _rows(workspace: Workspace, store: Store, lines: Sequence[ledger.Entry], promotion: ledger.Promotion) -> list[str]:
    adapter = promotion.adapter
    learned = lineage.trained(store, adapter, promotion.commit)
    sources = Counter(row.source or row.part for row in learned)
    told = [f"{len(learned)} rows: " + ", ".join(f"{n} {source}" for source, n in sources.most_common())]
    users = {origin.get("user") or origin["request_id"] for row in learned for origin in row.origins}
    told += [f"from {len(users)} users of production"] if users else []
    before = ledger.state(lines).versions.get(promotion.replaces or 0)
    if before:
        changed = difference(lineage.trained(store, adapter, before.commit), learned)
        told.append(f"against {before.tag}: {len(changed.came)} came, {len(changed.went)} went")
    told += lineage.erased(workspace, adapter, promotion.digest)
    return [*told, f"dataset {promotion.commit[:12]}: `retrain data show {adapter} {promotion.tag}`"]


def _training(mlflow: _Later, attempt: ledger.Attempt) -> list[str]:
    runs = mlflow.open().training_runs(attempt.adapter, WINDOWS)
    run = next((run for run in reversed(runs) if run.tags.get("digest") == attempt.digest), None)
    base = f"base {(attempt.base_digest or 'unknown')[:12]}"
    if run is None or run.end is None:
        return [f"{base}; MLflow has no finished run of it"]
    minutes = (run.end - run.start).total_seconds() / 60
    return [f"{base}; {run.start:%Y-%m-%d %H:%M} UTC, {minutes:.1f} minutes with evaluation and gate; MLflow run {run.id}"]


def _verdict(workspace: Workspace, attempt: ledger.Attempt) -> list[str]:
    card = card_of(workspace, attempt.adapter, attempt.commit)
    plain = [unmarked(line.removeprefix("- ")) for line in card.partition("\n## ")[0].splitlines()[1:] if line.strip()]
    return [f"{attempt.status}: {attempt.why}", *plain]


def _approval(lines: Sequence[ledger.Entry], promotion: ledger.Promotion) -> str:
    if promotion.forced:
        return f"FORCED past the gate by a person: {promotion.reason}"
    said = ledger.decision(lines, promotion.digest)
    return f"{said.at} {said.told().partition(' ')[2]}" if said else "nobody was asked: promotion.approval was auto"


def _rollout(lines: Sequence[ledger.Entry], promotion: ledger.Promotion) -> list[Chapter]:
    steps = [f"{e.at} {e.told()}" for e in lines if isinstance(e, ledger.Rollout) and e.digest == promotion.digest]
    return [Chapter("beside the champion", tuple(steps))] if steps else []


def _replaced(lines: Sequence[ledger.Entry], promotion: ledger.Promotion) -> str:
    before = ledger.state(lines).versions.get(promotion.replaces or 0)
    place = f"{before.tag}, which was promoted {before.at}" if before else "nothing: it was the first champion"
    return f"{place}; promoted {promotion.at}, tag {promotion.tag} at commit {promotion.commit[:12]}"


def _since(lines: Sequence[ledger.Entry], promotion: ledger.Promotion) -> tuple[str, ...]:
    state = ledger.state(lines)
    later = [
        ledger.describe(line)
        for line in lines[lines.index(promotion) + 1 :]
        if promotion.version in (getattr(line, "version", None), getattr(line, "from_version", None))
        or promotion.version == getattr(line, "replaces", None)
    ]
    return (*later, f"{state.champion.tag if state.champion else 'nothing'} serves now")
