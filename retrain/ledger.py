"""What was tried and what serves: `ledger/<adapter>.jsonl` in git, appended, never rewritten.

A push of the file is the compare-and-set that MLflow's aliases lack; everything MLflow shows about which version serves
is a projection of `state`. All but `read` and `append` is pure.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from retrain.errors import DataError, IntegrityError, NothingToDo, ParamsError, RejectedError, StaleError
from retrain.records import Record, dumps, lines_of
from retrain.text import is_text

MOST_REASON = 500  # characters

Purpose = Literal["first", "improve", "replace"]
Status = Literal["passed", "failed", "not_evaluated"]


def reason_of(text: str, why: str) -> str:
    """A person's reason on one line, as the ledger keeps it; ParamsError where it is blank, too long or no text."""
    told = " ".join(text.split())
    if not is_text(told):
        raise ParamsError(f"--reason {told[:40]!r} is not UTF-8 text: say {why} in words")
    if not told or len(told) > MOST_REASON:
        raise ParamsError(f"--reason has {len(told)} characters: say in 1 to {MOST_REASON} {why}, the ledger keeps it for ever")
    return told


class Line(Record):
    """One line; `at` is an ISO 8601 instant in UTC."""

    at: str
    adapter: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, `schema` first, nulls kept: "no champion" is said, not left out."""
        data = self.model_dump(mode="json")
        return {"schema": data.pop("schema_"), **data}


class Attempt(Line):
    """A candidate put before the gate, refused ones too."""

    kind: Literal["attempt"] = "attempt"
    purpose: Purpose
    end: str  # stamp of the collection it was trained at
    commit: str  # of the dvc.lock that reproduces it
    digest: str  # sha256 of the adapter's manifest.json
    status: Status
    promote: bool
    dataset: str
    audit: str | None  # stamp of the audit file that the verdict read
    champion: str | None  # digest of the champion it was judged against; null: none served, so the base was
    base_digest: str | None = None  # of the base model's weights
    why: str


class Promotion(Line):
    kind: Literal["promotion"] = "promotion"
    version: int = Field(ge=1)
    digest: str
    commit: str
    tag: str
    replaces: int | None  # the version that served until now
    forced: bool = False


class Rollback(Line):
    kind: Literal["rollback"] = "rollback"
    from_version: int
    version: int
    digest: str
    reason: str


class Label(Line):
    """A label that a person admitted; a record only: params.yaml is what configures."""

    kind: Literal["label"] = "label"
    label: str
    rows: int = Field(ge=0)


class Release(Line):
    """A quarantined row that a person let go: the next collection takes it."""

    kind: Literal["release"] = "release"
    id: str  # of the record in data/quarantine/<adapter>/
    reason: str


class Suite(Line):
    """Rows of the suites changed by a person: the suites' own file has them, this line is the record that they were."""

    kind: Literal["suite"] = "suite"
    change: Literal["add", "relabel", "retire"]
    rows: int = Field(ge=1)
    reason: str


class Approval(Line):
    """Synthetic rows that a person let train; a record only: `approved` in params.yaml is what configures."""

    kind: Literal["approval"] = "approval"
    recipe: str
    reason: str


class Erasure(Line):
    """Rows of an erased user or request, gone from every dataset version: what used them can no longer be reproduced."""

    kind: Literal["erasure"] = "erasure"
    rows: int = Field(ge=0)
    versions: tuple[int, ...]  # that learned them
    candidates: tuple[str, ...]  # digests of all that learned them, versions or not
    after: str | None  # end of the newest attempt then
    tombstone: str  # first digits of its hash
    reason: str


Entry = Annotated[Attempt | Promotion | Rollback | Label | Release | Suite | Approval | Erasure, Field(discriminator="kind")]
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


@dataclass(frozen=True)
class LedgerState:
    """What the lines add up to; `previous` is the version that served just before `champion`."""

    champion: Promotion | None
    previous: Promotion | None
    versions: dict[int, Promotion]
    attempts: tuple[Attempt, ...]


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
        entry = _ENTRY.validate_json(line)
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
        if file.tell() and _last_byte(path) != b"\n":
            raise IntegrityError(f"{path} ends in half a line: a write was cut. {_restore(path)}")
        file.write(dumps(entry.as_dict()).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def state(entries: Iterable[Entry]) -> LedgerState:
    """Replay of the lines; a version that changes its bytes or was never promoted raises IntegrityError."""
    champion = previous = None
    versions: dict[int, Promotion] = {}
    attempts = []
    for entry in entries:
        if isinstance(entry, Attempt):
            attempts.append(entry)
        elif isinstance(entry, Promotion):
            _same_bytes(versions.setdefault(entry.version, entry), entry)
            champion, previous = entry, champion
        elif isinstance(entry, Rollback):
            if entry.version not in versions:
                raise IntegrityError(
                    f"the ledger rolls {entry.adapter} back to version {entry.version}, which no line before it promotes. "
                    f"{_restore('ledger/' + entry.adapter + '.jsonl')}"
                )
            _same_bytes(versions[entry.version], entry)
            champion, previous = versions[entry.version], champion
    return LedgerState(champion, previous, versions, tuple(attempts))


def _same_bytes(known: Promotion, entry: Promotion | Rollback) -> None:
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


def promote_line(entries: Sequence[Entry], *, digest: str, version: int, tag: str, at: str) -> Promotion:
    """The line that makes this candidate champion, or why not.

    Its newest attempt decides: no passed verdict on these bytes is RejectedError; a champion other than the one it was
    judged against is StaleError; the serving bytes themselves are NothingToDo. Bytes that served and were rolled back come
    back by a rollback alone, which is a person's word: RejectedError.
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
    if not attempt.promote or attempt.status != "passed":
        raise RejectedError(f"the verdict on {digest[:12]} is {attempt.status}: {attempt.why}")
    if attempt.champion != (now.champion.digest if now.champion else None):
        raise StaleError(_stale(attempt, now))
    if version in now.versions:
        raise IntegrityError(f"version {version} is {now.versions[version].digest[:12]} in the ledger, not {digest[:12]}")
    return Promotion(
        at=at, adapter=attempt.adapter, version=version, digest=digest, commit=attempt.commit, tag=tag,
        replaces=now.champion.version if now.champion else None,
    )  # fmt: skip


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


def rollback_line(entries: Sequence[Entry], *, adapter: str, version: int | None, reason: str, at: str) -> Rollback:
    """The line that puts an earlier version back (null: the one that served before); only one that served can come back."""
    now = state(entries)
    if now.champion is None:
        raise NothingToDo(f"{adapter} has no champion: nothing to roll back")
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


def describe(entry: Entry) -> str:
    """One ledger line as a sentence."""
    if isinstance(entry, Attempt):
        return f"{entry.at} attempt at {entry.end}: {entry.status}: {entry.why}"
    if isinstance(entry, Promotion):
        return f"{entry.at} promoted {entry.tag}" + (f", in place of v{entry.replaces}" if entry.replaces else "")
    if isinstance(entry, Rollback):
        return f"{entry.at} from v{entry.from_version} to v{entry.version}: {entry.reason}"
    if isinstance(entry, Release):
        return f"{entry.at} released from quarantine: {entry.id}: {entry.reason}"
    if isinstance(entry, Suite):
        return f"{entry.at} suites changed: {changed(entry)}: {entry.reason}"
    if isinstance(entry, Approval):
        return f"{entry.at} synthetic rows approved: recipe {entry.recipe}: {entry.reason}"
    if isinstance(entry, Erasure):
        used = f"v{', v'.join(map(str, entry.versions))} used them" if entry.versions else "no version used them"
        return f"{entry.at} {erased(entry)} ({used}): {entry.reason}"
    return f"{entry.at} label admitted: {entry.label} ({entry.rows} rows)"


def erased(entry: Erasure) -> str:
    return f"{entry.rows} row{'' if entry.rows == 1 else 's'} erased on {entry.at[:10]}, no longer reproducible"


def erasures(entries: Iterable[Entry], digest: str | None) -> list[Erasure]:
    """The erasures of rows that the adapter with this digest learned."""
    return [entry for entry in entries if isinstance(entry, Erasure) and digest in entry.candidates]


def owed(entries: Sequence[Entry]) -> list[Erasure]:
    """The erasures for which a retraining is due: what serves has learned the rows."""
    champion = state(entries).champion
    return erasures(entries, champion.digest) if champion else []


def changed(entry: Suite) -> str:
    words = {"add": "added to golden", "relabel": "given another answer", "retire": "retired"}
    return f"{entry.rows} row{'s' if entry.rows > 1 else ''} {words[entry.change]}"


def suite_changes(entries: Sequence[Entry], digest: str | None) -> int:
    """How many rows of the suites had been changed when the adapter with this digest was judged."""
    judged_at = next((i for i, e in enumerate(entries) if isinstance(e, Attempt) and e.digest == digest), 0)
    return sum(entry.rows for entry in entries[:judged_at] if isinstance(entry, Suite))
