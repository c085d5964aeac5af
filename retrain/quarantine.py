"""Rows that were kept out of training: which come in new, which stay out, and which a person has let go.

data/quarantine/<adapter>/<end>.jsonl is written once, beside the collection of that end; a release is a line of the ledger.
Whatever is there once stays out until it is released, also where a later collection would find nothing wrong with it.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrain import jobs, ledger
from retrain.errors import NothingToDo, ParamsError, RejectedError
from retrain.records import Example, Quarantined, read_folder, read_records
from retrain.workspace import Clone, Workspace

NEVER = {
    "form": "it would train nothing: mend the correction in the log store, and the next collection takes it",
    "personal_data": "its content was not kept, for what searches it failed: mend the cause, and the next collection takes it",
}


@dataclass(frozen=True)
class Settled:
    """What a collection takes, what it adds to the quarantine, and how many rows stay out in all."""

    rows: list[Example]
    new: list[Quarantined]
    out: int


@dataclass(frozen=True)
class Listed:
    """A row of the quarantine, with the reason of the person who let it go, if one did."""

    row: Quarantined
    released: str | None


def folder_of(adapter: str) -> str:
    return f"data/quarantine/{adapter}"


def read(root: Path, adapter: str) -> list[Quarantined]:
    """All rows, by file name; a workspace without the folder has none."""
    files = sorted((Path(root) / folder_of(adapter)).glob("*.jsonl"))
    return [row for path in files for row in read_records(path, Quarantined)]


def pull(clone: Clone, adapter: str) -> list[Quarantined]:
    """The rows as the remote has them."""
    clone.pull(pointer(clone, adapter))
    return read(clone.root, adapter)


def pointer(clone: Clone, adapter: str) -> list[str]:
    """Its .dvc file, where there is one."""
    path = f"{folder_of(adapter)}.dvc"
    return [path] if (clone.root / path).exists() else []


def settle(
    rows: Sequence[Example], found: Sequence[Quarantined], *, earlier: Sequence[Quarantined], released: Iterable[str],
    seen: set[tuple[str, str]],
) -> Settled:  # fmt: skip
    """What becomes of the rows and the suspects of a collection.

    `earlier` is the quarantine so far, `released` the ids that a person let go, `seen` (request id, answer) of what was
    collected before: a released row is collected once.
    """
    free = set(released)
    held = {row.id: row.kind for row in earlier if row.kind not in NEVER and row.id not in free}
    said = {row.id for row in rows if row.label_source == "human" and held.get(row.id) == "poisoning"}  # by a reviewer
    taken = {row.id: row for row in rows if row.id not in held or row.id in said}
    for one in (*earlier, *found):
        fresh = one.example and not all((origin.request_id, one.example.answer) in seen for origin in one.example.origins)
        if one.id in free and one.example and fresh:
            taken.setdefault(one.id, one.example)
    known = {(row.id, row.reason) for row in earlier}
    suspects = {(row.id, row.reason): row for row in found if row.id not in free}
    out = {row.id for row in suspects.values()} | {row.id for row in rows if row.id in held and row.id not in said}
    new = [suspects[key] for key in sorted(suspects) if key not in known]
    return Settled([taken[key] for key in sorted(taken)], new, len(out))


def listed(workspace: Workspace, adapter: str) -> list[Listed]:
    """The quarantine as the remote has it, oldest collection first."""
    workspace.params.adapter(adapter)
    reasons = ledger.released(jobs.entries(workspace, adapter))
    with workspace.clone(f"quarantine-{adapter}") as clone:
        return [Listed(row, reasons.get(row.id)) for row in pull(clone, adapter)]


def _contradicted(clone: Clone, adapter: str, row: Example) -> Example | None:
    """A collected row of the same question with another answer."""
    if (clone.root / f"data/failures/{adapter}.dvc").exists():
        clone.pull([f"data/failures/{adapter}.dvc"])
    held = read_folder(clone.root / "data" / "failures" / adapter)
    return next((one for one in held if one.key == row.key and one.answer != row.answer), None)


def release(workspace: Workspace, adapter: str, row: str, *, reason: str) -> Quarantined:
    """Let the next collection take a row, by a ledger line, committed and pushed.

    An unknown id or a blank reason is ParamsError, one of a kind that is never released or that contradicts what was collected
    RejectedError, one that was released before NothingToDo.
    """
    reason = ledger.reason_of(reason, "why this row may train", workspace.params.scrub)
    with jobs.job(workspace, adapter, "release") as clone:
        rows = {one.id: one for one in pull(clone, adapter)}
        if row not in rows:
            guess = "".join(f": did you mean {near!r}?" for near in difflib.get_close_matches(row, rows, n=1))
            raise ParamsError(f"{adapter} has no row {row!r} in quarantine{guess}; see `retrain quarantine list {adapter}`")
        one = rows[row]
        if one.kind in NEVER or one.example is None:
            raise RejectedError(f"{row} is kept out as {one.kind} ({one.reason}) and is never released: {NEVER[one.kind]}")

        if other := _contradicted(clone, adapter, one.example):
            raise RejectedError(
                f"{row} says {one.example.answer[:60]!r}, and {other.id} was collected with {other.answer[:60]!r} for this "
                "question: neither would train. Take that one out: "
                f"`retrain data erase --request {other.origins[0].request_id}`"
            )

        def write(clone: Clone) -> None:
            if row not in ledger.released(ledger.read(clone.root, adapter)):
                line = ledger.Release(at=jobs.now(), adapter=adapter, id=row, reason=reason)
                ledger.append(clone.root, adapter, line)
                clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: released from quarantine: {row}")

        known = ledger.released(ledger.read(clone.root, adapter)).get(row)
        if known is not None:
            raise NothingToDo(f"{row} was released before: {known}")
        write(clone)
        clone.publish(write, tries=jobs.TRIES)
        return one
