"""When the truth itself changed: rows added to golden, given another answer, or retired, over files that never change. PURE
but for `read` and `write`.

data/suites/<adapter>/changes.json holds the changes in order; `prepare` applies them and freezes the file beside the suites
as they judge. A change never trains anything.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from retrain.errors import DataError
from retrain.records import Example, Record, read_json, write_json

FILE = "changes.json"
WORDS = {
    "add": "added to golden",
    "relabel": "given another answer",
    "retire": "retired",
    "erased": "changed, and erased since",
}


class Change(Record):
    """One row changed; `at` is an ISO 8601 instant. An erased change keeps its place and nothing else."""

    at: str
    kind: Literal["add", "relabel", "retire", "erased"]
    reason: str
    id: str | None = None  # relabel, retire: the row as it was then
    answer: str | None = None  # relabel ...
    new: str | None = None  # ... and the id that the row has by it
    row: Example | None = None  # add


def read(folder: Path) -> list[Change]:
    """The changes of a folder of suites, oldest first; no file: none."""
    path = Path(folder) / FILE
    return parse(read_json(path), str(path)) if path.exists() else []


def parse(data: Any, where: str) -> list[Change]:
    """The changes of a file's JSON; DataError where it is none of ours."""
    try:
        return [Change.model_validate(change) for change in data["changes"]]
    except (ValidationError, KeyError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise DataError(f"{where} is no list of changes ({why}): restore it, `retrain suite` alone writes it") from error


def write(folder: Path, changes: Sequence[Change]) -> None:
    write_json(Path(folder) / FILE, {"schema": 1, "changes": [change.as_dict() for change in changes]})


def golden(rows: Sequence[Example], changes: Sequence[Change]) -> list[Example]:
    """The golden rows as they judge: with what was added, in place of what was relabelled, without what was retired."""
    added = [_last(change.row, changes[n + 1 :]) for n, change in enumerate(changes) if change.row]
    return [*applied(rows, changes), *(row for row in added if row)]


def applied(rows: Iterable[Example], changes: Sequence[Change]) -> list[Example]:
    """Rows of any suite as they judge; a relabelled row has a new id, and later changes name it by that."""
    return [kept for row in rows if (kept := _last(row, changes))]


def _last(row: Example, changes: Sequence[Change]) -> Example | None:
    for change in changes:
        if change.id == row.id and change.kind == "retire":
            return None
        if change.id == row.id and change.kind == "relabel":
            row = relabelled(row, change.answer or "")
    return row


def relabelled(row: Example, answer: str) -> Example:
    messages = [*(message.model_dump() for message in row.messages[:-1]), {"role": "assistant", "content": answer}]
    return Example.model_validate({**row.model_dump(exclude={"id", "messages", "schema_"}), "messages": messages})


def since(changes: Sequence[Change], known: int) -> list[str]:
    """What was changed after the first `known` changes, a line for each kind and reason."""
    counted = Counter((change.kind, change.reason) for change in changes[known:])
    return [f"{n} row{'s' if n > 1 else ''} {WORDS[kind]} ({reason})" for (kind, reason), n in counted.items()]
