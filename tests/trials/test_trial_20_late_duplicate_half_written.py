"""Trial 20: late, duplicate and half-written log lines, and rotation while they are read: each id once, nothing lost."""

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.sources import LogTable, open_logs
from monitoring.windows import Window
from retrain.sections import Logs

FIRST = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
SECOND = Window(FIRST.end, FIRST.end + FIRST.length)


def line(request: str, at: datetime, **fields: Any) -> bytes:
    row = {"request_id": request, "timestamp": at.isoformat(), "prompt": f"question {request}", **fields}
    return json.dumps(row).encode() + b"\n"


def opened(root: Path) -> LogTable:
    logs = Logs(uri="*.jsonl*", preset="ours", timezone=None, columns={}, feedback=None)
    return open_logs(logs, root=root, adapter="support")


class Writer(threading.Thread):
    """A service that writes in pieces that end anywhere, and rotates its log by renaming it."""

    ROWS, EVERY = 3000, 60

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.whole = 0  # rows that are in the files to their last byte
        self.stop = threading.Event()

    def run(self) -> None:
        active = self.root / "active.jsonl"
        for start in range(0, self.ROWS, self.EVERY):
            with active.open("ab", buffering=0) as file:
                for i in range(start, start + self.EVERY):
                    data = line(f"r{i}", FIRST.start + timedelta(seconds=i))
                    for piece in (data[:17], data[17:-1], data[-1:]):
                        file.write(piece)
                    self.whole = i + 1
                    self.stop.wait(0.001)
            os.rename(active, self.root / f"old-{start:05}.jsonl")
            active.touch()


def test_a_log_that_grows_and_is_renamed_while_it_is_read_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "active.jsonl").touch()
    writer = Writer(tmp_path)
    writer.start()
    reads = 0
    while writer.is_alive() or reads < 3:
        before = writer.whole
        logs = opened(tmp_path)
        after = writer.whole
        counts = logs.counts(FIRST)
        assert before <= counts.used <= after + 1, (before, counts, after)  # + 1: whole, its line end still to come
        assert (counts.duplicates, counts.quarantined, counts.outside) == (0, 0, 0)
        assert len(logs.tails) <= 1
        reads += 1
    writer.join()
    counts = opened(tmp_path).counts(FIRST)
    assert (counts.read, counts.used, counts.tails) == (Writer.ROWS, Writer.ROWS, 0)


def test_late_rows_are_found_in_their_own_window_and_named_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line(f"r{i}", FIRST.start + timedelta(hours=i)) for i in range(20)))
    measured = opened(tmp_path).rows(FIRST).count()
    with path.open("ab") as file:
        file.write(b"".join(line(f"s{i}", SECOND.start + timedelta(hours=i)) for i in range(10)))
        file.write(b"".join(line(f"late{i}", FIRST.start + timedelta(hours=i, minutes=1)) for i in range(3)))
        file.write(line("r3", FIRST.start + timedelta(hours=3), feedback=-1, feedback_at=SECOND.start.isoformat()))
        file.write(line("r3", FIRST.start + timedelta(hours=3)))
        file.write(b'{"request_id": "half')
    logs = opened(tmp_path)
    late = logs.rows(FIRST).count() - measured
    assert late == 3
    assert logs.counts(SECOND, late).model_dump() == {
        "read": 35, "used": 10, "duplicates": 0, "quarantined": 0, "late": 3, "outside": 22, "tails": 1
    }  # fmt: skip
    again = logs.counts(FIRST)
    assert (again.used, again.duplicates) == (23, 2)
    frame = logs.rows(FIRST).frame().set_index("request_id")
    assert frame["feedback"]["r3"] == -1
    with path.open("ab") as file:
        file.write(line("x", SECOND.start)[len('{"request_id": "x') :].replace(b'"', b'-done"', 1))
    done = opened(tmp_path)
    assert (done.counts(SECOND).used, done.tails) == (11, ())
    assert "half-done" in set(done.rows(SECOND).frame()["request_id"])
