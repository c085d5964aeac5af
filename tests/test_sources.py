"""Log files as the loop reads them, on real DuckDB: what is used, what is set aside, and where it stands."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from monitoring.sources import LogTable, open_logs
from monitoring.windows import Window
from retrain.errors import DataError, ParamsError
from retrain.sections import Logs

DAY = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
NONE = dict.fromkeys(("read", "used", "duplicates", "quarantined", "late", "outside", "tails"), 0)


def row(request: str, **fields: Any) -> str:
    base = {"request_id": request, "timestamp": "2026-03-01T10:00:00Z", "adapter": "support", "prompt": f"question {request}"}
    return json.dumps({**base, **fields}, ensure_ascii=False)


def read(root: Path, *, zone: str | None = None, uri: str = "logs/{adapter}/*.jsonl*", **columns: str) -> LogTable:
    logs = Logs(uri=uri, preset="ours", timezone=zone, columns=columns, feedback=None)
    return open_logs(logs, root=root, adapter="support")


def write(root: Path, text: str | bytes, name: str = "a.jsonl") -> Path:
    path = root / "logs" / "support" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_request_counts_once_with_its_newest_feedback(tmp_path: Path) -> None:
    late = row("r1", feedback=-1, correction="refund_status", feedback_at="2026-03-03T00:00:00Z")
    write(tmp_path, late + "\n" + row("r1") + "\n")
    write(tmp_path, row("r1", feedback=1, feedback_at="2026-03-02T00:00:00Z") + "\n" + row("r2") + "\n", "b.jsonl")
    table = read(tmp_path)
    frame = table.rows(DAY).frame()
    assert list(frame["request_id"]) == ["r1", "r2"]
    assert frame["correction"].iloc[0] == "refund_status"
    assert table.counts(DAY).model_dump() == {**NONE, "read": 4, "used": 2, "duplicates": 2}


def test_bad_lines_are_set_aside_with_file_and_line_and_never_what_they_say(tmp_path: Path) -> None:
    bad = [b"{not json secret", b'["secret"]', b'"\xff"', row("r9", feedback=3).encode(), row("r8", prompt=None).encode()]
    path = write(tmp_path, b"\n".join([row("r1").encode(), *bad, b"", row("r2").encode(), b""]))
    table = read(tmp_path)
    assert {(one.file, one.line) for one in table.quarantined} == {(str(path), line) for line in range(2, 7)}
    reasons = [one.reason for one in table.quarantined]
    words = ["not JSON", "a list, must be an object", "not UTF-8", "feedback is neither", "prompt is missing"]
    assert all(word in reason for word, reason in zip(words, reasons, strict=True)), reasons
    assert "secret" not in " ".join(reasons)
    assert list(table.rows(DAY).frame()["request_id"]) == ["r1", "r2"]


def test_every_row_falls_somewhere_and_the_window_is_half_open(tmp_path: Path) -> None:
    first, end = row("r1", timestamp="2026-03-01T00:00:00Z"), row("r2", timestamp="2026-03-02T00:00:00Z")
    write(tmp_path, "\n".join([first, first, end, "{", row("r3", adapter="orders"), ""]))
    table = read(tmp_path)
    counts = table.counts(DAY)
    assert list(table.rows(DAY).frame()["request_id"]) == ["r1"]
    assert counts.model_dump() == {**NONE, "read": 5, "used": 1, "duplicates": 1, "quarantined": 1, "outside": 2}


def test_a_half_written_tail_waits_and_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, row("r1") + "\n" + row("r2")[:30])
    table = read(tmp_path)
    assert (table.counts(DAY).read, table.quarantined) == (1, ())
    assert [(tail.file, tail.line) for tail in table.tails] == [(str(path), 2)]
    write(tmp_path, row("r1") + "\n" + row("r2"))  # whole, the line end still to come
    assert read(tmp_path).counts(DAY).used == 2


def test_a_line_separator_inside_a_text_splits_nothing(tmp_path: Path) -> None:
    prompt = "one\u2028two\u0085three\rfour"
    write(tmp_path, row("r1", prompt=prompt) + "\n")
    table = read(tmp_path)
    assert table.quarantined == ()
    assert table.rows(DAY).frame()["prompt"].iloc[0] == prompt


def test_a_naive_timestamp_is_refused_unless_params_name_its_zone(tmp_path: Path) -> None:
    write(tmp_path, row("r1", timestamp="2026-03-01T10:00:00") + "\n" + row("r2") + "\n")
    table = read(tmp_path)
    assert [(one.line, "no time zone" in one.reason) for one in table.quarantined] == [(1, True)]
    berlin = read(tmp_path, zone="Europe/Berlin").rows(DAY).frame()
    assert dict(zip(berlin["request_id"], berlin["timestamp"].dt.hour, strict=True)) == {"r1": 9, "r2": 10}


def test_feedback_is_known_only_from_its_own_time_on(tmp_path: Path) -> None:
    write(tmp_path, row("r1", feedback=-1, feedback_at="2026-03-05T00:00:00Z") + "\n" + row("r2") + "\n")
    table = read(tmp_path)
    assert table.known(datetime(2026, 3, 5, tzinfo=UTC)).count() == 0
    assert list(table.known(datetime(2026, 3, 6, tzinfo=UTC)).frame()["request_id"]) == ["r1"]


def test_other_column_names_are_mapped_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, row("r1").replace('"prompt"', '"question"') + "\n")
    assert read(tmp_path, prompt="question").rows(DAY).frame()["prompt"].iloc[0] == "question r1"
    with pytest.raises(ParamsError, match="did you mean 'prompt'"):
        read(tmp_path, promt="question")


def test_missing_files_and_unknown_zones_say_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"matches no file: logs\.uri"):
        read(tmp_path)
    write(tmp_path, row("r1") + "\n")
    with pytest.raises(ParamsError, match=r"logs\.timezone is 'Europe/Berlni'.*did you mean 'Europe/Berlin'"):
        read(tmp_path, zone="Europe/Berlni")
