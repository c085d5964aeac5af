"""Which files a URI names, and those of Parquet as views that outlive a file's end."""

import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from monitoring.sources.engines import DuckDB
from monitoring.sources.rows import BadRow
from retrain.errors import DataError, ParamsError

JSONL = re.compile(r"\.(jsonl|ndjson)(\.\d+)?(\.gz)?$")  # a rotated file may carry a number
HIDDEN = ("_", ".")


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

    def has(self, name: str) -> bool:
        return os.path.exists(name) if self.system is None else bool(self.system.exists(name))

    def full(self, name: str) -> str:
        """As DuckDB names a file."""
        return name if self.system is None else str(self.system.unstrip_protocol(name))

    def address(self, name: str) -> str:
        """How DuckDB is told of a file: its name is no pattern."""
        return re.sub(r"([\[*?])", r"[\1]", self.full(name))


@dataclass
class Parquet:
    """Views over the Parquet files of a folder, one for each shape of columns.

    Files of different shapes stay apart, for DuckDB would make 10:00 without a zone 10:00 UTC beside a file with zones.
    A query that finds a file gone (compacted, rotated) lists the folder again and is asked once more.
    """

    engine: DuckDB
    folder: Folder
    table: str
    unreadable: list[BadRow] = field(default_factory=list)
    views: dict[str, str] = field(default_factory=dict)  # shape -> name of its view

    def open(self) -> list[Any]:
        shapes = self._shapes()
        self.views = {shape: f"{self.table}_{number}" for number, shape in enumerate(shapes)}
        if shapes:
            self.engine.menders.append(self.mend)
        return [self._view(self.views[shape], files) for shape, files in shapes.items()]

    def mend(self) -> None:
        """Views over the files that are there now; DataError where their columns are others."""
        shapes = self._shapes()
        if set(shapes) != set(self.views):
            raise DataError(f"the columns of {self.folder.pattern} changed while it was read: run again")
        for shape, files in shapes.items():
            self._view(self.views[shape], files)

    def _view(self, name: str, addresses: list[str]) -> Any:
        partitioned = any("=" in part for part in addresses[0].split("/")[:-1])
        given: dict[str, Any] = {"hive_types_autocast": False} if partitioned else {}
        return self.engine.connection.read_parquet(
            addresses,
            table_name=name,
            file_row_number=True,
            filename="retrain_file",
            hive_partitioning=partitioned,
            **given,
        )

    def _shapes(self) -> dict[str, list[str]]:
        """Addresses by shape; what is no whole file is set aside in `unreadable`."""
        by_address = {self.folder.address(name): name for name in self.folder.list() if name.endswith(".parquet")}
        self.unreadable.clear()
        found: dict[str, str] = {}
        try:
            found = self._schemas(by_address)
        except Exception:  # duckdb's own error tree is not part of Ibis' interface; one file or more: which?
            for address, name in by_address.items():
                try:
                    found |= self._schemas({address: name})
                except Exception as error:
                    if self.folder.has(name):
                        reason = f"not a readable Parquet file, or not yet whole ({type(error).__name__})"
                        self.unreadable.append(BadRow(file=name, line=0, reason=reason))
        shapes: dict[str, list[str]] = {}
        for address in sorted(found):
            shapes.setdefault(found[address], []).append(address)
        return shapes

    def _schemas(self, by_address: dict[str, str]) -> dict[str, str]:
        """The shape of each file, from its footer."""
        if not by_address:
            return {}
        names = {self.folder.full(name): address for address, name in by_address.items()}
        rows = self.engine.connection.con.execute(
            "SELECT file_name, string_agg(concat_ws(' ', name, type, num_children, converted_type, logical_type), ';'"
            " ORDER BY name) FROM parquet_schema($1) GROUP BY file_name",
            [list(by_address)],
        ).fetchall()
        return {names[file]: shape for file, shape in rows}
