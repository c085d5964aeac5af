"""JSONL into typed rows: bytes are split at LF in blocks, everything else is DuckDB's work.

DuckDB's own text readers stop at a NUL or a stray byte and split at CR, so they do not read these files.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr import datatypes as dt

from monitoring.sources.columns import Canon, Cell, must_be
from monitoring.sources.engines import call
from monitoring.sources.mapping import IDS, NESTED, NUMBERS, TIMES, Place, Places
from monitoring.sources.rows import BadRow

LF = 10
BLOCK = 8 << 20
BATCH = 32 << 20  # bytes of text that are parsed at once
LONGEST = 10 << 20  # a longer line is no log record; it is not kept in memory
BOM = b"\xef\xbb\xbf"
WORDS = {"VARCHAR": "text", "ARRAY": "a list", "OBJECT": "an object", "BOOLEAN": "true or false"}
TAIL = "a half-written last line"
PLACE = {"file": "string", "line": "int64"}
SCHEMA = pa.schema([("file", pa.string()), ("line", pa.int64()), ("text", pa.string()), ("note", pa.string())])


@dataclass(frozen=True)
class Chunk:
    """Whole lines from `line` on (numbered from 1), each with its LF; note says what is wrong with them, where something is."""

    line: int
    data: bytes
    note: str | None = None


def chunks(blocks: Iterable[bytes]) -> Iterator[Chunk]:
    """All lines of a file, split at LF only; the last has note TAIL where no LF ends it, and a too long one is not kept."""
    number, rest, lost = 1, b"", 0  # of the line that no LF has ended yet: what is kept, or how much was thrown away
    for block in blocks:
        block = block.removeprefix(BOM) if number == 1 and not rest and not lost else block
        first, last = block.find(b"\n") + 1, block.rfind(b"\n") + 1
        head = len(rest) + (first or len(block))
        if lost or head > LONGEST:
            rest, lost = b"", lost + head
            if not first:
                continue
            yield Chunk(number, b"\n", _too_long(lost))
            number, lost, block, last = number + 1, 0, block[first:], last - first
        body, rest = rest + block[:last] if last else b"", block[last:] if last else rest + block
        if body:
            yield Chunk(number, body)
            number += body.count(b"\n")
    if lost:
        yield Chunk(number, b"\n", _too_long(lost))
    elif rest.strip():
        yield Chunk(number, rest, TAIL)


def _too_long(size: int) -> str:
    return f"the line has {size:,} bytes, at most {LONGEST:,} are read"


class Lines:
    """Batches of lines, parsed into the table `rows`; one SQL text serves all of them."""

    def __init__(self, canon: Canon, places: Places, table: str) -> None:
        self.connection = canon.engine.connection
        self.table = table
        self.batch: list[pa.Table] = []
        self.size = 0
        raw = self.connection.create_table(
            "lines", schema=ibis.schema({**PLACE, "text": "string", "note": "string"}), temp=True
        )
        rows = _rows(raw, canon, places)
        self.sql = ibis.to_sql(rows, dialect="duckdb")
        self.connection.create_table(table, schema=rows.schema(), temp=True)

    def add(self, file: str, chunk: Chunk) -> int:
        """Take a chunk; the number of the line after it."""
        texts, notes = _texts(chunk)
        count = len(texts)
        numbers = pa.array(np.arange(chunk.line, chunk.line + count))
        self.batch.append(pa.Table.from_arrays([pa.repeat(file, count), numbers, texts, notes], schema=SCHEMA))
        self.size += len(chunk.data)
        if self.size >= BATCH:
            self.flush()
        return chunk.line + count

    def flush(self) -> None:
        if self.batch:
            raw = self.connection.con
            raw.register("lines_batch", pa.concat_tables(self.batch))
            raw.execute("DELETE FROM lines")
            raw.execute("INSERT INTO lines SELECT * FROM lines_batch")
            raw.unregister("lines_batch")
            raw.execute(f"INSERT INTO {self.table} {self.sql}")
            self.batch, self.size = [], 0

    def close(self) -> list[BadRow]:
        """The last batch, and then the tails, which are no rows yet."""
        self.flush()
        raw = self.connection.con
        raw.execute("DROP TABLE lines")
        tails = raw.execute(f"DELETE FROM {self.table} WHERE reason = $1 RETURNING file, line", [TAIL]).fetchall()
        return sorted((BadRow(file=file, line=line, reason=TAIL) for file, line in tails), key=lambda row: (row.file, row.line))


def _texts(chunk: Chunk) -> tuple[pa.Array, pa.Array]:
    """Lines as text; one that is not UTF-8 is empty, with a note that says so."""
    ends = np.flatnonzero(np.frombuffer(chunk.data, np.uint8) == LF) + 1
    if not chunk.data.endswith(b"\n"):
        ends = np.append(ends, len(chunk.data))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(chunk.data))
    try:
        texts.validate(full=True)
        return texts, pa.repeat(pa.scalar(chunk.note, pa.string()), len(ends))
    except pa.ArrowInvalid:
        lines = (chunk.data[start:end] for start, end in itertools.pairwise(offsets))
        decoded = [_decoded(line, chunk.note) for line in lines]
        return pa.array([text for text, _ in decoded], pa.string()), pa.array([note for _, note in decoded], pa.string())


def _decoded(line: bytes, note: str | None) -> tuple[str, str | None]:
    try:
        return line.decode("utf-8"), note
    except UnicodeDecodeError as error:
        return "", note or f"not UTF-8 (byte {error.start} of the line)"


def _rows(raw: Any, canon: Canon, places: Places) -> Any:
    """file, line and the columns of ours of every line that is not blank."""
    raw = raw.filter(raw.text.re_search(r"\S") | raw.note.notnull())
    raw = raw.mutate(valid=call("json_valid", (dt.string,), dt.boolean, raw.text))
    raw = raw.mutate(root=_kind(raw.valid.ifelse(raw.text, "null"), "$"))
    # from here on `object` is always a JSON object, so no expression can raise
    raw = raw.mutate(object=(raw.root == "OBJECT").ifelse(raw.text, "{}"))
    pointers = sorted({place.pointer for some in places.values() for place in some})
    texts = dt.Array(dt.string)
    paths = ibis.array(pointers)  # all of them at once: each call parses the line anew
    raw = raw.mutate(
        kinds=call("json_type", (dt.string, texts), texts, raw.object, paths),
        values=call("json_extract_string", (dt.string, texts), texts, raw.object, paths),
    )
    cells = {name: [_cell(raw, name, place, pointers.index(place.pointer)) for place in some] for name, some in places.items()}
    columns = canon.columns(cells)
    reason = ibis.coalesce(
        ibis.cases(
            ((raw.note == TAIL) & ~raw.valid, TAIL),
            ((raw.note != TAIL) & raw.note.notnull(), raw.note),
            (~raw.valid, "not JSON"),
            (raw.root != "OBJECT", raw.root.cases(*WORDS.items(), ("NULL", "null"), else_="a number") + ", must be an object"),
        ),
        columns["reason"],
    )
    columns |= {"bad": reason.notnull(), "reason": reason}
    return raw.select(file=raw.file, line=raw.line, **columns)


def _kind(text: Any, path: str) -> Any:
    return call("json_type", (dt.string, dt.string), dt.string, text, path)


def _cell(raw: Any, name: str, place: Place, index: int) -> Cell:
    kind = raw.kinds[index]
    given = kind.notnull() & (kind != "NULL")
    value = given.ifelse(raw.values[index], ibis.null(str))
    if name == "metadata":
        return Cell(place, value, loose=True)
    words = kind.cases(*WORDS.items(), else_="a number")
    reason = ibis.literal(f"{name} is ") + words + f", must be {must_be(name)}"
    return Cell(place, value, (given & ~kind.isin(_kinds(name, place.unit)), reason), loose=True)


def _kinds(name: str, unit: str | None) -> list[str]:
    whole = ["BIGINT", "UBIGINT"]
    number = [*whole, "DOUBLE"]
    if name in TIMES:
        return ["VARCHAR"] if unit is None else [*number, "VARCHAR"]
    if name == "feedback":
        return [*number, "BOOLEAN"]
    if name in NUMBERS:
        return number if unit is None else [*number, "VARCHAR"]
    if name in NESTED or unit == "messages":
        return ["ARRAY", "VARCHAR"]
    if unit == "json":
        return ["ARRAY", "OBJECT", "VARCHAR", "BOOLEAN", *number]
    return ["VARCHAR", *whole] if name in IDS else ["VARCHAR"]
