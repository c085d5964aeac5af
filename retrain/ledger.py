"""What was tried and what serves: `ledger/<adapter>.jsonl` in git, appended, never rewritten.

A push of the file is the compare-and-set that MLflow's aliases lack; everything MLflow shows about which version serves
is a projection of `state`. All but `read` and `append` is pure.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from retrain.errors import DataError, IntegrityError, NothingToDo, ParamsError, RejectedError, StaleError, WaitingError
from retrain.lines import (
    ENTRY,
    MOST_REASON,
    Approval,
    Attempt,
    Decision,
    Entry,
    Erasure,
    Label,
    Pause,
    Promotion,
    Purpose,
    Release,
    Restored,
    Resume,
    Rollback,
    Rollout,
    Suite,
    Watch,
    changed,
    describe,
    erased,
    reason_of,
)
from retrain.records import dumps, lines_of, parse_time

__all__ = [
    "MOST_REASON", "Approval", "Attempt", "Decision", "Entry", "Erasure", "Label", "Pause", "Promotion", "Purpose", "Release",
    "Restored", "Resume", "Rollback", "Rollout", "Suite", "Watch", "changed", "describe", "erased", "reason_of",
]  # fmt: skip

ASKS = {
    "airflow": "waits for a person: answer the task `approve` of its DAG (`retrain up`)",
    "mlflow": "waits for a person: set the tag `approval` of its version in MLflow to approved or rejected",
}


@dataclass(frozen=True)
class LedgerState:
    """What the lines add up to; `previous` is the version that served just before `champion`.

    challenger: the newest attempt, where it passed, neither a person nor its rollout refused it, and it waits to be promoted.
    numbers: MLflow's number of a version that had to be registered again. pause: the newest one, if nobody has resumed since.
    """

    champion: Promotion | None
    previous: Promotion | None
    versions: dict[int, Promotion]
    attempts: tuple[Attempt, ...]
    challenger: Attempt | None = None
    numbers: dict[int, int] = field(default_factory=dict)
    pause: Pause | None = None

    def number(self, version: int) -> int:
        """MLflow's number of a version."""
        return self.numbers.get(version, version)

    def taken(self) -> dict[int, str]:
        """Number -> digest: what no other bytes may ever be called."""
        own = {version: line.digest for version, line in self.versions.items()}
        return {**{self.number(version): digest for version, digest in own.items()}, **own}

    def paused(self, now: datetime) -> Pause | None:
        """The pause that holds at this instant."""
        until = self.pause.until if self.pause else None
        return None if until is not None and parse_time(until) <= now else self.pause


def ledger_path(root: Path, adapter: str) -> Path:
    return Path(root) / "ledger" / f"{adapter}.jsonl"


def read(root: Path, adapter: str) -> list[Entry]:
    """All lines, oldest first (no file: none yet); a line that cannot be read raises IntegrityError with file:line."""
    path = ledger_path(root, adapter)
    if not path.exists():
        return []
    try:
        return [_parse(line, f"{path}:{number}", adapter) for number, line in lines_of(path)]
    except DataError as error:
        raise IntegrityError(f"{error}. {_restore(path)}") from error


def parse(text: str, adapter: str) -> list[Entry]:
    """The lines of a ledger that is at hand as text, such as `git show REV:ledger/<adapter>.jsonl`."""
    return [_parse(line, f"ledger/{adapter}.jsonl:{n}", adapter) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(line: str, where: str, adapter: str) -> Entry:
    try:
        entry = ENTRY.validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "line"
        raise IntegrityError(
            f"{where} is no ledger line ({field}: {problem['msg'].removeprefix('Value error, ')}). {_restore(where)}"
        ) from error
    if entry.adapter != adapter:
        raise IntegrityError(f"{where} is about adapter {entry.adapter!r}, the file is {adapter}'s. {_restore(where)}")
    return entry


def _restore(where: Path | str) -> str:
    file = str(where).rpartition("ledger/")[2].partition(":")[0]
    return f"The ledger is only ever appended to: compare `git log -p ledger/{file}` and restore the line"


def append(root: Path, adapter: str, entry: Entry) -> Path:
    """Add one line and flush it to disk; returns the file, for the commit. Half a line at the end raises IntegrityError."""
    if entry.adapter != adapter:
        raise IntegrityError(f"a line about {entry.adapter!r} was to be written to {adapter}'s ledger")
    path = ledger_path(root, adapter)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if (size := file.tell()) and os.pread(file.fileno(), 1, size - 1) != b"\n":
            raise IntegrityError(f"{path} ends in half a line: a write was cut. {_restore(path)}")
        file.write(dumps(entry.as_dict()).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def state(entries: Iterable[Entry]) -> LedgerState:
    """Replay of the lines; a version that changes its bytes or was never promoted raises IntegrityError."""
    champion = previous = pause = None
    versions: dict[int, Promotion] = {}
    numbers: dict[int, int] = {}
    attempts = []
    refused: set[str] = set()  # by a rollout
    for entry in (lines := list(entries)):
        if isinstance(entry, Attempt):
            attempts.append(entry)
        elif isinstance(entry, Promotion):
            _same_bytes(versions.setdefault(entry.version, entry), entry)
            champion, previous = entry, champion
        elif isinstance(entry, Rollback):
            champion, previous = _known(versions, entry), champion
        elif isinstance(entry, Restored):
            numbers[_known(versions, entry).version] = entry.number
        elif isinstance(entry, Rollout) and entry.outcome in ("failed", "withdrawn"):
            refused.add(entry.digest)
        elif isinstance(entry, Pause | Resume):
            pause = entry if isinstance(entry, Pause) else None
    newest = attempts[-1] if attempts else None
    out = refused | {line.digest for line in versions.values()}
    said = decision(lines, newest.digest) if newest else None
    waits = newest and newest.promote and newest.digest not in out and (said is None or said.approved)
    challenger = newest if waits else None
    return LedgerState(champion, previous, versions, tuple(attempts), challenger, numbers, pause)


def good(entries: Iterable[Entry]) -> list[Promotion]:
    """Versions that may serve, the champion first, then those that served before it, the latest first.

    One that was rolled back from is none of them, unless it was put back since.
    """
    served: list[int] = []
    known: dict[int, Promotion] = {}
    for entry in entries:
        if isinstance(entry, Promotion):
            known[entry.version] = entry
        elif isinstance(entry, Rollback):
            ill = entry.from_version if entry.from_version > entry.version else None
            served = [version for version in served if version != ill]
        if isinstance(entry, Promotion | Rollback):
            served = [*(version for version in served if version != entry.version), entry.version]
    return [known[version] for version in reversed(served)]


def _known(versions: dict[int, Promotion], entry: Rollback | Restored) -> Promotion:
    """The promoted version that a line names, with the same bytes."""
    if entry.version not in versions:
        raise IntegrityError(
            f"the ledger of {entry.adapter} has a line of kind {entry.kind} for version {entry.version}, which no line before "
            f"it promotes. {_restore('ledger/' + entry.adapter + '.jsonl')}"
        )
    _same_bytes(versions[entry.version], entry)
    return versions[entry.version]


def _same_bytes(known: Promotion, entry: Promotion | Rollback | Restored) -> None:
    if known.digest != entry.digest:
        raise IntegrityError(
            f"the ledger gives {known.adapter} version {known.version} two digests, {known.digest[:12]} and "
            f"{entry.digest[:12]}: a version never changes. {_restore('ledger/' + known.adapter + '.jsonl')}"
        )


def attempt_at(entries: Iterable[Entry], end: str) -> Attempt | None:
    """The attempt of that `end` (a stamp): there is never more than one."""
    return next((e for e in entries if isinstance(e, Attempt) and e.end == end), None)


def tried_on(entries: Iterable[Entry], audit: str | None) -> list[str]:
    """Digests of the candidates that were compared on this audit file, oldest first; a retry of one is the same candidate."""
    return list(dict.fromkeys(e.digest for e in entries if isinstance(e, Attempt) and e.audit == audit))


def released(entries: Iterable[Entry]) -> dict[str, str]:
    """Id -> reason of the quarantined rows that a person let go."""
    return {entry.id: entry.reason for entry in entries if isinstance(entry, Release)}


def judged(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Attempts that came to a verdict; one that was not evaluated has used up no row."""
    return [attempt for attempt in attempts if attempt.status != "not_evaluated"]


def promote_line(
    entries: Sequence[Entry], *, digest: str, version: int, tag: str, at: str, approval: str = "auto", forced: str | None = None
) -> Promotion:
    """The line that makes this candidate champion, or why not.

    Its newest attempt decides: no passed verdict on these bytes is RejectedError, and so is a person's no; where params ask
    for a person (approval other than `auto`) who has not answered there, WaitingError; a champion other than the one it was
    judged against is StaleError; the serving bytes themselves are NothingToDo. Bytes that served and were rolled back come
    back by a rollback alone, which is a person's word: RejectedError. A forced promotion, for the reason that is given, needs
    an attempt and no more.
    """
    now = state(entries)
    if now.champion and now.champion.digest == digest:
        raise NothingToDo(f"{_name(now.champion)} already serves these bytes ({digest[:12]}): nothing to promote")
    served = next((promotion for promotion in now.versions.values() if promotion.digest == digest), None)
    if served:
        raise RejectedError(_rolled_back(served, entries))
    attempt = next((a for a in reversed(now.attempts) if a.digest == digest), None)
    if attempt is None:
        raise RejectedError(f"no attempt in the ledger judged the bytes {digest[:12]}: let the gate run on them first")
    if forced is None:
        _let_through(attempt, entries, now, approval)
    if version in now.versions:
        raise IntegrityError(f"version {version} is {now.versions[version].digest[:12]} in the ledger, not {digest[:12]}")
    return Promotion(
        at=at, adapter=attempt.adapter, version=version, digest=digest, commit=attempt.commit, tag=tag,
        replaces=now.champion.version if now.champion else None, forced=forced is not None, reason=forced,
    )  # fmt: skip


def _let_through(attempt: Attempt, entries: Sequence[Entry], now: LedgerState, approval: str) -> None:
    """Raises unless verdict and person let the candidate through, and it was judged against what serves."""
    if not attempt.promote or attempt.status != "passed":
        raise RejectedError(f"the verdict on {attempt.digest[:12]} is {attempt.status}: {attempt.why}")
    said = decision(entries, attempt.digest)
    if said and not said.approved:
        raise RejectedError(f"the candidate of {attempt.adapter} at {attempt.end} was {said.told().partition(' ')[2]}")
    tried = next((e for e in reversed(entries) if isinstance(e, Rollout) and e.digest == attempt.digest), None)
    if tried and tried.outcome in ("failed", "withdrawn"):
        raise RejectedError(f"{tried.told()}: retrain, or `retrain promote {attempt.adapter} --force --reason TEXT`")
    if attempt.champion != (now.champion.digest if now.champion else None):
        raise StaleError(_stale(attempt, now))
    if approval != "auto" and (said is None or said.via != approval):
        raise WaitingError(
            f"the candidate of {attempt.adapter} at {attempt.end} passed the gate and {ASKS[approval]}; "
            "promotion.approval in params.yaml says who is asked"
        )


def decision(entries: Iterable[Entry], digest: str) -> Decision | None:
    """What was said last about these bytes; a no that names nobody (time was up) until they are judged again."""
    said: Decision | None = None
    for entry in (e for e in entries if isinstance(e, Attempt | Decision) and e.digest == digest):
        said = entry if isinstance(entry, Decision) else said if said and (said.by or said.approved) else None
    return said


def _rolled_back(served: Promotion, entries: Sequence[Entry]) -> str:
    line = next((e for e in reversed(entries) if isinstance(e, Rollback) and e.from_version == served.version), None)
    why = f" and was rolled back at {line.at} ({line.reason})" if line else " before"
    return f"{_name(served)} has served{why}: `retrain rollback {served.adapter} --to {served.version}` puts it back"


def _name(promotion: Promotion) -> str:
    return f"{promotion.adapter}-v{promotion.version}"


def _stale(attempt: Attempt, now: LedgerState) -> str:
    judged = next((_name(p) for p in now.versions.values() if p.digest == attempt.champion), "the base, before any champion")
    serves = f"{_name(now.champion)} serves now" if now.champion else "no champion serves now"
    return f"{serves}, but {attempt.digest[:12]} was judged against {judged}: retrain, so that it is judged against what serves"


def serving(entries: Iterable[Entry], expected: int) -> None:
    """StaleError unless this version serves: what is to be written was found about it."""
    champion = state(entries).champion
    if champion is None or champion.version != expected:
        serves = f"{_name(champion)} serves" if champion else "nothing serves"
        raise StaleError(f"{serves} by now, not v{expected} which this is about: nothing is written, look again")


def rollback_line(
    entries: Sequence[Entry], *, adapter: str, version: int | None, reason: str, at: str, expected: int | None = None
) -> Rollback:
    """The line that puts an earlier version back (null: the one that served before); only one that served can come back.

    Without a version a rollback is not rolled back: NothingToDo. expected: the version that is to leave, where it was judged
    before; StaleError where another one serves.
    """
    now = state(entries)
    if now.champion is None:
        raise NothingToDo(f"{adapter} has no champion: nothing to roll back")
    if expected is not None:
        serving(entries, expected)
    newest = next(e for e in reversed(entries) if isinstance(e, Promotion | Rollback))
    if version is None and isinstance(newest, Rollback):
        left = f"in place of v{newest.from_version} ({newest.reason}): `--to {newest.from_version}` puts that one back"
        raise NothingToDo(f"{_name(now.champion)} serves again since {newest.at}, {left}")
    target = now.previous if version is None else now.versions.get(version)
    if target is None and version is None:
        raise NothingToDo(f"{_name(now.champion)} is the first champion: there is no earlier version to go back to")
    if target is None:
        known = ", ".join(str(number) for number in sorted(now.versions))
        raise ParamsError(f"{adapter} version {version} never served; versions that did: {known}")
    if target.version == now.champion.version:
        raise NothingToDo(f"{_name(target)} already serves")
    return Rollback(
        at=at, adapter=adapter, from_version=now.champion.version, version=target.version, digest=target.digest, reason=reason
    )


def erasures(entries: Iterable[Entry], digest: str | None) -> list[Erasure]:
    """The erasures of rows that the adapter with this digest learned."""
    return [entry for entry in entries if isinstance(entry, Erasure) and digest in entry.candidates]


def owed(entries: Sequence[Entry]) -> list[Erasure]:
    """The erasures for which a retraining is due: what serves has learned the rows."""
    champion = state(entries).champion
    return erasures(entries, champion.digest) if champion else []


def suite_changes(entries: Sequence[Entry], digest: str | None) -> int:
    """How many rows of the suites had been changed when the adapter with this digest was judged."""
    judged_at = next((i for i, e in enumerate(entries) if isinstance(e, Attempt) and e.digest == digest), 0)
    return sum(entry.rows for entry in entries[:judged_at] if isinstance(entry, Suite))
