"""Append-only JSONL tables: whole lines, on disk within a second, found again by the id of a request.

A line is handed to the kernel as soon as it is there, so that a SIGKILL loses what the last moments brought and nothing else;
a file that a dead process left with half a line is cut back to its last whole one. Files rotate by size and at midnight (UTC).
"""

import contextlib
import fcntl
import json
import mmap
import os
import queue
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain.records import dumps, from_stamp, stamp

SYNC = 0.5  # seconds after which a written line is on disk
MOST_HELD = 10_000  # rows kept in memory while the disk is full; then the oldest are lost, and counted
NAME = "served-"


class Table:
    """One folder of files; this process has one of them open, which no other writes to."""

    def __init__(self, folder: Path, rotate_bytes: float) -> None:
        self.folder, self.rotate_bytes = folder, rotate_bytes
        self._file: int | None = None
        self._day = ""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.files():
            _mend(path)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"{NAME}*.jsonl"))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """All of them or, where the system refuses (OSError), none."""
        if not rows:
            return
        file = self._open()
        start = os.fstat(file).st_size
        data = memoryview("".join(dumps(row) + "\n" for row in rows).encode("utf-8", "replace"))
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError:
            os.ftruncate(file, start)
            raise

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        if self._file is not None and (today != self._day or os.fstat(self._file).st_size >= self.rotate_bytes):
            self.close()
        if self._file is None:
            name = f"{NAME}{stamp(datetime.now(UTC))}-{os.getpid()}-{time.monotonic_ns():x}.jsonl"
            self._file = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._day = today
        return self._file

    def find(self, request: str, at: float, within: float) -> dict[str, Any] | None:
        """The row of a request that came at `at` and was written at most `within` seconds later."""
        for path in self.files():
            began = from_stamp(path.name.removeprefix(NAME)[:20]).timestamp()
            if began <= at + within + 1 and path.stat().st_mtime >= at - 1 and (row := _row(path, request)):
                return row
        return None

    def rows(self, since: float) -> Iterator[dict[str, Any]]:
        """All rows of files that were written to since then, oldest file first."""
        for path in self.files():
            if path.stat().st_mtime >= since:
                for line in path.read_bytes().split(b"\n"):
                    with contextlib.suppress(ValueError):
                        row = json.loads(line)
                        if isinstance(row, dict):
                            yield row


def _row(path: Path, request: str) -> dict[str, Any] | None:
    needle = f'"request_id": "{request}"'.encode()
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(needle)
        while at >= 0:
            end = data.find(b"\n", at)
            line = data[data.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(data)]
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if row.get("request_id") == request:  # and not a text that quotes it
                    return dict(row)
            at = data.find(needle, at + 1)
    return None


def _mend(path: Path) -> None:
    """Cut half a line off a file whose writer is dead."""
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # it lives
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                whole = data.rfind(b"\n") + 1
            file.truncate(whole)


class Journal:
    """Writes the rows of several tables in a thread of its own, in the order in which they came."""

    def __init__(self) -> None:
        self._errors: dict[tuple[Table, str], str] = {}  # by table and what failed there
        self.lost = 0
        self._queue: queue.SimpleQueue[tuple[Table, dict[str, Any]] | None] = queue.SimpleQueue()
        self._held: list[tuple[Table, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """What cannot be written or flushed, until it could."""
        return "; ".join(tuple(self._errors.values())) or None

    def add(self, table: Table, row: dict[str, Any]) -> None:
        self._queue.put((table, row))

    def close(self) -> None:
        """What came before is on disk afterwards, if the disk takes it."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        unsynced: set[Table] = set()
        since, open_ = 0.0, True
        while open_:
            open_ = self._take(SYNC if unsynced or self._held else None) and open_
            wrote = self._write()
            if wrote and not unsynced:
                since = time.monotonic()
            unsynced |= wrote
            if unsynced and (not open_ or time.monotonic() - since >= SYNC):
                unsynced, since = self._sync(unsynced), time.monotonic()

    def _take(self, patience: float | None) -> bool:
        """Everything that is there, waiting for the first; False at the end."""
        with contextlib.suppress(queue.Empty):
            found = self._queue.get(timeout=patience)
            while found is not None:
                self._held.append(found)
                found = self._queue.get_nowait()
            return False
        return True

    def _write(self) -> set[Table]:
        wrote: set[Table] = set()
        for table in dict.fromkeys(table for table, _ in self._held):
            try:
                table.write([row for of, row in self._held if of is table])
            except OSError as error:
                self._errors[table, "write"] = (
                    f"{table.folder} cannot be written ({error.strerror}): free some space or mend its mode"
                )
                continue
            self._errors.pop((table, "write"), None)
            self._held = [(of, row) for of, row in self._held if of is not table]
            wrote.add(table)
        over = len(self._held) - MOST_HELD
        if over > 0:
            self.lost += over
            self._held = self._held[over:]
        return wrote

    def _sync(self, tables: set[Table]) -> set[Table]:
        """Those that could not be flushed, which are tried again."""
        failed: set[Table] = set()
        for table in tables:
            try:
                table.sync()
                self._errors.pop((table, "sync"), None)
            except OSError as error:
                self._errors[table, "sync"] = f"{table.folder} could not be flushed to disk ({error.strerror})"
                failed.add(table)
        return failed
