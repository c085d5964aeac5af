"""Collect labelled failure cases into the next dataset version: one immutable file, and what was kept out beside it, pushed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring import failures
from monitoring.selection import Selector
from retrain import expectations, jobs, ledger, quarantine, review, tombstones
from retrain.answers import schema_of
from retrain.door import Door
from retrain.errors import DataError, NothingToDo, ParamsError
from retrain.params import load
from retrain.records import Example, Quarantined, read_examples, stamp, write_jsonl
from retrain.userids import open_logs
from retrain.workspace import Clone, Workspace


@dataclass(frozen=True)
class Collected:
    """What a collection brought; `file` is relative to the workspace, `fresh` is False where it was there already."""

    end: str
    file: str
    rows: int
    new_labels: dict[str, tuple[int, int]]  # label -> (rows, users)
    waiting: int
    quarantined: int
    fresh: bool = True


def collect(workspace: Workspace, adapter: str, end: datetime) -> Collected:
    """Labelled failure cases known before `end` that no earlier file holds become one immutable file, pushed.

    What is kept out stands in data/quarantine/<adapter>/ with the reason, in the same commit; what a person released from
    there is taken.
    """
    at = stamp(end)
    name = f"data/failures/{adapter}/{at}.jsonl"
    with jobs.job(workspace, adapter, "collect") as clone:
        folder = clone.root / "data" / "failures" / adapter
        door = Door.of(clone, adapter, before=at)
        files = sorted(folder.glob("*.jsonl"))
        if files and files[-1].stem > at:
            raise ParamsError(f"{adapter} was collected up to {files[-1].stem}, {at} is before that: collections never go back")
        params = load(clone.root).of(adapter)  # as the remote has it: the checkout may be behind
        logs = open_logs(workspace, params, adapter)
        known = logs.known(end)
        earlier = [row for path in files if path.stem < at for row in read_examples(path)]
        seen = {(origin.request_id, row.answer) for row in earlier for origin in row.origins}
        spec = params.adapter(adapter)
        labels, schema = spec.labels, schema_of(clone.root, spec)
        made = failures.failure_cases(
            known, audit_rate=params.failures.audit_rate, labels=labels, seen=seen, collected=at, schema=schema, doubt=door,
            source=door.source,
            selector=Selector.of(params.failures, labels, schema, review.doubted(workspace, params, adapter)),
            reviewed=review.known(workspace, adapter, logs, end),
        )  # fmt: skip
        earlier_out = quarantine.pull(clone, adapter)
        released = door.let_through(earlier_out)
        taken = [*made.examples, *made.held]
        settled = quarantine.settle(taken, made.quarantined, earlier=earlier_out, released=released, seen=seen)
        erased = tombstones.read(clone.root, workspace.root)
        rows, new = erased.without(settled.rows), [one for one in settled.new if not erased.cover_quarantined(one)]
        result = Collected(at, name, len(rows), dict(made.new_labels), made.waiting, settled.out)
        if (folder / f"{at}.jsonl").exists():
            old = read_examples(folder / f"{at}.jsonl")
            return Collected(at, name, len(old), result.new_labels, result.waiting, result.quarantined, fresh=False)
        if rows:
            _check(rows, labels)
        if rows or new:
            clone.publish(_writer(clone, workspace.root, adapter, at, rows, new, labels), tries=jobs.TRIES)
        if not rows:
            wait = f"{made.waiting} wait for a label, {settled.out} are in quarantine"
            raise NothingToDo(f"{adapter}: no new labelled failure case is known before {at} ({wait})")
        return result


def _check(rows: list[Example], labels: tuple[str, ...]) -> None:
    checked = expectations.check_examples(rows, labels=tuple({*labels, *(row.answer for row in rows)}) if labels else ())
    if not checked.passed:
        raise DataError("the collection does not pass its expectations: " + "; ".join(checked.failures))


def _writer(
    clone: Clone, home: Path, adapter: str, at: str, found: list[Example], suspects: list[Quarantined], labels: tuple[str, ...]
) -> Callable[[Clone], None]:  # fmt: skip
    """Writes and commits the files now, and is what a refused push does again."""

    def write(clone: Clone) -> None:
        erased = tombstones.read(clone.root, home)  # perhaps since this began
        rows, out = erased.without(found), [one for one in suspects if not erased.cover_quarantined(one)]
        kept: dict[str, list[Any]] = {f"data/failures/{adapter}": rows, quarantine.folder_of(adapter): out}
        folders = [folder for folder, found in kept.items() if found]
        for folder in folders:
            path = clone.root / folder / f"{at}.jsonl"
            if not path.exists():
                write_jsonl(path, kept[folder])
        told = f"{adapter}: {len(out)} rows quarantined, known before {at}"
        told = _message(adapter, at, rows, labels) + (f"\nquarantined: {len(out)}" if out else "") if rows else told
        if folders:
            clone.commit(clone.dvc_add(*folders), told)

    write(clone)
    return write


def _message(adapter: str, at: str, rows: list[Example], labels: tuple[str, ...]) -> str:
    """The subject is what `projections` reads; below it what the rows are, and nothing that a user wrote: git keeps it."""
    users = {origin.user or origin.request_id for row in rows for origin in row.origins}
    requests = sum(len(row.origins) for row in rows)
    lines = [f"{adapter}: {len(rows)} failure cases known before {at}", "", f"{requests} requests of {len(users)} users"]
    told = Counter(row.answer if row.answer in labels else "not listed" for row in rows) if labels else Counter()
    lines += [f"{label}: {n}" for label, n in told.most_common()]
    return "\n".join(lines)


def new_labels(workspace: Workspace, adapter: str) -> dict[str, tuple[int, int]]:
    """Label -> (rows, users) of all corrections so far whose label the adapter does not list."""
    params = jobs.remote_params(workspace).of(adapter)
    labels = params.adapter(adapter).labels
    if not labels:
        raise ParamsError(f"{adapter} is a {params.adapter(adapter).task} adapter: it has no labels")
    logs, now = open_logs(workspace, params, adapter), datetime.now(UTC)
    made = failures.failure_cases(
        logs.known(now), audit_rate=params.failures.audit_rate, labels=labels, seen=set(), collected="",
        reviewed=review.known(workspace, adapter, logs, now),
    )  # fmt: skip
    return made.new_labels


def collect_what_there_is(workspace: Workspace, adapter: str, end: datetime) -> str:
    """`collect` for a retraining, which goes on without new failure cases; what it came to, as a sentence."""
    try:
        made = collect(workspace, adapter, end)
    except NothingToDo as nothing:
        return str(nothing)
    except DataError as error:
        if ledger.state(jobs.entries(workspace, adapter)).champion:
            raise
        return f"before there is a champion nothing has to be collected ({error})"
    return f"{made.rows} failure cases in {made.file}, {made.waiting} wait for a label, {made.quarantined} quarantined"
