"""Log files on this machine or in an object store: JSONL, gzipped JSONL and Parquet, on DuckDB.

Parquet stays where it is and is read by each query, as far as it asks; JSONL is parsed once, when the table is opened.
"""

import glob
import os
import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ibis

from monitoring.sources.columns import Canon, cells
from monitoring.sources.engines import DuckDB
from monitoring.sources.lines import BLOCK, Chunk, Lines, chunks
from monitoring.sources.mapping import REQUIRED, Places
from monitoring.sources.rows import BadRow, Part, Source
from retrain.errors import DataError, ParamsError

MEMORY = "400MB"  # of DuckDB; what does not fit goes to its own folder on disk
JSONL = re.compile(r"\.(jsonl|ndjson)(\.\d+)?(\.gz)?$")  # a rotated file may carry a number
LISTINGS = 5  # of a folder whose files are renamed while they are read
HIDDEN = ("_", ".")


def connect() -> DuckDB:
    """A DuckDB in memory whose large intermediate results go to a folder that vanishes with it."""
    folder = tempfile.mkdtemp(prefix="retrain-duckdb-")
    connection = ibis.duckdb.connect(temp_directory=folder)
    for setting in ("TimeZone='UTC'", f"memory_limit='{MEMORY}'", "preserve_insertion_order=false"):
        connection.raw_sql(f"SET {setting}")
    weakref.finalize(connection, shutil.rmtree, folder, ignore_errors=True)
    return DuckDB(connection)


@dataclass(frozen=True)
class Folder:
    """The files that a URI names; listed anew each time, for they come and go."""

    pattern: str
    system: Any  # an fsspec file system; None for this machine's own files

    @classmethod
    def of(cls, uri: str, root: Path, connection: Any) -> "Folder":
        if uri.startswith("file://"):
            uri = uri.removeprefix("file://")
        if "://" not in uri:
            return cls(str(root / uri), None)
        import fsspec

        scheme = uri.partition("://")[0]
        try:
            system, path = fsspec.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise ParamsError(f"logs.uri is {uri!r} (params.yaml): {scheme}:// cannot be read ({error})") from error
        connection.con.register_filesystem(system)
        return cls(path, system)

    def list(self) -> list[str]:
        """Names of log files, sorted; the files below it where the URI is a folder. DataError where there is none."""
        if self.system is None:
            found = sorted(glob.glob(self.pattern, recursive=True))
            folders = [name for name in found if os.path.isdir(name)]
            inside = [name for folder in folders for name in glob.glob(f"{glob.escape(folder)}/**/*", recursive=True)]
            files = [name for name in [*found, *inside] if os.path.isfile(name)]
        else:
            found = [str(name) for name in self.system.glob(self.pattern)]
            inside = [name for folder in found for name in self.system.find(folder) if name != folder]
            files = [name for name in found if name not in inside and self.system.isfile(name)] + inside
        named = sorted({name for name in files if not os.path.basename(name).startswith(HIDDEN)})
        if not named:
            what = "holds no log file" if found else "matches no file"
            raise DataError(
                f"{self.pattern} {what}: logs.uri (params.yaml) must name log files, such as logs/{{adapter}}/*.jsonl"
            )
        for name in named:
            if not (JSONL.search(name) or name.endswith(".parquet")):
                raise DataError(
                    f"{name} is neither .jsonl, .jsonl.gz nor .parquet: narrow logs.uri (params.yaml), or rename it"
                )
        return named

    def open(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = open(name, "rb") if self.system is None else self.system.open(name, "rb")  # noqa: SIM115
        return stream

    def address(self, name: str) -> str:
        """How DuckDB is told of a file; its name is no pattern."""
        name = name if self.system is None else self.system.unstrip_protocol(name)
        return re.sub(r"([\[*?])", r"[\1]", name)


def open_files(engine: DuckDB, folder: Folder, places: Places, canon: Canon, table: str) -> Source:
    """The files of a folder as one source; `table` is a name in the connection that is not taken."""
    parts, tails = [], []
    names = folder.list()
    if any(not name.endswith(".parquet") for name in names):
        found, halves = _lines(engine, folder, places, canon, f"{table}_lines")
        parts.append(found)
        tails += halves
    parquet = [name for name in names if name.endswith(".parquet")]
    groups, unreadable = _shapes(engine.connection, folder, parquet)
    for number, group in enumerate(groups):
        parts.append(_parquet(engine, folder, group, places, f"{table}_{number}"))
    if parquet and len(unreadable) == len(names):
        raise DataError(f"{unreadable[0].file} is not a readable Parquet file: write or copy it again")
    return Source(engine, canon, parts, tuple(tails + unreadable))


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


# --- Parquet


def _shapes(connection: Any, folder: Folder, names: list[str]) -> tuple[list[list[str]], list[BadRow]]:
    """Files of equal columns and types together, for DuckDB would make 10:00 without a zone 10:00 UTC; and what is no file."""
    if not names:
        return [], []
    by_address = {folder.address(name): name for name in names}
    shapes, bad = {}, []
    try:
        shapes = _schemas(connection, list(by_address))
    except Exception:  # duckdb's own error tree is not part of Ibis' interface; one file or more: which?
        for address, name in by_address.items():
            try:
                shapes |= _schemas(connection, [address])
            except Exception as error:
                reason = f"not a readable Parquet file, or not yet whole ({type(error).__name__})"
                bad.append(BadRow(file=name, line=0, reason=reason))
    groups: dict[str, list[str]] = {}
    for file, shape in sorted(shapes.items()):
        groups.setdefault(shape, []).append(file)
    return list(groups.values()), bad


def _schemas(connection: Any, addresses: list[str]) -> dict[str, str]:
    rows = connection.con.execute(
        "SELECT file_name, string_agg(concat_ws(' ', name, type, num_children, converted_type, logical_type), ';')"
        " FROM parquet_schema($1) GROUP BY file_name",
        [addresses],
    ).fetchall()
    return dict(rows)


def _parquet(engine: DuckDB, folder: Folder, names: list[str], places: Places, table: str) -> Part:
    addresses = [re.sub(r"([\[*?])", r"[\1]", name) for name in names]
    partitioned = any("=" in part for part in names[0].split("/")[:-1])
    raw = engine.connection.read_parquet(
        addresses,
        table_name=table,
        file_row_number=True,
        filename="retrain_file",
        hive_partitioning=partitioned,
        **({"hive_types_autocast": False} if partitioned else {}),
    )
    found = cells(raw, places, engine)
    for ours in REQUIRED:
        if not found[ours]:
            theirs = " or ".join("/".join(place.steps) for place in places[ours])
            raise DataError(
                f"{names[0]} has no column {theirs} for {ours}, it has {', '.join(raw.columns[:20])}:"
                f" map it in params.yaml, logs.columns: {{{ours}: <theirs>}}"
            )
    return Part(raw.mutate(file=raw.retrain_file, line=raw.file_row_number + 1), found)
