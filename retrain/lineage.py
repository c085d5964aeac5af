"""From a dataset version to its rows, from an adapter version to what it learned, from a user to the adapters that learned.

A dataset version is a commit that changed an adapter's seed, failures or suites. Everything is read from git and the DVC
cache or remote, at the head of the remote's branch; the checkout of a person plays no part.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from retrain import jobs, ledger, overlay, tombstones
from retrain.errors import DataError, ParamsError
from retrain.objects import GoneError
from retrain.process import git, try_git
from retrain.rows import Row, as_judged, difference, row_of
from retrain.store import Blob, Store
from retrain.userids import LACKING, UserIds
from retrain.workspace import Workspace

LEFT = "data/lineage/{}"  # where the rows of a version came from, once it is no longer reproducible
PARTS = {"seed": "data/seed/{}.jsonl", "failures": "data/failures/{}", "suites": "data/suites/{}"}
TAG = re.compile(r"(.+)-v([1-9]\d{0,8})")


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
    return [Version(*line.split("\0")) for line in text.split("\n") if line]


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


def rows_at(store: Store, adapter: str, commit: str, parts: Collection[str] = tuple(PARTS)) -> list[Row]:
    """Every row of a dataset version, by part, file and line; `parts` are keys of PARTS."""
    found: list[Row] = []
    changes: list[overlay.Change] = []
    for part in parts:
        path = PARTS[part].format(adapter)
        for name, blob in sorted(store.files(commit, path).items()):
            file = f"{path}/{name}" if name else path
            if file.endswith(".jsonl"):
                found += _rows(store, blob, _part(part, name), file)
            elif part == "suites" and name == overlay.FILE:
                changes = overlay.parse(json.loads(store.read(blob)), file)
    return as_judged(found, changes, f"{PARTS['suites'].format(adapter)}/{overlay.FILE}") if changes else found


def _part(part: str, name: str) -> str:
    if part != "suites":
        return part
    return "audit" if name.startswith("audit/") else "golden"


def _rows(store: Store, blob: Blob, part: str, file: str) -> list[Row]:
    return [row_of(row, part, file) for row in store.rows(blob)]


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
    digest: str
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
    """The rows that trained the candidate of an attempt's commit; GoneError where nobody has them any more.

    Of a version that used rows which were erased since, an erasure has left where its other rows came from, without text.
    """
    files = store.out(commit, f"prepare@{adapter}", f"out/{adapter}/data")
    if "train.jsonl" not in files:
        raise DataError(f"dvc.lock of commit {commit[:12]} has no out/{adapter}/data/train.jsonl: not a commit of a retraining")
    blob, place = files["train.jsonl"], LEFT.format(adapter)
    try:
        return _rows(store, blob, "train", f"out/{adapter}/data/train.jsonl")
    except GoneError:
        left = store.files(head(store.workspace), place).get(f"{blob.id}.jsonl")
        if left is None:
            raise
        return _rows(store, left, "train", f"{place}/{blob.id}.jsonl")


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
                found.append(Learned(adapter, name, attempt.digest, line.version if line else None, serves, rows))
    return found, unknown


def of_user(workspace: Workspace, user: str) -> Callable[[Row], bool]:
    """Whether a row came from this user, whose id rows hold as a keyed hash, or of old as it is.

    ParamsError where the workspace has no key: whose a row is cannot be told then.
    """
    secret = UserIds.of(workspace).key
    if secret is None:
        raise ParamsError(f"whose a row is cannot be told: {LACKING}")
    names = {user, tombstones.keyed(secret, user)}
    return lambda row: any(origin.get("user") in names for origin in row.origins)


def erased(workspace: Workspace, adapter: str, digest: str | None = None) -> list[str]:
    """What was erased of an adapter's rows (with a digest: of those that it learned), in words."""
    lines = entries(workspace, adapter)
    found = ledger.erasures(lines, digest) if digest else [line for line in lines if isinstance(line, ledger.Erasure)]
    tags = {line.version: line.tag for line in ledger.state(lines).versions.values()}
    return [f"{ledger.erased(line)}: {', '.join(tags[v] for v in line.versions) or 'no version'} used them" for line in found]


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
