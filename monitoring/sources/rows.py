"""Rows of a log table that nobody has fetched yet, and where they come from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import ibis
from pydantic import BaseModel, ConfigDict

from monitoring.sources.columns import Canon, Cell
from monitoring.sources.engines import Engine, md5
from monitoring.sources.mapping import COLUMNS, SECONDS, TIMES, TYPES
from monitoring.windows import Window
from retrain.errors import ParamsError
from retrain.text import is_text

if TYPE_CHECKING:
    import pandas as pd

WIDEST = timedelta(hours=16)  # no zone is further from UTC
MOST_SOURCE = 200  # characters of where a request came from
# Texts of a row in the order in which they are searched: what is said of a value in the first is said of it in the others, so
# the first are always searched together.
SPOKEN = ("prompt", "response", "correction", "audit_label")
TOLD = ("finish_reason", "messages", "metadata")
IDENTIFYING = ("user_id", "conversation_id")


@dataclass(frozen=True)
class Privacy:
    """What of a row may leave the engine: of IDENTIFYING, and of its texts (retrain.scrub). None: as it is logged."""

    users: Callable[[Any], str | None] | None = None
    scrub: Callable[[list[dict[str, Any]]], Sequence[Any]] | None = None


@dataclass(frozen=True)
class Unsearched:
    """A row whose content is not to be kept, for what searches it for personal data failed; never what it says."""

    request_id: str
    where: str | None  # file:line
    reason: str


@dataclass(frozen=True)
class Fetched:
    """Rows that were fetched, and those of them that are missing."""

    frame: "pd.DataFrame"
    unsearched: tuple[Unsearched, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """The rows as dicts, missing values as None."""
        kept = self.frame.astype(object)
        return _records(kept.where(kept.notna(), None))


RAW = Privacy()


class BadRow(BaseModel):
    """Where a row that cannot be used stands, and why; never what it says. Line 0: the whole file, or a database."""

    model_config = ConfigDict(frozen=True)
    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Part:
    """A raw table and its cells; cells None: its columns are ours already."""

    raw: Any
    cells: dict[str, list[Cell]] | None


@dataclass(frozen=True)
class Source:
    """Parts on one engine that together are a table; tails are what is not whole yet."""

    engine: Engine
    canon: Canon
    parts: list[Part]
    tails: tuple[BadRow, ...] = ()

    def scan(self, near: tuple[datetime, datetime] | None = None) -> Any:
        """file, line, columns, bad and reason of all rows; near: rows far outside [start, end) may be left out."""
        tables = [self._scan(part, near) for part in self.parts]
        return tables[0] if len(tables) == 1 else ibis.union(*tables)

    def _scan(self, part: Part, near: tuple[datetime, datetime] | None) -> Any:
        if part.cells is None:
            return part.raw
        raw = part.raw
        if near is not None and (hint := _hint(part.cells.get("timestamp", []), *near)) is not None:
            raw = raw.filter(hint)
        return raw.select(file=raw.file, line=raw.line, **self.canon.columns(part.cells))

    def count(self) -> int:
        return sum(int(self.engine.run(part.raw.count())) for part in self.parts)


def _hint(times: list[Cell], start: datetime, end: datetime) -> Any | None:
    """A bound on the raw column of times, which its store can use to skip data; None where there is none."""
    if len(times) != 1 or times[0].loose:
        return None
    value, unit = times[0].value, times[0].place.unit
    kind = value.type()
    if unit is not None and kind.is_numeric():
        first, last = (time.timestamp() * SECONDS[unit] for time in (start, end))
        return (value >= int(first) - 1) & (value <= int(last) + 1)
    if unit is None and kind.is_timestamp() and kind.timezone is None:
        early, late = ((time + wide).replace(tzinfo=None) for time, wide in ((start, -WIDEST), (end, WIDEST)))
        return (value >= ibis.literal(early)) & (value <= ibis.literal(late))
    return None


class Rows:
    """Rows with COLUMNS, each request once: an Ibis expression `expr`, which stays in the engine until something is asked."""

    def __init__(self, expr: Any, engine: Engine, privacy: Privacy = RAW) -> None:
        self.expr = expr
        self.engine = engine
        self.privacy = privacy

    @classmethod
    def of_frame(cls, frame: "pd.DataFrame") -> "Rows":
        """The rows of a DataFrame that has some of COLUMNS; the others are missing values. Times must be aware."""
        import pandas as pd
        import pyarrow as pa

        from monitoring.sources.files import connect

        columns = {}
        for name in COLUMNS:
            values = frame[name] if name in frame else pd.Series([None] * len(frame), dtype=object)
            if name in TIMES:
                values = _aware(name, values)
                columns[name] = pa.array(values, pa.timestamp("us", "UTC"), from_pandas=True)
            else:
                columns[name] = pa.array(values, pa.float64() if TYPES[name] == "float64" else pa.string(), from_pandas=True)
        engine = connect()
        return cls(engine.connection.create_table("frame", pa.table(columns), temp=True), engine)

    def where(self, predicate: Callable[[Any], Any]) -> "Rows":
        """Those for which a condition holds; predicate makes it from the table."""
        return self.like(self.expr.filter(predicate(self.expr)))

    def like(self, expr: Any, privacy: Privacy | None = None) -> "Rows":
        """Another expression over them, from the same engine, of which as little may be kept unless said."""
        return Rows(expr, self.engine, privacy or self.privacy)

    def within(self, window: Window) -> "Rows":
        return self.where(lambda t: (t.timestamp >= window.start) & (t.timestamp < window.end))

    def count(self) -> int:
        return int(self.engine.run(self.expr.count()))

    def first(self) -> datetime | None:
        """The earliest timestamp; None where there is no row."""
        found = self.engine.run(self.expr.aggregate(first=self.expr.timestamp.min()))["first"]
        return None if found.isna().all() else found[0].to_pydatetime().astimezone(UTC)

    def sample(self, n: int, salt: str) -> "pd.DataFrame":
        """n rows, those with the lowest md5(salt || request_id), in that order: the same on every engine. Rows that cannot be
        searched for personal data are missing."""
        ordered = self.expr.mutate(draw=md5(ibis.literal(salt) + self.expr.request_id))
        chosen = ordered.order_by("draw", "request_id").limit(n)
        return self._private(self.engine.run(chosen).sort_values(["draw", "request_id"]), COLUMNS).frame

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """All of them, by timestamp, then request_id: for few rows. Rows that cannot be searched are missing."""
        return self.fetch(columns or COLUMNS).frame

    def fetch(self, columns: Sequence[str], source: str | None = None) -> Fetched:
        """The same, and which rows are missing; with a column `source`, what the field metadata.<...> of that name says."""
        scrubbed = SPOKEN if self.privacy.scrub and set(columns) & {*SPOKEN, *TOLD} else ()
        needed = dict.fromkeys([*columns, "timestamp", "request_id", *scrubbed, *(["file", "line"] if scrubbed else [])])
        asked = [name for name in needed if name in self.expr.columns]
        frame = self.engine.run(self.expr.select(*asked)).sort_values(["timestamp", "request_id"])
        if source is None:
            return self._private(frame, columns)
        told = dict(zip(frame["request_id"], self._keyed([_field(row, source) for row in frame["metadata"]]), strict=True))
        found = self._private(frame, columns)
        return replace(found, frame=found.frame.assign(source=found.frame["request_id"].map(told)))

    def private(self, values: Sequence[str]) -> list[str | None]:
        """What may be kept of single values, None where that cannot be told."""
        if self.privacy.scrub is None:
            return list(values)
        return [one.row["value"] if one.row else None for one in self.privacy.scrub([{"value": value} for value in values])]

    def _keyed(self, values: list[str | None]) -> list[str | None]:
        """Values that tell rows apart: those that are personal, such as addresses, as user ids are kept."""
        kept = self.private([value or "" for value in values])
        hashed = self.privacy.users or (lambda _: None)
        return [value if not value or value == told else hashed(value) for value, told in zip(values, kept, strict=True)]

    def _private(self, frame: "pd.DataFrame", columns: Sequence[str]) -> Fetched:
        """What may be kept of rows: `columns` of it."""
        frame, unsearched = _scrubbed(frame.reset_index(drop=True), self.privacy.scrub)
        frame = _tidy(frame, columns)
        for name in IDENTIFYING if self.privacy.users is not None else ():
            if name in columns:
                frame[name] = frame[name].map(self.privacy.users).astype(object)
                frame[name] = frame[name].where(frame[name].notna(), None)
        return Fetched(frame, unsearched)


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Its rows as dicts of plain values; to_dict takes four times as long."""
    names = list(frame.columns)
    columns = [frame[name].astype(object).tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _scrubbed(
    frame: "pd.DataFrame", scrub: Callable[[list[dict[str, Any]]], Sequence[Any]] | None
) -> "tuple[pd.DataFrame, tuple[Unsearched, ...]]":
    """The rows with their texts scrubbed together, so that one value is one placeholder in all columns."""
    names = [name for name in (*SPOKEN, *TOLD) if name in frame]
    if scrub is None or not names or frame.empty:
        return frame, ()
    made = scrub(_records(frame[names]))
    lost = [i for i, one in enumerate(made) if one.row is None]
    unsearched = tuple(
        Unsearched(str(row["request_id"]), f"{row['file']}:{row['line']}" if row.get("file") else None, made[i].why)
        for i, row in zip(lost, _records(frame.iloc[lost]), strict=True)
    )
    kept = frame.drop(index=lost)
    rows = [one.row for one in made if one.row is not None]
    for name in names:
        kept[name] = [row[name] for row in rows]
    return kept, unsearched


def _field(metadata: Any, name: str) -> str | None:
    """The value of metadata.<name>, as text; None where there is none."""
    try:
        value = json.loads(metadata) if isinstance(metadata, str) else None
    except (ValueError, RecursionError):
        return None
    for key in name.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    told = str(value) if isinstance(value, str | int | float | bool) else ""
    return told[:MOST_SOURCE] if told and is_text(told) else None


def _tidy(frame: "pd.DataFrame", columns: Sequence[str]) -> "pd.DataFrame":
    """The same types whatever the engine: aware times, float64, text or None."""
    import pandas as pd

    frame = frame[list(columns)].reset_index(drop=True)
    for name in columns:
        if name in TIMES:
            frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
        elif TYPES.get(name) == "float64":
            frame[name] = frame[name].astype("float64")
        else:
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _aware(name: str, values: Any) -> Any:
    import pandas as pd

    times = pd.to_datetime(values)
    if len(times) and getattr(times.dtype, "tz", None) is None and times.notna().any():
        raise ParamsError(f"{name} of the frame has no time zone: localise it first")
    return times if getattr(times.dtype, "tz", None) else pd.to_datetime(values, utc=True)
