"""A new version of the suites, by a person and with a reason, for when the truth itself has changed.

Files of suites never change: what changes is `overlay`, through an ephemeral clone, with a line in the ledger.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from retrain import ledger, overlay
from retrain.answers import misfit, schema_of
from retrain.errors import DataError, NothingToDo, ParamsError
from retrain.jobs import TRIES, job, now, remote_params
from retrain.overlay import Change
from retrain.records import Example, read_examples, read_folder, read_jsonl
from retrain.scrub import Scrubber
from retrain.text import is_text
from retrain.workspace import Clone, Workspace

Made = Callable[[Clone], list[Change]]  # the changes, given the suites as the remote has them now


def read_rows(path: Path) -> list[Example]:
    """Golden rows of a JSONL file: {"messages": [...]}, or {"question": ..., "answer": ...}; DataError names file and row."""
    rows: list[Example] = []
    for number, row in enumerate(read_jsonl(path), 1):
        if {"question", "answer"} <= set(row):
            row = {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        try:
            rows.append(Example.model_validate({"label_source": "human", **row, "source": "golden", "id": ""}))
        except ValidationError as error:
            raise DataError(f"{path}, row {number}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    if not rows:
        raise DataError(f"{path} holds no rows: a JSON object a line, with messages, or with question and answer")
    return rows


def add(workspace: Workspace, adapter: str, rows: Sequence[Example], *, reason: str) -> int:
    """Rows become golden; those that are golden already are left out, NothingToDo where that is all. How many were added.

    Personal data becomes placeholders. A question that is golden with another answer is refused: relabel it.
    """

    def made(clone: Clone) -> list[Change]:
        known = {row.key: row for row in _golden(clone, adapter)}
        other = next((row for row in rows if row.key in known and known[row.key].answer != row.answer), None)
        if other:
            held = known[other.key]
            raise DataError(
                f"{other.question[:60]!r} is golden with the answer {held.answer[:60]!r}: "
                f"`retrain suite relabel {adapter} {held.id} ...` changes that"
            )
        new = {row.key: row for row in rows if row.key not in known}
        return [Change(at=now(), kind="add", reason=reason, row=row) for row in new.values()]

    scrubber = Scrubber(workspace.params.of(adapter).scrub)
    rows = [scrubber.example(row)[0] for row in rows]
    answers: dict[str, Example] = {}
    for row in rows:
        _answerable(workspace, adapter, row)
        first = answers.setdefault(row.key, row)
        if first.answer != row.answer:
            both = f"{first.answer[:60]!r} and {row.answer[:60]!r}"
            raise DataError(f"{row.question[:60]!r} has two answers, {both}: keep the right one; nothing was added")
    return _change(workspace, adapter, "add", reason, made)


def relabel(workspace: Workspace, adapter: str, row_id: str, answer: str, *, reason: str) -> int:
    """The row judges by another answer from now on, in every suite that holds it; NothingToDo where it does already."""

    def made(clone: Clone) -> list[Change]:
        row = _row(clone, adapter, row_id)
        new = overlay.relabelled(row, answer)
        if new.id == row.id:
            return []
        return [Change(at=now(), kind="relabel", reason=reason, id=row.id, answer=answer, new=new.id)]

    _answerable(workspace, adapter, Example.of("any", answer, source="golden") if answer.strip() else None)
    if found := Scrubber(workspace.params.of(adapter).scrub).kinds(answer):
        raise DataError(f"the answer holds what looks like {', '.join(found)}: write the placeholder that the question shows")
    return _change(workspace, adapter, "relabel", reason, made)


def retire(workspace: Workspace, adapter: str, ids: Sequence[str], *, reason: str) -> int:
    """The rows judge no more, in no suite; NothingToDo where none of them does."""

    def made(clone: Clone) -> list[Change]:
        gone: set[str | None] = set()
        for change in overlay.read(_folder(clone, adapter)):  # in order: a retired row may have been added again
            gone = gone | {change.id} if change.kind == "retire" else gone - {change.row.id if change.row else None}
        rows = {row.id: row for row_id in ids if row_id not in gone for row in [_row(clone, adapter, row_id)]}
        return [Change(at=now(), kind="retire", reason=reason, id=found) for found in rows]

    return _change(workspace, adapter, "retire", reason, made)


def _answerable(workspace: Workspace, adapter: str, row: Example | None) -> None:
    """What no candidate could answer rightly judges none."""
    if row is None:
        raise DataError("the answer is blank: give the right one, or retire the row")
    if not all(is_text(message.content) for message in row.messages):
        raise DataError(f"{row.question[:60]!r} is not UTF-8 text")
    spec = remote_params(workspace).adapter(adapter)
    why = misfit(row.answer, schema_of(workspace.root, spec))
    if why:
        raise DataError(f"{row.question[:60]!r}: {why}")
    listed = spec.labels
    if listed and row.answer not in listed:
        raise DataError(f"{adapter} does not list the label {row.answer[:60]!r}: it has {', '.join(listed)}")


def _folder(clone: Clone, adapter: str) -> Path:
    return clone.root / "data" / "suites" / adapter


def _golden(clone: Clone, adapter: str) -> list[Example]:
    folder = _folder(clone, adapter)
    path = folder / "golden.jsonl"
    return overlay.golden(read_examples(path) if path.exists() else [], overlay.read(folder))


def _row(clone: Clone, adapter: str, row_id: str) -> Example:
    """The row with this id as it judges now, of any suite; failures and seed judge too, by the share that is held back."""
    folder, changes = _folder(clone, adapter), overlay.read(_folder(clone, adapter))
    seed = clone.root / "data" / "seed" / f"{adapter}.jsonl"
    others = [*read_folder(folder / "audit"), *read_folder(clone.root / "data" / "failures" / adapter)]
    others += read_examples(seed) if seed.exists() else []
    found = next((row for row in [*_golden(clone, adapter), *overlay.applied(others, changes)] if row.id == row_id), None)
    if found is None:
        raise ParamsError(f"no row {row_id} judges {adapter}: `retrain data show {adapter} --all` lists them with their ids")
    return found


def _change(workspace: Workspace, adapter: str, kind: str, reason: str, made: Made) -> int:
    """Write the changes and a ledger line in a clone, commit, push; how many rows were changed."""
    reason = ledger.reason_of(reason, "why the truth has changed", workspace.params.scrub)
    counted = 0
    data = [f"data/seed/{adapter}.jsonl.dvc", f"data/suites/{adapter}.dvc", f"data/failures/{adapter}.dvc"]
    with job(workspace, adapter, "suite") as clone:

        def write(clone: Clone) -> None:
            nonlocal counted
            clone.pull(path for path in data if (clone.root / path).exists())
            changes, folder = made(clone), _folder(clone, adapter)
            counted = len(changes)
            if not changes:
                return
            overlay.write(folder, [*overlay.read(folder), *changes])
            line = ledger.Suite(at=now(), adapter=adapter, change=kind, rows=counted, reason=reason)  # type: ignore[arg-type]
            ledger.append(clone.root, adapter, line)
            paths = [*clone.dvc_add(f"data/suites/{adapter}"), f"ledger/{adapter}.jsonl"]
            clone.commit(paths, f"{adapter}: suites changed: {ledger.changed(line)}: {reason}")

        write(clone)
        if not counted:
            raise NothingToDo(f"the suites of {adapter} are so already: nothing was changed")
        clone.publish(write, tries=TRIES)
    return counted
