"""Log files on this machine or in an object store: JSONL, gzipped JSONL and Parquet, on DuckDB.

Parquet stays where it is and is read by each query, as far as it asks; JSONL is parsed once, when the table is opened.
"""

import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from typing import IO, Any

import ibis

from monitoring.sources.columns import Canon, required
from monitoring.sources.engines import DuckDB
from monitoring.sources.lines import BLOCK, Chunk, Lines, chunks
from monitoring.sources.mapping import Places
from monitoring.sources.parquet import Folder, Parquet
from monitoring.sources.rows import BadRow, Part, Source
from retrain.errors import DataError

MEMORY = "400MB"  # of DuckDB; what does not fit goes to its own folder on disk
LISTINGS = 5  # of a folder whose files are renamed while they are read


def connect() -> DuckDB:
    """A DuckDB in memory whose large intermediate results go to a folder that vanishes with it."""
    folder = tempfile.mkdtemp(prefix="retrain-duckdb-")
    connection = ibis.duckdb.connect(temp_directory=folder)
    for setting in ("TimeZone='UTC'", f"memory_limit='{MEMORY}'", "preserve_insertion_order=false"):
        connection.raw_sql(f"SET {setting}")
    weakref.finalize(connection, shutil.rmtree, folder, ignore_errors=True)
    return DuckDB(connection)


def open_files(engine: DuckDB, folder: Folder, places: Places, canon: Canon, table: str) -> Source:
    """The files of a folder as one source; `table` is a name in the connection that is not taken."""
    parts, tails = [], []
    names = folder.list()
    if any(not name.endswith(".parquet") for name in names):
        found, halves = _lines(engine, folder, places, canon, f"{table}_lines")
        parts.append(found)
        tails += halves
    parquet = Parquet(engine, folder, table)
    for raw in parquet.open():
        parts.append(
            Part(raw.mutate(file=raw.retrain_file, line=raw.file_row_number + 1), required(raw, places, engine, folder.pattern))
        )
    if not parts:
        raise DataError(f"{parquet.unreadable[0].file} is not a readable Parquet file: write or copy it again")
    return Source(engine, canon, parts, tuple(tails + parquet.unreadable))


# --- JSONL


def _lines(engine: DuckDB, folder: Folder, places: Places, canon: Canon, table: str) -> tuple[Part, list[BadRow]]:
    lines = Lines(canon, places, table)
    seen: set[Any] = set()
    for _ in range(LISTINGS):
        fresh = [name for name in folder.list() if not name.endswith(".parquet") and _identity(folder, name) not in seen]
        for name in fresh:
            try:
                stream = folder.open(name)
            except FileNotFoundError:
                continue  # renamed since it was listed: the next listing has its new name
            with stream:
                identity = _identity(folder, name, stream)
                if identity not in seen:
                    seen.add(identity)
                    _read(stream, name, lines)
        if not fresh or folder.system is not None:
            break
    tails = lines.close()
    return Part(engine.connection.table(table), None), tails


def _identity(folder: Folder, name: str, stream: IO[bytes] | None = None) -> Any:
    """The same for a file that was renamed; a name in an object store is all there is."""
    if folder.system is not None:
        return name
    try:
        found = os.fstat(stream.fileno()) if stream else os.stat(name)
    except FileNotFoundError:
        return name
    return found.st_dev, found.st_ino


def _read(stream: IO[bytes], name: str, lines: Lines) -> None:
    after = 1
    blocks = _unzipped(stream) if name.endswith(".gz") else iter(lambda: stream.read(BLOCK), b"")
    try:
        for chunk in chunks(blocks):
            after = lines.add(name, chunk)
    except (EOFError, zlib.error) as error:  # what came before is good
        damaged = f"the gzip file ends early or is damaged ({type(error).__name__}): copy it again"
        lines.add(name, Chunk(after, b"\n", damaged))


def _unzipped(stream: IO[bytes]) -> Iterator[bytes]:
    """Block by block, so that what precedes a damage is kept and a bomb fills no memory."""
    inflate = zlib.decompressobj(wbits=31)
    begun = False
    while data := stream.read(BLOCK // 8):
        while data:
            begun = True
            yield inflate.decompress(data, BLOCK)
            data = inflate.unconsumed_tail
            if inflate.eof:
                data = inflate.unused_data.lstrip(b"\0")
                inflate, begun = zlib.decompressobj(wbits=31), False
    if begun:
        raise EOFError
