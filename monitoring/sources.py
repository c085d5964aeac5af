"""Any log table as the loop sees it: files read through Ibis on DuckDB, the bad lines set aside and counted.

A line that cannot be used never stops a window: it is quarantined with file, line and reason, without its content.
Only UTF-8 and line ends are looked at in Python (DuckDB's text readers stop at a NUL or a stray byte, and also split at CR);
parsing, types, times, copies and filtering are the engine's work.
"""

import difflib
import glob
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
from ibis import _
from ibis.expr import datatypes as dt
from pydantic import BaseModel, ConfigDict

from monitoring.windows import Window
from retrain.errors import DataError, ParamsError
from retrain.params import Logs

REQUIRED = ("request_id", "timestamp", "prompt")
TIMES = ("timestamp", "feedback_at")
IDS = ("request_id", "adapter", "model_version", "user_id", "conversation_id")
TEXTS = ("prompt", "response", "correction", "audit_label")
NUMBERS = ("latency_ms", "prompt_tokens", "completion_tokens", "confidence", "feedback")
COLUMNS = [
    *IDS[:1],
    "timestamp",
    *IDS[1:],
    *("prompt", "response", "latency_ms", "prompt_tokens", "completion_tokens", "confidence", "feedback"),
    *("correction", "audit_label", "feedback_at", "metadata"),
]
UTC = "timestamp('UTC')"  # a plain "timestamp" drops the offset on DuckDB
TYPES = {name: UTC if name in TIMES else "float64" if name in NUMBERS else "string" for name in COLUMNS}
PLACE = {"file": "string", "line": "int64"}
HAS_ZONE = r"\d\d:\d\d.*([Zz]|[+-]\d\d(:?\d\d)?)$"
TAIL = "a half-written last line"


@ibis.udf.scalar.builtin
def json_valid(text: str) -> bool: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin
def json_type(text: str, path: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin
def json_extract_string(text: str, path: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin
def to_json(value) -> str: ...  # type: ignore[no-untyped-def,empty-body]


@ibis.udf.scalar.builtin
def timezone(zone: str, time: dt.Timestamp()) -> dt.Timestamp("UTC"): ...  # type: ignore[valid-type]


class BadRow(BaseModel):
    """Where a row that cannot be used stands, and why; never what it says."""

    model_config = ConfigDict(frozen=True)
    file: str
    line: int
    reason: str


class Counts(BaseModel):
    """read == used + duplicates + quarantined + outside; a tail is not read yet."""

    model_config = ConfigDict(frozen=True)
    read: int
    used: int
    duplicates: int
    quarantined: int
    outside: int
    tails: int


@dataclass(frozen=True)
class LogTable:
    """The usable rows of one adapter, each request once, and what was set aside."""

    rows: Any  # an Ibis table with COLUMNS, one row a request_id, materialised in the engine
    read: int
    duplicates: int
    elsewhere: int  # rows of other adapters
    quarantined: tuple[BadRow, ...]
    tails: tuple[BadRow, ...]
    _connection: Any = field(repr=False)

    def between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """Rows with start <= timestamp < end, by timestamp, then request_id; both aware. ParamsError where it is no window."""
        window = Window(start, end)
        return _frame(self.rows.filter(_.timestamp >= window.start, _.timestamp < window.end))

    def known_before(self, end: datetime) -> pd.DataFrame:
        """Rows whose feedback, correction or audit label became known before `end` (aware), in the same order."""
        if end.tzinfo is None:
            raise ParamsError(f"end is {end.isoformat()} without a time zone: add Z for UTC, or an offset")
        return _frame(self.rows.filter(_.feedback_at < end))

    def counts(self, start: datetime, end: datetime) -> Counts:
        """How the rows of the whole table fall for the window [start, end)."""
        window = Window(start, end)
        used = int(self.rows.filter(_.timestamp >= window.start, _.timestamp < window.end).count().execute())
        aside = self.duplicates + len(self.quarantined)
        return Counts(
            read=self.read,
            used=used,
            duplicates=self.duplicates,
            quarantined=len(self.quarantined),
            outside=self.read - used - aside,
            tails=len(self.tails),
        )


def read_logs(logs: Logs, *, root: Path, adapter: str) -> LogTable:
    """The log table that params `logs` describes, for one adapter.

    JSONL (also .gz) and Parquet, by glob, relative to root or absolute. Where a request_id comes more than once, the row with
    the newest feedback_at is used, else the one that stands last. Raises DataError where there is no file or no such column,
    ParamsError where the mapping or the time zone is not known.
    """
    names = _mapping(logs.columns)
    files = _files(logs.uri, Path(root), adapter)
    connection = ibis.duckdb.connect()
    connection.raw_sql("SET TimeZone='UTC'")
    _check_zone(connection, logs.timezone)
    connection.create_table("rows", schema=ibis.schema({**PLACE, "reason": "string", **TYPES}), temp=True)
    if lines := [path for path in files if not path.name.endswith(".parquet")]:
        _load_lines(connection, lines, names, logs.timezone)
    for path in files:
        if path.name.endswith(".parquet"):
            _load_parquet(connection, path, names, logs.timezone)
    return _table(connection, adapter)


def _frame(rows: Any) -> pd.DataFrame:
    frame = rows.order_by("timestamp", "request_id").execute()
    for name in COLUMNS:
        if TYPES[name] == "string":
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _mapping(columns: dict[str, str]) -> dict[str, str]:
    for ours in columns:
        if ours not in COLUMNS:
            near = difflib.get_close_matches(ours, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"ours are {', '.join(COLUMNS)}"
            raise ParamsError(f"logs.columns.{ours} (params.yaml) is no column of ours: {hint} It is `ours: theirs`")
    return {name: columns.get(name, name) for name in COLUMNS}


def _files(uri: str, root: Path, adapter: str) -> list[Path]:
    if "://" in uri:
        raise ParamsError(f"logs.uri is {uri!r} (params.yaml): only files are read, as a path or glob of .jsonl or .parquet")
    pattern = str(root / uri.replace("{adapter}", adapter))
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in found if path.is_file()]
    if not files:
        what = "is a folder" if found else "matches no file"
        raise DataError(f"{pattern} {what}: logs.uri (params.yaml) must name the log files, such as logs/{{adapter}}/*.jsonl")
    for path in files:
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
            raise DataError(f"{path} is neither .jsonl, .jsonl.gz nor .parquet: narrow logs.uri (params.yaml), or rename it")
    return files


def _check_zone(connection: Any, zone: str | None) -> None:
    known = connection.sql("select name from pg_timezone_names()").execute()["name"].tolist() if zone else []
    if zone and zone not in known:
        near = difflib.get_close_matches(zone, known, n=1)
        raise ParamsError(
            f"logs.timezone is {zone!r} (params.yaml), no known zone{f': did you mean {near[0]!r}?' if near else ''}"
        )


# --- JSONL


def _lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """(line, text, reason or None) of each non-blank line, split at LF only; TAIL where the last may still be growing."""
    opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
    number = 0
    with opened as stream:
        try:
            for number, raw in enumerate(stream, 1):
                if raw.strip():
                    yield number, *_decoded(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # what came before is good
            yield number + 1, "", f"the gzip file ends early or is damaged ({type(error).__name__}): copy it again"


def _decoded(raw: bytes) -> tuple[str, str | None]:
    tail = None if raw.endswith(b"\n") else TAIL
    try:
        return raw.decode("utf-8"), tail
    except UnicodeDecodeError as error:
        return "", tail or f"not UTF-8 (byte {error.start} of the line)"


def _load_lines(connection: Any, paths: list[Path], names: dict[str, str], zone: str | None) -> None:
    schema = pa.schema([("file", pa.string()), ("line", pa.int64()), ("text", pa.string()), ("note", pa.string())])
    raw = connection.create_table("lines", schema=ibis.schema({**PLACE, "text": "string", "note": "string"}), temp=True)
    for path in paths:  # one file at a time, so that memory holds one
        rows = [{"file": str(path), "line": n, "text": text, "note": note} for n, text, note in _lines(path)]
        connection.insert("lines", pa.Table.from_pylist(rows, schema=schema))
    # from here on `object` is always a JSON object, so no expression can raise
    raw = raw.mutate(valid=json_valid(raw.text))
    raw = raw.mutate(root=json_type(raw.valid.ifelse(raw.text, "null"), "$"))
    raw = raw.mutate(object=(raw.root == "OBJECT").ifelse(raw.text, "{}"))
    values, problems = _json_columns(raw.object, names, zone)
    shape = ibis.cases(
        ((raw.note == TAIL) & ~raw.valid, TAIL),
        ((raw.note != TAIL) & raw.note.notnull(), raw.note),
        (~raw.valid, "not JSON"),
        (raw.root != "OBJECT", ibis.literal("a JSON ") + raw.root.lower() + ", must be an object"),
    )
    _insert(connection, raw, values, [shape, *problems])


def _json_columns(line: Any, names: dict[str, str], zone: str | None) -> tuple[dict[str, Any], list[Any]]:
    values, problems = {}, []
    for ours, theirs in names.items():
        pointer = "/" + theirs.replace("~", "~0").replace("/", "~1")
        kind = json_type(line, pointer)
        kind = (kind == "NULL").ifelse(ibis.null(str), kind)
        text = kind.notnull().ifelse(json_extract_string(line, pointer), ibis.null(str))
        value, bad = _typed(ours, text, zone)
        wrong = ~kind.isin(_json_kinds(ours)) if ours != "metadata" else ibis.literal(False)
        problems += [_because(wrong, ibis.literal(f"{ours} is a ") + kind.lower() + f", must be {_must(ours)}"), *bad]
        values[ours] = value
    return values, problems


def _json_kinds(name: str) -> list[str]:
    whole = ["BIGINT", "UBIGINT"]
    if name in NUMBERS:
        return [*whole, "DOUBLE"]
    return ["VARCHAR", *whole] if name in IDS else ["VARCHAR"]


# --- Parquet


def _load_parquet(connection: Any, path: Path, names: dict[str, str], zone: str | None) -> None:
    try:
        raw = connection.read_parquet(str(path).replace("[", "[[]"), file_row_number=True)
    except Exception as error:  # duckdb's own error tree is not part of Ibis' interface; whatever it is, the file is named
        raise DataError(f"{path} is not a readable Parquet file ({type(error).__name__}): write or copy it again") from error
    raw = raw.mutate(file=ibis.literal(str(path)), line=raw.file_row_number + 1)
    for ours in REQUIRED:
        if names[ours] not in raw.columns:
            raise DataError(
                f"{path} has no column {names[ours]!r} for {ours}, it has {', '.join(raw.schema().names[:20])}:"
                f" map it in params.yaml, logs.columns: {{{ours}: <theirs>}}"
            )
    values, problems = {}, []
    for ours, theirs in names.items():
        value, bad = _parquet_column(ours, raw[theirs], zone) if theirs in raw.columns else (ibis.null(TYPES[ours]), [])
        values[ours] = value
        problems += bad
    _insert(connection, raw, values, problems)


def _parquet_column(ours: str, column: Any, zone: str | None) -> tuple[Any, list[Any]]:
    kind = column.type()
    if ours == "metadata":
        return (column if kind.is_string() else to_json(column)), []
    if ours in TIMES and kind.is_timestamp():
        if kind.timezone:
            return column.cast(UTC), []
        return _zoned(ours, column, column.notnull(), column.cast("timestamp"), zone)
    right = kind.is_string() or (ours in IDS and kind.is_integer())
    if ours in NUMBERS:
        right = kind.is_integer() or kind.is_floating() or kind.is_decimal()
    if not right and not kind.is_null():
        return ibis.null(TYPES[ours]), [_because(column.notnull(), f"{ours} is a {kind}, must be {_must(ours)}")]
    return _typed(ours, column.cast("string"), zone)


# --- what a column must be, whatever the file


def _must(name: str) -> str:
    if name in TIMES:
        return "ISO 8601 text"
    return "a finite number" if name in NUMBERS else "text"


def _because(wrong: Any, reason: Any) -> Any:
    return wrong.fill_null(False).ifelse(reason, ibis.null(str))


def _typed(name: str, text: Any, zone: str | None) -> tuple[Any, list[Any]]:
    """(typed value, problems) of a column that has arrived as text."""
    if name in TIMES:
        aware = text.re_search(HAS_ZONE)
        return _zoned(
            name, aware.ifelse(text.try_cast(UTC), ibis.null(UTC)), text.notnull() & ~aware, text.try_cast("timestamp"), zone
        )
    if name in NUMBERS:
        number = text.try_cast("float64")
        finite = number.notnull() & ~number.isnan() & ~number.isinf()
        problems = [_because(text.notnull() & ~finite, f"{name} is not {_must(name)}")]
        if name == "feedback":
            problems.append(_because(finite & ~number.isin([-1.0, 1.0]), "feedback is neither -1 nor +1"))
        return number, problems
    missing = text.isnull() if name == "prompt" else text.isnull() | (text.strip() == "")
    return text, [_because(missing, f"{name} is missing")] if name in REQUIRED else []


def _zoned(name: str, value: Any, naive: Any, local: Any, zone: str | None) -> tuple[Any, list[Any]]:
    problems = []
    if zone is None:
        problems.append(_because(naive, f"{name} has no time zone: write one, or set logs.timezone (params.yaml)"))
    else:
        value = naive.ifelse(timezone(zone, local), value.cast(UTC))
    value = value.cast(UTC)
    reason = f"{name} is missing or not ISO 8601" if name in REQUIRED else f"{name} is not ISO 8601"
    given = ibis.literal(True) if name in REQUIRED else naive.notnull() & (naive | local.notnull())
    problems.append(_because(value.isnull() & given, reason))
    return value, problems


def _insert(connection: Any, raw: Any, values: dict[str, Any], problems: list[Any]) -> None:
    """Values are inserted for good rows only: what is wrong with a bad one is known, what it says is not kept."""
    reason = ibis.coalesce(*problems)
    typed = {name: value.cast(TYPES[name]) for name, value in values.items()}
    connection.insert("rows", raw.select(file=raw.file, line=raw.line, reason=reason, **typed))


# --- copies


def _table(connection: Any, adapter: str) -> LogTable:
    rows = connection.table("rows")
    set_aside = rows.filter(_.reason.notnull()).order_by("file", "line").select("file", "line", "reason").execute()
    bad = [BadRow(**row) for row in set_aside.to_dict("records")]
    good = rows.filter(_.reason.isnull())
    mine = good.filter(_.adapter.isnull() | (_.adapter == adapter))
    newest = ibis.window(
        group_by="request_id",
        order_by=[ibis.desc("feedback_at", nulls_first=False), ibis.desc("file"), ibis.desc("line")],
    )
    once = mine.mutate(place=ibis.row_number().over(newest)).filter(_.place == 0).select(*COLUMNS)
    used = connection.create_table("used", once, temp=True)
    read, own, kept = (int(table.count().execute()) for table in (rows, mine, used))
    tails = tuple(row for row in bad if row.reason == TAIL)
    return LogTable(
        rows=used,
        read=read - len(tails),
        duplicates=own - kept,
        elsewhere=read - len(bad) - own,
        quarantined=tuple(row for row in bad if row.reason != TAIL),
        tails=tails,
        _connection=connection,
    )


@dataclass(frozen=True)
class Rows:
    """Rows of a log, lazily; a stand-in until the sources are rebuilt."""

    expr: Any

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> "Rows":
        table = ibis.memtable(frame)
        given = {name: table[name].cast(TYPES[name]) if name in table.columns else ibis.null(TYPES[name]) for name in COLUMNS}
        return cls(table.select(**given))

    def count(self) -> int:
        return int(self.expr.count().execute())

    def sample(self, n: int, salt: str) -> pd.DataFrame:
        order = (ibis.literal(salt) + self.expr.request_id).hexdigest("md5")
        return self.expr.order_by(order).limit(n).execute()

    def frame(self, columns: list[str] | None = None) -> pd.DataFrame:
        kept = self.expr.order_by("timestamp", "request_id")
        return (kept.select(*columns) if columns else kept).execute()

    def where(self, predicate: Any) -> "Rows":
        return Rows(self.expr.filter(predicate))


@dataclass(frozen=True)
class LogTable2:
    """A stand-in until the sources are rebuilt."""

    table: Any
    adapter: str

    def rows(self, window: Window) -> Rows:
        mine = self.table.filter(_.adapter == self.adapter, _.timestamp >= window.start, _.timestamp < window.end)
        newest = ibis.window(group_by="request_id", order_by=ibis.desc("feedback_at"))
        return Rows(mine.mutate(place=ibis.row_number().over(newest)).filter(_.place == 0).select(*COLUMNS))


def open_logs(logs: Logs, *, root: Path, adapter: str) -> LogTable2:
    connection = ibis.duckdb.connect(memory_limit="600MB", threads=2)
    connection.raw_sql("SET TimeZone='UTC'")
    table = connection.read_parquet(str(root / logs.uri.replace("{adapter}", adapter)))
    return LogTable2(table.mutate(**{n: ibis.null(TYPES[n]) for n in COLUMNS if n not in table.columns}), adapter)
