"""The guard of what serves: ledger, MLflow's aliases, bytes and verdict agree, or the last good champion is put back.

Order of what it does: ledger, alias, verify. Killed anywhere, the next look carries it forward. It says what changed, from
what to what and between which two looks, for MLflow records neither user nor time of an alias.
"""

from dataclasses import dataclass, field

from retrain import ledger
from retrain.errors import DataError, IntegrityError
from retrain.jobs import RELEASE, TRIES, entries, job, now
from retrain.objects import GoneError
from retrain.registry import Move, Registry
from retrain.registry.champion import check_verdict
from retrain.restore import restored
from retrain.workspace import Clone, Workspace


@dataclass(frozen=True)
class Guarded:
    """What serves now, None before the first promotion; what had to be put right, each a sentence; what cannot be."""

    adapter: str
    serving: ledger.Promotion | None
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def told(self) -> str:
        if self.serving is None:
            return f"{self.adapter} has no champion yet"
        return f"{self.serving.tag} serves, its bytes and its verdict match"


def reconcile(workspace: Workspace, adapter: str) -> Guarded:
    """Make MLflow say what the ledger says, and the ledger name a version that can be trusted.

    A champion whose version or bytes MLflow has lost is registered again from the DVC remote; where nobody has them, or its
    verdict is not about them, the last good version is rolled back to. Nothing is ever promoted here. IntegrityError where no
    version is left that may serve.
    """
    workspace.params.adapter(adapter)
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    state = ledger.state(entries(workspace, adapter))
    if _well(workspace, registry, adapter, state) and _rollback_is_there(registry, adapter, state):
        registry.checked(adapter, now())
        return Guarded(adapter, state.champion, ())
    with job(workspace, adapter, "guard", lock=RELEASE) as clone:
        mended = _mend(workspace, clone, adapter)
        state = ledger.state(ledger.read(clone.root, adapter))
        moves = registry.follow(adapter, state)
        changes = [*mended.changes, *(f"MLflow's {move}" for move in moves)]
        if not _well(workspace, registry, adapter, state):
            raise IntegrityError(f"{adapter} is not what its ledger says, even after: {'; '.join(changes) or 'no change'}")
        since, at = registry.last_check(adapter) or "its registration", now()
        told = tuple(f"{change}; it happened between {since} and {at}" for change in changes)
        _annotate(registry, adapter, state, moves, told)
        registry.checked(adapter, at)
        return Guarded(adapter, state.champion, told, tuple(mended.notes))


def _well(workspace: Workspace, registry: Registry, adapter: str, state: ledger.LedgerState) -> bool:
    """Whether aliases, bytes and verdict are what the ledger says."""
    if registry.astray(adapter, state):
        return False
    if state.champion is None:
        return True
    number = state.number(state.champion.version)
    return registry.lost(adapter, number, state.champion.digest) is None and _verdict(workspace, state.champion) is None


def _rollback_is_there(registry: Registry, adapter: str, state: ledger.LedgerState) -> bool:
    return state.previous is None or registry.has(adapter, state, state.previous)


def _verdict(workspace: Workspace, promotion: ledger.Promotion) -> str | None:
    """What is wrong with a version's verdict; RetrainError where it cannot be read, which says nothing about the version."""
    try:
        check_verdict(workspace, promotion)
    except (DataError, IntegrityError) as error:
        return str(error)
    return None


@dataclass
class _Mended:
    """What is to be written to the ledger, and what is said of it; all of it is about `champion`, which served then."""

    champion: ledger.Promotion | None
    serves: ledger.Promotion | None = None
    lines: list[ledger.Entry] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, workspace: Workspace, clone: Clone, promotion: ledger.Promotion) -> None:
        """See that MLflow has a version's bytes; GoneError or IntegrityError where nobody has."""
        why, line = restored(workspace, clone, promotion)
        self.lines += [line] if line else []
        self.changes += [f"{promotion.tag} is registered again: {why}"] if why else []


def _mend(workspace: Workspace, clone: Clone, adapter: str) -> _Mended:
    """Put right what the ledger says of the champion and of what a rollback needs, by push."""
    lines = ledger.read(clone.root, adapter)
    state = ledger.state(lines)
    mended = _Mended(state.champion)
    for promotion in ledger.good(lines):
        why = _verdict(workspace, promotion)
        try:
            if why is None:
                mended.take(workspace, clone, promotion)
                mended.serves = promotion
                break
        except (GoneError, IntegrityError) as error:
            why = f"nobody has its bytes: {error}"
        mended.changes.append(f"{promotion.tag} may not serve: {why}")
    if state.champion and mended.serves is None:
        raise IntegrityError(
            f"no version of {adapter} may serve: {'; '.join(mended.changes)}: put the data back (DVC remote), or retrain"
        )
    if state.previous and mended.serves == state.champion:
        try:
            mended.take(workspace, clone, state.previous)
        except (GoneError, IntegrityError) as error:
            mended.notes.append(f"{state.previous.tag}, which a rollback would need, is gone: {error}")
    _write(clone, adapter, mended)
    return mended


def _write(clone: Clone, adapter: str, mended: _Mended) -> None:
    """The ledger's lines, by push: where bytes lie now, and the rollback where another version serves from now on.

    StaleError where somebody promoted or rolled back meanwhile: the next look is at that version.
    """

    def write(clone: Clone) -> None:
        lines, new = ledger.read(clone.root, adapter), [*mended.lines]
        if mended.champion:
            ledger.serving(lines, mended.champion.version)
        if mended.champion and mended.serves and mended.serves.version != mended.champion.version:
            reason = f"the guard: {'; '.join(mended.changes)}"[: ledger.MOST_REASON]
            new.append(ledger.rollback_line(lines, adapter=adapter, version=mended.serves.version, reason=reason, at=now()))
        for entry in new:
            ledger.append(clone.root, adapter, entry)
        if new:
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: the guard: {new[-1].told()[:100]}")

    before = clone.git("rev-parse", "HEAD")
    write(clone)
    if clone.git("rev-parse", "HEAD") != before:
        clone.publish(write, tries=TRIES)


def _annotate(
    registry: Registry, adapter: str, state: ledger.LedgerState, moves: tuple[Move, ...], told: tuple[str, ...]
) -> None:
    """The tag `guard` of the versions that changed: what serves, and what an alias had been moved to."""
    numbers = {move.before for move in moves} | ({state.number(state.champion.version)} if state.champion else set())
    known = {version.version for version in registry.versions(adapter)}
    for number in sorted(number for number in numbers if number in known):
        registry.tag(adapter, number, "guard", "\n".join(told))
