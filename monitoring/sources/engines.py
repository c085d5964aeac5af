"""What DuckDB, PostgreSQL and Spark call the same few things: JSON, zones, epochs, casts that cannot raise.

Everything else about a log table is one set of Ibis expressions. No function here raises on a value, whatever it is.
"""

import functools
import inspect
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import ibis
from ibis.expr import datatypes as dt

from monitoring.sources.mapping import UTC
from retrain.errors import DataError, ParamsError

GONE = r"(?i)no such file|no files found|cannot open file|not found"
ABOUT_A_VALUE = r"(?i)conver|cast|invalid input|out of range|malformed"
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@ibis.udf.scalar.builtin
def md5(text: str) -> str: ...  # type: ignore[empty-body]


@functools.cache
def _builtin(name: str, takes: tuple[Any, ...], gives: Any) -> Any:
    def function() -> Any: ...

    names = [inspect.Parameter(f"a{i}", inspect.Parameter.POSITIONAL_OR_KEYWORD) for i in range(len(takes))]
    function.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    function.__name__ = name
    return ibis.udf.scalar.builtin(function, name=name, signature=(takes, gives))


def call(name: str, takes: Sequence[Any], gives: Any, *values: Any) -> Any:
    """The engine's own function of that name."""
    return _builtin(name, tuple(takes), gives)(*values)


class Engine(ABC):
    """One of the three; `connection` is an Ibis backend whose session runs in UTC."""

    name = ""
    still = False  # whether what was read once reads the same again

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.menders: list[Callable[[], None]] = []  # what may help where a query found its data gone
        self.generation = 0  # how often they were called

    def run(self, expr: Any) -> Any:
        """The result of an expression."""
        return self.attempt(expr.execute)

    def attempt(self, ask: Callable[[], Any]) -> Any:
        """What ask returns; a store that fails is a DataError with its first words, after it was mended where that can help."""
        for _ in range(3):
            try:
                return ask()
            except MemoryError:
                raise
            except Exception as error:  # three engines, three error trees, none part of Ibis' interface
                if not (self.menders and re.search(GONE, str(error))):
                    raise DataError(f"the log store failed ({type(error).__name__}): {_said(error)}") from None
                for mend in self.menders:
                    mend()
                self.generation += 1
        raise DataError("the log files went away again and again while they were read: run again")

    def key(self, column: Any) -> Any:
        """What copies have in common; two that differ may share it. Cheaper to count than the column where the engine can."""
        return column

    def keep(self, rows: Any) -> Any:
        """A result that is asked for again and again, worked out once where the engine has a place of ours for it."""
        return rows

    @abstractmethod
    def at(self, value: Any, steps: Sequence[str]) -> Any:
        """Text of what stands at steps inside JSON: a string as it is, anything else as JSON; null where there is nothing."""

    def part(self, value: Any, steps: Sequence[str]) -> Any:
        """The same, still JSON where the engine has a type for it."""
        return self.at(value, steps)

    @abstractmethod
    def array(self, value: Any) -> Any:
        """The JSON text of a list, from a column or JSON; null where it is none."""

    @abstractmethod
    def json(self, value: Any) -> Any:
        """A nested column as JSON text."""

    @abstractmethod
    def known_roles(self, messages: Any) -> Any:
        """Whether every element of a list (JSON text) is a message with a role of ROLES."""

    @abstractmethod
    def said(self, messages: Any, role: str) -> Any:
        """What the role's last message in a list (JSON text) says: `content` as text, or its text parts, a line each."""

    def local(self, zone: str, naive: Any) -> Any:
        """The instant that a zone's clocks showed."""
        return call("timezone", (dt.string, dt.timestamp), dt.Timestamp("UTC"), zone, naive)

    @abstractmethod
    def instant(self, micros: Any) -> Any:
        """From microseconds since 1970, within the years 0 to 9999."""

    @abstractmethod
    def micros(self, time: Any) -> Any: ...

    def cast(self, text: Any, kind: str) -> Any:
        """Of text that has the form of a time or number."""
        return text.try_cast(kind)

    def moment(self, text: Any) -> Any:
        """The instant of a text with an offset: Z, +02, +0200 or +02:00."""
        return self.cast(text, UTC)

    def zones(self) -> list[str]:
        """Names of the time zones that it knows."""
        return list(self.connection.sql("select name from pg_timezone_names()").execute()["name"])


def _said(error: Exception) -> str:
    """The first words of an engine's error, without the value where it is about one: that is what a user wrote."""
    first = str(error).strip().partition("\n")[0][:300]
    return re.sub(r"(['\"`]).*?(\1|$)", "'…'", first) if re.search(ABOUT_A_VALUE, first) else first


class DuckDB(Engine):
    name = "DuckDB"
    still = True

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._numbers = itertools.count()
        roles = ", ".join(f"'{role}'" for role in ROLES)
        for macro in (
            f"known_roles(t) AS len(list_filter(json_extract(t, '$[*]'), lambda m: (m->>'$.role') IN ({roles})))"
            " = json_array_length(t)",
            "text_of(m) AS CASE WHEN json_type(m, '$.content') = 'VARCHAR' THEN m->>'$.content' ELSE nullif(array_to_string("
            "list_concat(json_extract_string(m, '$.content[*].text'), json_extract_string(m, '$.parts[*].content')), chr(10)"
            "), '') END",
            "said(t, role) AS retrain_text_of(list_filter(json_extract(t, '$[*]'), lambda m: (m->>'$.role') = role)[-1])",
            "at(t, p) AS CASE WHEN json_valid(t) THEN json_extract_string(t, p) END",
            "json_array(t) AS CASE WHEN json_valid(t) AND json_type(CASE WHEN json_valid(t) THEN t END) = 'ARRAY' THEN t END",
        ):
            connection.raw_sql(f"CREATE OR REPLACE TEMP MACRO retrain_{macro}")

    def keep(self, rows: Any) -> Any:
        name = f"kept_{next(self._numbers)}"
        kept = self.attempt(lambda: self.connection.create_table(name, rows, temp=True, overwrite=True))
        return kept.cast(rows.schema())

    def key(self, column: Any) -> Any:
        return call("hash", (dt.string,), dt.uint64, column)

    def at(self, value: Any, steps: Sequence[str]) -> Any:
        pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
        return call("retrain_at", (dt.string, dt.string), dt.string, self.json(value), pointer)

    def array(self, value: Any) -> Any:
        return call("retrain_json_array", (dt.string,), dt.string, self.json(value))

    def json(self, value: Any) -> Any:
        if value.type().is_string():
            return value
        return call("to_json", (value.type(),), dt.string, value)

    def known_roles(self, messages: Any) -> Any:
        return call("retrain_known_roles", (dt.string,), dt.boolean, messages)

    def said(self, messages: Any, role: str) -> Any:
        return call("retrain_said", (dt.string, dt.string), dt.string, messages, role)

    def instant(self, micros: Any) -> Any:
        return call("make_timestamptz", (dt.int64,), dt.Timestamp("UTC"), micros)

    def micros(self, time: Any) -> Any:
        return call("epoch_us", (dt.Timestamp("UTC"),), dt.int64, time)


class Postgres(Engine):
    """Before version 16 it cannot tell whether a text is JSON without raising: there nested values come from jsonb alone."""

    name = "PostgreSQL"
    JSONB = dt.JSON(binary=True)

    def _checks(self) -> bool:
        return int(self.connection.version.split(".")[0]) >= 16

    def _jsonb(self, value: Any) -> Any:
        kind = value.type()
        if kind.is_json():
            return value.cast(self.JSONB)
        if not kind.is_string():
            return call("to_jsonb", (kind,), self.JSONB, value)
        if not self._checks():
            raise ParamsError(
                f"logs.columns (params.yaml) looks into {value.get_name()}, which is text: PostgreSQL before 16 cannot tell"
                " whether a text is JSON. Make the column jsonb, or map plain columns"
            )
        valid = call("pg_input_is_valid", (dt.string, dt.string), dt.boolean, value, "jsonb")
        return valid.ifelse(value, ibis.null(str)).cast(self.JSONB)

    def _path(self, value: Any, *steps: str) -> Any:
        return call("jsonb_extract_path", (self.JSONB, *[dt.string] * len(steps)), self.JSONB, value, *steps)

    def _text(self, value: Any, *steps: str) -> Any:
        if not steps:  # the function wants one
            value, steps = call("jsonb_build_array", (self.JSONB,), self.JSONB, value), ("0",)
        return call("jsonb_extract_path_text", (self.JSONB, *[dt.string] * len(steps)), dt.string, value, *steps)

    def _kind(self, value: Any) -> Any:
        return call("jsonb_typeof", (self.JSONB,), dt.string, value)

    def _all(self, value: Any, path: str) -> Any:
        return call("jsonb_path_query_array", (self.JSONB, dt.string), self.JSONB, value, path)

    def at(self, value: Any, steps: Sequence[str]) -> Any:
        return self._text(self._jsonb(value), *steps)

    def part(self, value: Any, steps: Sequence[str]) -> Any:
        return self._path(self._jsonb(value), *steps)

    def array(self, value: Any) -> Any:
        value = self._jsonb(value)
        if self._checks():  # a list may stand in a JSON string, as span attributes do
            text = self._text(value)
            value = (self._kind(value) == "string").ifelse(self._jsonb(text), value)
        return (self._kind(value) == "array").ifelse(value.cast("string"), ibis.null(str))

    def json(self, value: Any) -> Any:
        if value.type().is_string():
            return value
        return value.cast("string") if value.type().is_json() else self._jsonb(value).cast("string")

    def known_roles(self, messages: Any) -> Any:
        messages = messages.cast(self.JSONB)
        known = self._all(messages, "$[*] ? (" + " || ".join(f'@.role == "{role}"' for role in ROLES) + ")")
        count = [call("jsonb_array_length", (self.JSONB,), dt.int64, value) for value in (known, messages)]
        return count[0] == count[1]

    def said(self, messages: Any, role: str) -> Any:
        last = self._path(self._all(messages.cast(self.JSONB), f'$[*] ? (@.role == "{role}")'), "-1")
        parts = self._all(last, "$.content[*].text"), self._all(last, "$.parts[*].content")
        lines = [part.array.map(lambda one: self._text(one)).join("\n") for part in parts]
        text = self._text(last, "content")
        plain = self._kind(self._path(last, "content")) == "string"
        return plain.ifelse(text, ibis.coalesce(*(line.nullif("") for line in lines)))

    def instant(self, micros: Any) -> Any:
        return call("to_timestamp", (dt.float64,), dt.Timestamp("UTC"), micros.cast("float64") / 1e6)

    def micros(self, time: Any) -> Any:
        return call("date_part", (dt.string, dt.Timestamp("UTC")), dt.float64, "epoch", time) * 1e6

    def cast(self, text: Any, kind: str) -> Any:
        return text.cast(kind)

    def zones(self) -> list[str]:
        with self.connection.raw_sql("SELECT name FROM pg_timezone_names") as cursor:
            return [name for (name,) in cursor]


class Spark(Engine):
    name = "Spark"

    def at(self, value: Any, steps: Sequence[str]) -> Any:
        path = "$" + "".join(f"[{step}]" if step.isdigit() else f"['{step}']" for step in steps)
        return call("get_json_object", (dt.string, dt.string), dt.string, self.json(value), path)

    def array(self, value: Any) -> Any:
        text = self.json(value)
        return call("json_array_length", (dt.string,), dt.int64, text).notnull().ifelse(text, ibis.null(str))

    def json(self, value: Any) -> Any:
        if value.type().is_string():
            return value
        return call("to_json", (value.type(),), dt.string, value)

    def _list(self, text: Any, *fields: str) -> Any:
        """Elements of a JSON list as structs of text."""
        kind = dt.Array(dt.Struct(dict.fromkeys(fields, dt.string)))
        schema = "array<struct<" + ",".join(f"{name}:string" for name in fields) + ">>"
        return call("from_json", (dt.string, dt.string), kind, text, schema)

    def known_roles(self, messages: Any) -> Any:
        length = call("json_array_length", (dt.string,), dt.int64, messages)
        return self._list(messages, "role").filter(lambda one: one.role.isin(ROLES)).length() == length

    def said(self, messages: Any, role: str) -> Any:
        mine = self._list(messages, "role", "content", "parts").filter(lambda one: one.role == role)
        last = call("try_element_at", (mine.type(), dt.int32), mine.type().value_type, mine, ibis.literal(-1, "int32"))
        texts = self._list(last.content, "text").map(lambda one: one.text)
        parts = self._list(last.parts, "content").map(lambda one: one.content)
        lines = [self._join(texts), self._join(parts)]
        return ibis.coalesce(lines[0].nullif(""), last.content, lines[1].nullif(""))

    def _join(self, texts: Any) -> Any:
        return call("array_join", (dt.Array(dt.string), dt.string), dt.string, texts, "\n")

    def local(self, zone: str, naive: Any) -> Any:
        return call("to_utc_timestamp", (dt.timestamp, dt.string), dt.Timestamp("UTC"), naive, zone)

    def instant(self, micros: Any) -> Any:
        return call("timestamp_micros", (dt.int64,), dt.Timestamp("UTC"), micros)

    def moment(self, text: Any) -> Any:
        size = text.length()
        full = ibis.cases(
            (text.re_search(r"[+-]\d\d$"), text + ":00"),
            (text.re_search(r"[+-]\d{4}$"), text.substr(0, size - 2) + ":" + text.substr(size - 2)),
            else_=text,
        )
        return self.cast(full, UTC)

    def micros(self, time: Any) -> Any:
        return call("unix_micros", (dt.Timestamp("UTC"),), dt.int64, time)

    def zones(self) -> list[str]:
        import zoneinfo

        return sorted(zoneinfo.available_timezones())


def utc(time: Any) -> Any:
    return time.cast(UTC)
