"""Log files hold whole lines, whatever kills or fills."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from retrain.serving.journal import Journal, Table

WRITER = """
import sys, time
from pathlib import Path
from retrain.serving.journal import Journal, Table
journal, table = Journal(), Table(Path(sys.argv[1]), 50_000)
for i in range(10**9):
    journal.add(table, {"request_id": str(i), "at": time.time(), "text": "x" * 20_000})
    time.sleep(0.0005)
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda row: int(row["request_id"]))


def test_trial_38_a_sigkill_loses_less_than_a_second_and_leaves_no_half_row(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    while len(list(tmp_path.glob("*.jsonl"))) < 5:
        time.sleep(0.05)
    killed = time.time()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    Table(tmp_path, 1)  # the next server
    found = rows(tmp_path)
    assert [int(row["request_id"]) for row in found] == list(range(len(found)))
    assert killed - found[-1]["at"] < 1.0


def test_half_a_line_of_a_dead_writer_is_cut_off_and_that_of_a_living_one_is_left(tmp_path: Path) -> None:
    living = Table(tmp_path, 1e6)
    living.write([{"request_id": "1"}])
    (file,) = tmp_path.glob("*.jsonl")
    dead = tmp_path / "served-2026-03-01T00-00-00Z-1-a.jsonl"
    for path in (file, dead):
        with path.open("ab") as handle:
            handle.write(b'{"request_id": "2"}\n{"request')
    Table(tmp_path, 1e6)
    assert dead.read_bytes().endswith(b'"2"}\n')
    assert file.read_bytes().endswith(b'{"request')


def test_a_row_is_found_by_id_and_time_in_rotated_files(tmp_path: Path) -> None:
    table = Table(tmp_path, 100)
    quoting = {"request_id": "a", "text": '"request_id": "b"'}
    table.write([quoting])
    table.write([{"request_id": "b", "n": 1}])
    table.write([{"request_id": "c" * 200}])
    table.write([{"request_id": "d"}])
    assert len(table.files()) > 1
    assert table.find("b", time.time(), 60) == {"request_id": "b", "n": 1}
    assert table.find("e", time.time(), 60) is None
    assert table.find("b", time.time() + 3600, 60) is None


def test_a_full_disk_is_told_and_what_waited_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, table, full = Journal(), Table(tmp_path, 1e6), True
    write = os.write

    def refuses(file: int, data: Any) -> int:
        if full:
            write(file, bytes(data[:5]))  # half of it, as a file system that fills does
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("retrain.serving.journal.os.write", refuses)
    journal.add(table, {"request_id": "1"})
    while journal.error is None:
        time.sleep(0.01)
    assert "No space left" in journal.error
    full = False
    journal.add(table, {"request_id": "2"})
    while journal.error:
        time.sleep(0.01)
    journal.close()
    assert [row["request_id"] for row in rows(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize("fails", ["write", "sync"])
def test_a_log_that_fails_is_told_until_it_works_whatever_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    journal, bad, good = Journal(), Table(tmp_path / "bad", 1e6), Table(tmp_path / "good", 1e6)
    works, broken = getattr(bad, fails), [True]

    def refuses(*about: Any) -> None:
        if broken:
            raise OSError(errno.EIO, "Input/output error")
        works(*about)

    monkeypatch.setattr(bad, fails, refuses)
    monkeypatch.setattr("retrain.serving.journal.SYNC", 0.05)
    journal.add(bad, {"request_id": "1"})
    while journal.error is None:
        time.sleep(0.01)
    for number in range(2, 5):
        journal.add(good, {"request_id": str(number)})
        while len(rows(tmp_path / "good")) < number - 1:
            time.sleep(0.01)
        for _ in range(20):  # until it is flushed
            assert str(tmp_path / "bad") in (journal.error or "")
            time.sleep(0.005)
    broken.clear()
    while journal.error:
        time.sleep(0.01)
    journal.close()
    assert [row["request_id"] for row in rows(tmp_path / "bad")] == ["1"]
