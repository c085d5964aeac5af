"""PURE: rows of any version as they are told, counted and compared, whatever schema they were written with."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrain import overlay
from retrain.records import content_id, from_stamp


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


def row_of(row: dict[str, Any], part: str, file: str) -> Row:
    """A JSON line as a row; what it lacks is empty."""
    messages = [m for m in _list(row, "messages") if isinstance(m, dict)] or [{}]
    asked = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), None)
    label_source = str(row.get("label_source", "human"))
    reasons = _list(row, "reasons") or [label_source]
    return Row(
        id=_id(row),
        part=part,
        file=file,
        question=str(asked or ""),
        answer=str(messages[-1].get("content") or ""),
        source=str(row.get("source", "")),
        label_source=label_source,
        reasons=tuple(map(str, reasons)),
        origins=tuple(origin for origin in _list(row, "origins") if isinstance(origin, dict)),
    )


def _list(row: dict[str, Any], name: str) -> list[Any]:
    found = row.get(name)
    return found if isinstance(found, list) else []


def _id(row: dict[str, Any]) -> str:
    """Files that people write have no ids: the content gives it."""
    if row.get("id"):
        return str(row["id"])
    turns = [(str(m.get("role")), str(m.get("content"))) for m in _list(row, "messages") if isinstance(m, dict)]
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


def as_judged(rows: Sequence[Row], changes: Sequence[overlay.Change], file: str) -> list[Row]:
    """Golden and audited rows as they judge now."""
    judging = [_last(row, changes) if row.part in ("golden", "audit") else row for row in rows]
    added = [row_of(row.as_dict(), "golden", file) for row in overlay.golden([], changes)]
    return [*(row for row in judging if row), *added]


def _last(row: Row, changes: Sequence[overlay.Change]) -> Row | None:
    for change in changes:
        if change.id == row.id and change.kind == "retire":
            return None
        if change.id == row.id and change.new:
            row = replace(row, id=change.new, answer=change.answer or "")
    return row


def collected(row: Row) -> list[str]:
    """The collections that brought it, as stamps, oldest first."""
    stamps = {str(origin["collected"]) for origin in row.origins if origin.get("collected")}
    return sorted(stamps, key=from_stamp)
