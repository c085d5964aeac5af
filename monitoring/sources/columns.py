"""From a raw table to ours: typed columns and, for a row that cannot be used, the reason; the same for all engines.

A form is asked of a text before it is cast, so that every engine takes the same texts and none raises.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ibis

from monitoring.sources.engines import ROLES, Engine
from monitoring.sources.mapping import IDS, NESTED, NUMBERS, REQUIRED, SECONDS, TIMES, TYPES, UTC, Place, Places
from retrain.errors import DataError

# any day that there is, so that no cast meets 30 February
_YEAR, _LEAP = r"[12]\d{3}", r"(?:[12]\d(?:0[48]|[2468][048]|[13579][26])|(?:12|16|20|24|28)00)"
_DAY = rf"{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|{_LEAP}-02-29"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
NAIVE = rf"^(?:{_DAY})(?:[T ]{_CLOCK})?$"
AWARE = rf"^(?:{_DAY})[T ]{_CLOCK}(?:Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)$"
NUMBER = r"^[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?$"
ADDED = ("retrain_file", "file_row_number", "file", "line")  # by us
END_OF_TIME = 253402300799  # seconds; the year 9999


Problem = tuple[Any, Any]  # whether it is there (null: no), and its words


@dataclass(frozen=True)
class Cell:
    """One place of a row: `value` as the source has it; `wrong` where its kind is not what was asked for."""

    place: Place
    value: Any
    wrong: Problem | None = None
    loose: bool = False  # out of JSON, where a number has become text


@dataclass(frozen=True)
class Canon:
    """How cells become columns: on which engine, and in which zone times without one are (None: they are refused)."""

    engine: Engine
    zone: str | None

    def columns(self, cells: dict[str, list[Cell]]) -> dict[str, Any]:
        """COLUMNS with their TYPES; `bad`: the row cannot be used; `reason`: the first thing that is wrong with it, or null."""
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for name, given in cells.items():
            values[name], found = self._column(name, given)
            problems += found
            if name in REQUIRED:
                problems.append((_missing(name, values[name]), f"{name} is missing"))
        ended = values.pop("ended_at", None)
        if ended is not None:
            took = (self.engine.micros(ended) - self.engine.micros(values["timestamp"])).cast("float64") / 1e3
            values["latency_ms"] = ibis.coalesce(values["latency_ms"], took)
        typed = {name: value.cast(TYPES[name]) for name, value in values.items()}
        return {**typed, "bad": _any(problems), "reason": _first(problems)}

    def _column(self, name: str, cells: Sequence[Cell]) -> tuple[Any, list[Problem]]:
        kind = UTC if name in TIMES else TYPES[name]
        if not cells:
            return ibis.null(kind), []
        if len(cells) == 1:
            return self._one(name, kind, cells[0])
        values, problems, before = [], [], ibis.literal(False)
        for cell in cells:
            given = cell.value.notnull()
            value, found = self._one(name, kind, cell)
            values.append((given, value))
            problems += [(given & ~before & wrong, reason) for wrong, reason in found]
            before = before | given
        return ibis.cases(*values), problems

    def _one(self, name: str, kind: str, cell: Cell) -> tuple[Any, list[Problem]]:
        value, problems = self._converted(name, cell)
        return value.cast(kind), [*([cell.wrong] if cell.wrong else []), *problems]

    def _converted(self, name: str, cell: Cell) -> tuple[Any, list[Problem]]:
        if cell.value.type().is_null():
            return ibis.null(UTC if name in TIMES else TYPES[name]), []
        if name in TIMES:
            return self._time(name, cell)
        if name in NUMBERS:
            return self._number(name, cell)
        if name in NESTED:
            return self._nested(name, cell)
        return self._text(name, cell)

    # --- times

    def _time(self, name: str, cell: Cell) -> tuple[Any, list[Problem]]:
        value, kind, unit = cell.value, cell.value.type(), cell.place.unit
        if unit is not None:
            number = self._as_number(value)
            if number is None:
                return _refused(name, value, f"a number, for its unit is {unit}")
            most = END_OF_TIME * SECONDS[unit]
            fits = ((number >= 0) & (number <= most)).fill_null(False)
            safe = fits.ifelse(number, ibis.null("float64"))
            micros = (safe / (SECONDS[unit] / 1e6)).round().cast("int64")
            return self.engine.instant(micros), [(value.notnull() & ~fits, f"{name} is no time in {unit}")]
        if kind.is_timestamp():
            return (value.cast(UTC), []) if kind.timezone else self._naive(name, value, value.notnull())
        if not kind.is_string():
            hint = f", or its unit in logs.columns: '{'/'.join(cell.place.steps)} as ms'" if kind.is_numeric() else ""
            return _refused(name, value, f"ISO 8601 text or a timestamp{hint}")
        aware = value.re_search(AWARE).fill_null(False)
        naive = aware.ifelse(False, value.re_search(NAIVE).fill_null(False))  # asked of the others alone
        with_zone = self.engine.moment(aware.ifelse(value, ibis.null(str)))
        local = self.engine.cast(naive.ifelse(value, ibis.null(str)), "timestamp")
        without, problems = self._naive(name, local, naive)
        problems.append((value.notnull() & ~aware & ~naive, f"{name} is not ISO 8601"))
        return aware.ifelse(with_zone.cast(UTC), without), problems

    def _naive(self, name: str, local: Any, given: Any) -> tuple[Any, list[Problem]]:
        if self.zone is None:
            reason = f"{name} has no time zone: write one, or set logs.timezone (params.yaml)"
            return ibis.null(UTC), [(given, reason)]
        return self.engine.local(self.zone, local.cast("timestamp")).cast(UTC), []

    # --- numbers

    def _as_number(self, value: Any) -> Any | None:
        kind = value.type()
        if kind.is_integer() or kind.is_floating() or kind.is_decimal():
            return value.cast("float64")
        if not kind.is_string():
            return None
        return self.engine.cast(value.re_search(NUMBER).ifelse(value, ibis.null(str)), "float64")

    def _number(self, name: str, cell: Cell) -> tuple[Any, list[Problem]]:
        value, unit = cell.value, cell.place.unit
        if name == "feedback":
            return self._feedback(cell)
        number = self._as_number(value)
        if number is None or (value.type().is_string() and not cell.loose and unit is None):
            return _refused(name, value, "a finite number")
        scaled = number if unit is None else number / (SECONDS[unit] / 1e3)
        if value.type().is_integer():
            return scaled, []
        wrong = number.abs() > sys.float_info.max  # NaN too, which every engine here sorts above all numbers
        return scaled, [(wrong | _lost(value, number), f"{name} is not a finite number")]

    def _feedback(self, cell: Cell) -> tuple[Any, list[Problem]]:
        """-1 or +1; true and false are that too. With unit 0-1 it is 0 or 1."""
        value, low = cell.value, 0.0 if cell.place.unit == "0-1" else -1.0
        if value.type().is_boolean():
            return value.ifelse(1.0, -1.0), []
        number = self._as_number(value)
        if number is None or (value.type().is_string() and not cell.loose):
            return _refused("feedback", value, "-1 or +1")
        if value.type().is_string():
            number = ibis.cases((value == "true", 1.0), (value == "false", low), else_=number)
        wrong = ~number.isin([low, 1.0]) | _lost(value, number)
        if low < 0:
            return number, [(wrong, "feedback is neither -1 nor +1")]
        return (number == low).ifelse(-1.0, number), [(wrong, "feedback is neither 0 nor 1")]

    # --- text

    def _text(self, name: str, cell: Cell) -> tuple[Any, list[Problem]]:
        value, kind, unit = cell.value, cell.value.type(), cell.place.unit
        if unit == "messages":
            said = self.engine.said(self.engine.array(value), "assistant" if name == "response" else "user")
            return said, []
        if unit == "json" and not kind.is_string():
            return self.engine.json(value), []
        if kind.is_string():
            return value, []
        if name in IDS and (kind.is_integer() or kind.is_uuid()):
            return value.cast("string"), []
        return _refused(name, value, "text")

    def _nested(self, name: str, cell: Cell) -> tuple[Any, list[Problem]]:
        if name == "metadata":
            return self.engine.json(cell.value), []
        text = self.engine.array(cell.value)
        known = self.engine.known_roles(text).fill_null(False)
        return text, [
            (cell.value.notnull() & text.isnull(), "messages is no list of messages"),
            (text.notnull() & ~known, f"messages has a role that is none of {', '.join(ROLES)}"),
        ]


def cell(raw: Any, place: Place, engine: Engine, *, whole: bool) -> Cell | None:
    """What a place holds in a table with typed columns; None where the table has no such column or field.

    whole: a list or an object inside JSON is wanted as it is.
    """
    if place.column not in raw.columns:
        return None
    value = raw[place.column]
    for i, step in enumerate(place.steps[1:], 1):
        kind = value.type()
        if kind.is_struct():
            if step not in kind.names:
                return None
            value = value[step]
        elif kind.is_array() and step.isdigit():
            value = value[int(step)]
        elif kind.is_map() and kind.key_type.is_string():
            value = value.get(step)
        elif kind.is_string() or kind.is_json():
            inside = (engine.part if whole else engine.at)(value, place.steps[i:])
            return Cell(place, inside, loose=True)
        else:
            return None
    return Cell(place, value)


def cells(raw: Any, places: Places, engine: Engine) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for name, some in places.items():
        tried = [cell(raw, place, engine, whole=name in NESTED or place.unit == "messages") for place in some]
        found[name] = [one for one in tried if one is not None]
    return found


def required(raw: Any, places: Places, engine: Engine, where: str) -> dict[str, list[Cell]]:
    """The cells of a table that has at least the columns without which no row can be used, else DataError."""
    found = cells(raw, places, engine)
    for name in REQUIRED:
        if not found.get(name, True):
            theirs = " or ".join("/".join(place.steps) for place in places[name])
            has = ", ".join([column for column in raw.columns if column not in ADDED][:20])
            raise DataError(
                f"{where} has no column {theirs} for {name}, it has {has}:"
                f" map it in params.yaml, logs.columns: {{{name}: <theirs>}}"
            )
    return found


def _lost(value: Any, number: Any) -> Any:
    """Whether text was no number."""
    return value.notnull() & number.isnull() if value.type().is_string() else ibis.literal(False)


def _missing(name: str, value: Any) -> Any:
    return value.isnull() | ~value.re_search(r"\S") if name == "request_id" else value.isnull()


def _any(problems: list[Problem]) -> Any:
    found = ibis.literal(False)
    for wrong, _ in problems:
        found = found | wrong
    return found.fill_null(False)


def _first(problems: list[Problem]) -> Any:
    if not problems:
        return ibis.null(str)
    return ibis.cases(*problems)


def _refused(name: str, value: Any, must: str) -> tuple[Any, list[Problem]]:
    """A column of the wrong type: every value in it is wrong."""
    kind = UTC if name in TIMES else TYPES[name]
    return ibis.null(kind), [(value.notnull(), f"{name} is of type {value.type()}, must be {must}")]


def must_be(name: str) -> str:
    """What a column must be, for a value of a wrong kind in JSON."""
    if name in TIMES:
        return "ISO 8601 text"
    if name in NUMBERS:
        return "a finite number"
    return "a list of messages" if name == "messages" else "text"
