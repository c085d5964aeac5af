"""What drift needs to know of a whole window, counted where its rows lie: no frame of a million rows is ever made.

Every expression here is for DuckDB, PostgreSQL and Spark alike. Traps it steers around: DuckDB reads the literal
0.30000000000000004 as a decimal and misses it by one bit, so numbers go in as text; ibis' isinf is always false on Spark, so
finite means between the largest numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import ibis
import numpy as np
from ibis import _
from ibis.expr import datatypes as dt

from monitoring import distances

Kind = Literal["number", "category", "text"]

TEXTS = ("prompt", "response")
METADATA = "metadata."
LENGTHS = {"prompt_length": "prompt", "response_length": "response"}
NOT_BLANK = "[^\\s\x0b\xa0\u2000-\u200b\u3000]"  # engines differ in what \s knows
A_NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
LARGEST = float(np.finfo(np.float64).max)
FEW = 10_000  # different values that are fetched with their counts; more are no categories
SELDOM = 0.001  # of windows
CONSTANT = "constant: one value on both sides"
FREE_TEXT = "this is free text, compare it by abs_text_content_drift"


@ibis.udf.scalar.builtin
def json_valid(text: str) -> bool: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin
def json_extract_string(text: str, paths: dt.Array(dt.string)) -> dt.Array(dt.string): ...  # type: ignore[valid-type]


@ibis.udf.scalar.builtin
def get_json_object(text: str, path: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin
def json_extract_path(value: dt.JSON(), key: str) -> dt.JSON(): ...  # type: ignore[valid-type]


@ibis.udf.scalar.builtin
def json_extract_path_text(value: dt.JSON(), key: str) -> str: ...  # type: ignore[valid-type,empty-body]


class NotComparable(Exception):
    """A column's distance would say nothing; the message is the reason."""


@dataclass(frozen=True)
class Seen:
    """One column of one side: usable values, about how many different ones, and their range where it is a number; `why` where
    the engine could not say."""

    usable: int = 0
    different: int = 0
    low: float | None = None
    high: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class Side:
    """The columns that are asked for, read once: `column(name)` is a table with one column `v`, of usable values."""

    rows: int
    seen: Mapping[str, Seen]
    table: Any = None  # an Ibis table kept near the engine, columns named by place
    places: Mapping[str, str] = field(default_factory=dict)

    def missing(self, name: str) -> float:
        """Share of rows in which a column is missing, blank or no finite number, 0 to 1."""
        return 1.0 - self.seen[name].usable / self.rows if self.rows else 1.0

    def column(self, name: str) -> Any:
        return self.table.select(v=self.table[self.places[name]]).filter(_.v.notnull())


def look(table: Any, kinds: Mapping[str, Kind], scratch: Path) -> Side:
    """Read the usable values of all columns once, keep them, and count: rows, usable values, ranges.

    A log table may be a million lines of JSON, or a sort for every time it is read. A column that cannot be read is left out
    with the reason. What is kept lives as long as the folder `scratch`.
    """
    fields = [name for name in kinds if name.startswith(METADATA)]
    found = {name: usable(table, name, kind, fields) for name, kind in kinds.items()}
    wrong = {name: Seen(why="the log table has no such column") for name, value in found.items() if value is None}
    good = {name: value for name, value in found.items() if value is not None}
    try:
        kept, places = _keep(table, good, kinds, scratch)
    except Exception:  # an engine's errors are its own; which column it was is found one by one
        wrong |= {name: Seen(why=why) for name, value in good.items() if (why := _raises(table, value))}
        good = {name: value for name, value in good.items() if name not in wrong}
        kept, places = _keep(table, good, kinds, scratch)
    counts = _first(kept.aggregate(rows=kept.count(), **_measures(kept, places, kinds)))
    seen = {name: wrong[name] if name in wrong else _seen(counts, places[name]) for name in kinds}
    return Side(int(counts["rows"]), seen, kept, places)


def _keep(table: Any, values: Mapping[str, Any], kinds: Mapping[str, Kind], scratch: Path) -> tuple[Any, dict[str, str]]:
    """These expressions, read once: into a Parquet file, so that ten million rows need no memory; on Spark cached there."""
    places = {name: f"c{i}" for i, name in enumerate(values)}
    there = ibis.literal(1, "int8")  # of a text no more is needed than that there is one
    made = {
        places[name]: value.notnull().ifelse(there, ibis.null("int8")) if kinds[name] == "text" else value
        for name, value in values.items()
    }
    kept, engine = table.select(**made, row=there), table.get_backend()
    if engine.name == "pyspark":
        return kept.cache(), places
    file = scratch / f"{uuid4().hex}.parquet"
    engine.to_parquet(kept, file)
    here = engine if engine.name == "duckdb" else ibis.duckdb.connect()  # PostgreSQL is opened read-only: no table there
    return here.read_parquet(file), places


def _raises(table: Any, value: Any) -> str | None:
    try:
        table.aggregate(n=value.count(), low=value.min()).to_pyarrow()
    except Exception as error:  # one bad column takes no other down
        return because(error)
    return None


def because(error: Exception) -> str:
    """A column's reason from whatever was raised: the first line, and nothing in quotes, for engines quote what users wrote."""
    if isinstance(error, NotComparable):
        return str(error)
    line = re.sub(r"(['\"`]).*?(\1|$)", "'…'", (str(error).strip().splitlines() or [""])[0])
    return f"{type(error).__name__}: {line[:200]}"


def _measures(table: Any, places: Mapping[str, str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, place in places.items():
        made[f"n {place}"] = table[place].count()
        if kinds[name] != "text":
            made[f"different {place}"] = table[place].approx_nunique()
        if kinds[name] == "number":
            made |= {f"low {place}": table[place].min(), f"high {place}": table[place].max()}
    return made


def _seen(counts: Mapping[str, Any], place: str) -> Seen:
    usable = int(counts[f"n {place}"] or 0)
    low, high = (float(counts[key]) if usable and key in counts else None for key in (f"low {place}", f"high {place}"))
    return Seen(usable, int(counts.get(f"different {place}") or 0), low, high)


def _first(query: Any) -> dict[str, Any]:
    return dict(query.to_pyarrow().to_pylist()[0])


# --- a column's usable values, null where there is none


def usable(table: Any, name: str, kind: Kind, fields: Sequence[str] = ()) -> Any:
    """Expression of a column's values, null where missing, blank or not finite; None where the table has no such column.

    `fields` are all columns that are asked for which lie in the metadata: its JSON is parsed once for them together.
    """
    base = LENGTHS.get(name, name)
    raw = _field(table, name, fields or [name]) if name.startswith(METADATA) else _plain(table, base)
    if raw is None:
        return None
    if name in LENGTHS:
        return _text(raw).length().cast("float64")
    return _number(raw) if kind == "number" else _text(raw)


def _plain(table: Any, name: str) -> Any:
    return table[name] if name in table.columns else None


def _text(raw: Any) -> Any:
    text = raw.cast("string")  # a column of nothing but nulls has no type
    return text.re_search(NOT_BLANK).ifelse(text, ibis.null(str))


def _number(raw: Any) -> Any:
    if not raw.type().is_string():
        number = raw.cast("float64")
    elif raw.get_backend().name == "postgres":  # has no cast that may fail
        number = raw.re_search(A_NUMBER).ifelse(raw, ibis.null(str)).cast("float64")
    else:
        number = raw.try_cast("float64")
    return ((number >= exactly(-LARGEST)) & (number <= exactly(LARGEST))).ifelse(number, ibis.null("float64"))


def exactly(number: float) -> Any:
    """A literal that no engine rounds."""
    return ibis.literal(repr(float(number))).cast("float64")


def _field(table: Any, name: str, fields: Sequence[str]) -> Any:
    """A scalar inside the JSON text of `metadata`, as text."""
    if "metadata" not in table.columns:
        return None
    text, engine = table.metadata.cast("string"), table.get_backend().name
    keys = name.removeprefix(METADATA).split(".")
    if engine == "pyspark":
        return get_json_object(text, "$" + "".join(f"['{key}']" for key in keys))
    if engine == "postgres":
        value = text.cast("json")
        for key in keys[:-1]:
            value = json_extract_path(value, key)
        return json_extract_path_text(value, keys[-1])
    paths = ["$" + "".join(f'."{key}"' for key in field.removeprefix(METADATA).split(".")) for field in fields]
    return json_extract_string(json_valid(text).ifelse(text, ibis.null(str)), paths)[list(fields).index(name)]


# --- distances


def distance(method: str, name: str, kind: Kind, reference: Side, current: Side) -> float:
    """Evidently's distance `method` of a column over all rows of both sides, both with usable values."""
    seen = reference.seen[name], current.seen[name]
    if kind == "number" and len({seen[0].low, seen[0].high, seen[1].low, seen[1].high}) == 1:
        raise NotComparable(CONSTANT)
    if kind == "category":
        return distances.of_counts(method, *_by_category(name, reference, current))
    if method == "wasserstein" and max(s.different for s in seen) > FEW:
        return distances.wasserstein(*(_values(side, name) for side in (reference, current)))
    if method != "wasserstein" and seen[0].different > FEW:
        return distances.of_counts(method, *_histograms(name, reference, current))
    return distances.of_values(method, *(_counted(side, name) for side in (reference, current)))


def telling(threshold: float, name: str, reference: Side, current: Side) -> bool:
    """Whether a category has so many rows on both sides that chance alone seldom takes jensenshannon to the threshold."""
    return distances.by_chance(threshold, *_by_category(name, reference, current)) <= SELDOM


def _values(side: Side, name: str) -> Any:
    """One column as an array of float64, filled batch by batch: 8 bytes a row."""
    values, at = np.empty(side.seen[name].usable), 0
    for batch in side.column(name).to_pyarrow_batches(chunk_size=100_000):
        part = batch.column(0).to_numpy(zero_copy_only=False)
        values[at : at + len(part)] = part
        at += len(part)
    return values[:at]


def _counted(side: Side, name: str) -> tuple[Any, Any]:
    """The different values of a number in order, and the rows that have each."""
    if side.seen[name].different > FEW:
        return np.unique(_values(side, name), return_counts=True)
    found = side.column(name).group_by("v").aggregate(n=_.count()).order_by("v").to_pyarrow()
    return found["v"].to_numpy(), found["n"].to_numpy()


def _histograms(name: str, reference: Side, current: Side) -> tuple[Any, Any]:
    """Rows a bin on either side; the last bin holds its upper edge."""
    seen = [reference.seen[name], current.seen[name]]
    low, high = min(float(s.low or 0.0) for s in seen), max(float(s.high or 0.0) for s in seen)
    inner = distances.edges(low, high, sum(s.usable for s in seen))[1:-1]

    def rows(side: Side, usable: int) -> Any:
        below = {f"e{i}": (_.v < exactly(edge)).cast("int64").sum() for i, edge in enumerate(inner)}
        found = _first(side.column(name).aggregate(**below))
        return np.diff([0, *(found[key] for key in below), usable])

    return rows(reference, seen[0].usable), rows(current, seen[1].usable)


def _by_category(name: str, reference: Side, current: Side) -> tuple[Any, Any]:
    """Rows of either side in each category of the two together."""
    counts = [_categories(side, name) for side in (reference, current)]
    values = {*counts[0], *counts[1]}
    if len(values) == 1:
        raise NotComparable(CONSTANT)
    fewest = min(sum(count.values()) for count in counts)
    if len(values) > fewest / 2:
        raise NotComparable(f"{len(values)} different values in {fewest} rows: {FREE_TEXT}")
    before, now = (np.array([count.get(value, 0) for value in values]) for count in counts)
    return before, now


def _categories(side: Side, name: str) -> dict[str, int]:
    many = NotComparable(f"more than {FEW:,} different values: {FREE_TEXT}")
    if side.seen[name].different > 2 * FEW:  # an estimate; no engine should group ten million texts to find that they are texts
        raise many
    found = side.column(name).group_by("v").aggregate(n=_.count()).limit(FEW + 1).to_pyarrow().to_pydict()
    if len(found["v"]) > FEW:
        raise many
    return dict(zip(found["v"], found["n"], strict=True))
