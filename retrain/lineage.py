"""From a dataset version to its rows, from an adapter version to what it learned, from a user to the adapters that learned.

A dataset version is a commit that changed an adapter's seed, failures or suites. Everything is read from git and the DVC
cache or remote, at the head of the remote's branch; the checkout of a person plays no part.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrain import jobs, ledger, overlay
from retrain.errors import DataError, ParamsError
from retrain.objects import GoneError
from retrain.process import git, try_git
from retrain.records import from_stamp
from retrain.store import Blob, Store
from retrain.workspace import Workspace

PARTS = {"seed": "data/seed/{}.jsonl", "failures": "data/failures/{}", "suites": "data/suites/{}"}
TAG = re.compile(r"(.+)-v([1-9]\d{0,8})")


@dataclass(frozen=True)
class Row:
    """One row of a version; `part` is seed, failures, golden or audit (or train: as an adapter learned it)."""

    id: str
    part: str
    file: str
    question: str
    answer: str
    source: str
    label_source: str
    reasons: tuple[str, ...]
    origins: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons), "origins": list(self.origins)}


@dataclass(frozen=True)
class Version:
    """A dataset version: its commit, when (ISO 8601), and the commit's subject."""

    commit: str
    at: str
    subject: str


def head(workspace: Workspace) -> str:
    """The remote's branch, or where params name no remote what is checked out."""
    return workspace.remote_head() if workspace.params.workspace.remote else git(workspace.root, "rev-parse", "HEAD")


def entries(workspace: Workspace, adapter: str) -> list[ledger.Entry]:
    named = workspace.params.workspace.remote
    return jobs.entries(workspace, adapter) if named else ledger.read(workspace.root, adapter)


# --- dataset versions


def versions(workspace: Workspace, adapter: str, upto: str | None = None) -> list[Version]:
    """All dataset versions up to a commit (default: the newest), oldest first."""
    workspace.params.adapter(adapter)
    paths = [path.format(adapter) for path in PARTS.values()]
    asked = ["--", *paths, *(f"{path}.dvc" for path in paths)]
    text = git(workspace.root, "log", "--reverse", "--format=%H%x00%cI%x00%s", upto or head(workspace), *asked)
    return [Version(*line.split("\0")) for line in text.splitlines() if line]


def find(workspace: Workspace, adapter: str, name: str | None) -> Version:
    """The version that a commit, a tag such as support-v2 or a collection's stamp names; None: the newest.

    A commit that changed no data is the version that it holds. ParamsError where nothing is called so.
    """
    known = versions(workspace, adapter)
    if not known:
        raise DataError(f"{adapter} has no dataset version: no commit holds {PARTS['seed'].format(adapter)}")
    if name is None:
        return known[-1]
    exact = [v for v in known if re.fullmatch(r"[0-9a-f]{4,40}", name) and v.commit.startswith(name)]
    exact = exact or [v for v in known if v.subject.endswith(f" {name}")]
    if len(exact) > 1:
        raise ParamsError(f"{name} names {len(exact)} dataset versions of {adapter}: give more digits of the commit")
    commit = exact[0].commit if exact else _commit_of(workspace, adapter, name)
    held = versions(workspace, adapter, commit) if commit else []
    if not held:
        raise ParamsError(
            f"{name!r} is no dataset version of {adapter}: give a commit, a version such as {adapter}-v1, or the stamp of a "
            f"collection; `retrain data log {adapter}` lists them"
        )
    return held[-1]


def _commit_of(workspace: Workspace, adapter: str, name: str) -> str | None:
    tagged = TAG.fullmatch(name)
    if tagged and tagged[1] == adapter:
        return promoted(workspace, name).commit
    if not re.fullmatch(r"[0-9a-f]{4,40}|HEAD", name):
        return None
    found = try_git(workspace.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return found.stdout.strip() or None


def rows_at(store: Store, adapter: str, commit: str) -> list[Row]:
    """Every row of a dataset version, by part, file and line."""
    found: list[Row] = []
    changes: list[overlay.Change] = []
    for part, form in PARTS.items():
        path = form.format(adapter)
        for name, blob in sorted(store.files(commit, path).items()):
            file = f"{path}/{name}" if name else path
            if file.endswith(".jsonl"):
                found += _rows(store, blob, _part(part, name), file)
            elif part == "suites" and name == overlay.FILE:
                changes = overlay.parse(json.loads(store.read(blob)), file)
    return _changed(found, changes, f"{PARTS['suites'].format(adapter)}/{overlay.FILE}") if changes else found


def _changed(rows: list[Row], changes: Sequence[overlay.Change], file: str) -> list[Row]:
    """Golden and audited rows as they judge now."""
    judging = [_as_judged(row, changes) if row.part in ("golden", "audit") else row for row in rows]
    added = [row_of(row.as_dict(), "golden", file) for row in overlay.golden([], changes)]
    return [*(row for row in judging if row), *added]


def _as_judged(row: Row, changes: Sequence[overlay.Change]) -> Row | None:
    for change in changes:
        if change.id == row.id and change.kind == "retire":
            return None
        if change.id == row.id and change.new:
            row = replace(row, id=change.new, answer=change.answer or "")
    return row


def _part(part: str, name: str) -> str:
    if part != "suites":
        return part
    return "audit" if name.startswith("audit/") else "golden"


def _rows(store: Store, blob: Blob, part: str, file: str) -> list[Row]:
    return [row_of(row, part, file) for row in store.rows(blob)]


def row_of(row: dict[str, Any], part: str, file: str) -> Row:
    """A JSON line as a row; what it lacks is empty."""
    messages = row.get("messages") or [{}]
    asked = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), None)
    label_source = str(row.get("label_source", "human"))
    reasons = row.get("reasons") or [label_source]
    return Row(
        id=_id(row),
        part=part,
        file=file,
        question=str(asked or ""),
        answer=str(messages[-1].get("content") or ""),
        source=str(row.get("source", "")),
        label_source=label_source,
        reasons=tuple(map(str, reasons)),
        origins=tuple(origin for origin in row.get("origins") or () if isinstance(origin, dict)),
    )


def _id(row: dict[str, Any]) -> str:
    """Files that people write have no ids: the content gives it."""
    from retrain.records import content_id

    if row.get("id"):
        return str(row["id"])
    turns = [(str(m.get("role")), str(m.get("content"))) for m in row.get("messages") or () if isinstance(m, dict)]
    return content_id(turns)


def counts(rows: Sequence[Row], labels: bool) -> dict[str, dict[str, int]]:
    """Rows by part, source, reason and (where the answers are labels) label, the most first."""
    by = {"part": (r.part for r in rows), "source": (r.source for r in rows), "reason": (x for r in rows for x in r.reasons)}
    told: dict[str, Iterable[str]] = {**by, **({"label": (r.answer for r in rows)} if labels else {})}
    return {name: dict(Counter(values).most_common()) for name, values in told.items()}


@dataclass(frozen=True)
class Difference:
    """What one version holds and the other does not, by part and id; a row that changed its part came and went."""

    came: list[Row]
    went: list[Row]


def difference(old: Sequence[Row], new: Sequence[Row]) -> Difference:
    before, after = ({(row.part, row.id) for row in rows} for rows in (old, new))
    return Difference(_once(new, before), _once(old, after))


def _once(rows: Sequence[Row], other: set[tuple[str, str]]) -> list[Row]:
    return list({(row.part, row.id): row for row in rows if (row.part, row.id) not in other}.values())


def steps(workspace: Workspace, store: Store, adapter: str, n: int) -> list[dict[str, Any]]:
    """The last n versions, oldest first, each with its rows by part, what came and went, and the attempts made on it."""
    known = versions(workspace, adapter)
    used = _used(workspace, adapter, known)
    shown, found = known[-n:], []
    before = _held(store, adapter, known[-n - 1].commit) if len(known) > n else []
    for version in shown:
        rows = _held(store, adapter, version.commit)
        told: dict[str, Any] = {**vars(version), "rows": None, "came": None, "went": None, "used_by": used[version.commit]}
        if rows is not None:
            told["rows"] = dict(Counter(row.part for row in rows))
            if before is not None:
                changed = difference(before, rows)
                told |= {"came": len(changed.came), "went": len(changed.went)}
        found.append(told)
        before = rows
    return found


def _held(store: Store, adapter: str, commit: str) -> list[Row] | None:
    """None where nobody has the bytes any more."""
    try:
        return rows_at(store, adapter, commit)
    except GoneError:
        return None


def _used(workspace: Workspace, adapter: str, known: Sequence[Version]) -> dict[str, list[str]]:
    """Dataset version -> the attempts on it, as the tag they got or their end and status."""
    state = ledger.state(entries(workspace, adapter))
    tags = {line.digest: line.tag for line in state.versions.values()}
    found: dict[str, list[str]] = {version.commit: [] for version in known}
    for attempt in state.attempts:
        held = versions(workspace, adapter, attempt.commit)
        if held and held[-1].commit in found:
            found[held[-1].commit].append(tags.get(attempt.digest, f"{attempt.end} {attempt.status}"))
    return found


# --- what adapters learned


@dataclass(frozen=True)
class Learned:
    """An adapter version (or a candidate that was never promoted) and rows that it learned."""

    adapter: str
    name: str
    version: int | None
    serves: bool
    rows: list[Row]


def promoted(workspace: Workspace, name: str) -> ledger.Promotion:
    """The promotion of a version named as support-v2; ParamsError where there is none."""
    tagged = TAG.fullmatch(name)
    if not tagged or tagged[1] not in workspace.params.adapters:
        known = ", ".join(workspace.params.adapters)
        raise ParamsError(f"{name!r} names no adapter version: give one such as support-v2 (adapters: {known})")
    lines = ledger.state(entries(workspace, tagged[1])).versions
    if int(tagged[2]) not in lines:
        served = ", ".join(f"{tagged[1]}-v{number}" for number in sorted(lines)) or "none yet"
        raise ParamsError(f"{name} was never promoted; versions of {tagged[1]} that were: {served}")
    return lines[int(tagged[2])]


def trained(store: Store, adapter: str, commit: str) -> list[Row]:
    """The rows that trained the candidate of an attempt's commit; GoneError where nobody has them any more."""
    files = store.out(commit, f"prepare@{adapter}", f"out/{adapter}/data")
    if "train.jsonl" not in files:
        raise DataError(f"dvc.lock of commit {commit[:12]} has no out/{adapter}/data/train.jsonl: not a commit of a retraining")
    return _rows(store, files["train.jsonl"], "train", f"out/{adapter}/data/train.jsonl")


def learned(workspace: Workspace, store: Store, wanted: Callable[[Row], bool]) -> tuple[list[Learned], list[str]]:
    """(what each version and candidate of every adapter learned of the wanted rows, which of them cannot be looked at)."""
    found: list[Learned] = []
    unknown: list[str] = []
    for adapter in workspace.params.adapters:
        state = ledger.state(entries(workspace, adapter))
        versions_of = {line.digest: line for line in state.versions.values()}
        for attempt in {attempt.digest: attempt for attempt in state.attempts}.values():
            line = versions_of.get(attempt.digest)
            name = line.tag if line else f"{adapter}, candidate at {attempt.end} ({attempt.status})"
            try:
                rows = [row for row in trained(store, adapter, attempt.commit) if wanted(row)]
            except GoneError as error:
                unknown.append(f"{name}: {error}")
                continue
            serves = bool(line and state.champion and line.version == state.champion.version)
            if rows:
                found.append(Learned(adapter, name, line.version if line else None, serves, rows))
    return found, unknown


def of_user(user: str) -> Callable[[Row], bool]:
    """Whether a row came from this user."""
    return lambda row: any(origin.get("user") == user for origin in row.origins)


# --- one row


@dataclass(frozen=True)
class Found:
    """A row of an adapter: where it lies now, where it was first seen, and the log rows behind it."""

    adapter: str
    row: Row
    now: list[str]  # files that hold it at the head
    since: Version | None  # the dataset version that brought it
    until: Version | None  # the first one without it again


def find_row(workspace: Workspace, store: Store, start: str) -> list[Found]:
    """The row whose id begins so, in each adapter that has or had it; ParamsError where none has, or two differ."""
    if not re.fullmatch(r"[0-9a-f]{6,20}", start):
        raise ParamsError(f"{start!r} is no row id: 20 hex digits, or the first 6 and more of them")
    found = [one for adapter in workspace.params.adapters for one in _in_adapter(workspace, store, adapter, start)]
    ids = sorted({one.row.id for one in found})
    if not ids:
        raise ParamsError(f"no dataset version of {', '.join(workspace.params.adapters)} has a row {start}")
    if len(ids) > 1:
        raise ParamsError(f"{len(ids)} rows begin with {start}: {', '.join(ids[:4])}: give more digits")
    return found


def _in_adapter(workspace: Workspace, store: Store, adapter: str, start: str) -> list[Found]:
    row: Row | None = None
    now: list[str] = []
    since = until = None
    for version in versions(workspace, adapter):
        here = [one for one in _held(store, adapter, version.commit) or () if one.id.startswith(start)]
        if here:
            since, until, row = since or version, None, here[0]
        elif row is not None:
            until = until or version
        now = sorted({one.file for one in here})
    return [Found(adapter, row, now, since, until)] if row else []


def collected(row: Row) -> list[str]:
    """The collections that brought it, as stamps, oldest first."""
    stamps = {str(origin["collected"]) for origin in row.origins if origin.get("collected")}
    return sorted(stamps, key=from_stamp)
