"""Log files as they come: Parquet of several shapes, object stores, gzip, feedback in a second table, and every account."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.sources import COLUMNS, LogTable, Rows, open_logs
from monitoring.windows import Window
from retrain.errors import DataError, ParamsError
from retrain.sections import Feedback, Logs

DAY = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)


def opened(root: Path, uri: str, *, zone: str | None = None, feedback: Feedback | None = None, **columns: str) -> LogTable:
    logs = Logs(uri=uri, preset="ours", timezone=zone, columns=columns, feedback=feedback)
    return open_logs(logs, root=root, adapter="support")


def parquet(path: Path, *rows: dict[str, Any], **types: pa.DataType) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{"request_id": "r1", "timestamp": TEN, "prompt": "q", **row} for row in rows])
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, path)
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    base = {"request_id": "r1", "timestamp": "2026-03-01T10:00:00Z", "prompt": "q"}
    path.write_text("".join(json.dumps({**base, **row}) + "\n" for row in rows))
    return path


def test_a_naive_file_beside_an_aware_one_is_never_taken_for_utc(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"request_id": "naive"}, timestamp=pa.timestamp("us"))
    parquet(tmp_path / "b.parquet", {"request_id": "aware"}, timestamp=pa.timestamp("us", "UTC"))
    parquet(tmp_path / "c.parquet", {"request_id": "text", "timestamp": "2026-03-01T10:00:00+02:00"})
    refused = opened(tmp_path, "*.parquet")
    assert [(Path(row.file).name, row.line, "no time zone" in row.reason) for row in refused.quarantined] == [
        ("a.parquet", 1, True)
    ]
    hours = (
        opened(tmp_path, "*.parquet", zone="America/New_York").rows(DAY).frame().set_index("request_id")["timestamp"].dt.hour
    )
    assert hours.to_dict() == {"text": 8, "aware": 10, "naive": 15}


def test_a_window_finds_naive_rows_whatever_the_zone_is(tmp_path: Path) -> None:
    rows = [{"request_id": f"r{h}", "timestamp": datetime(2026, 3, 1, 12) + timedelta(hours=h)} for h in range(-30, 31)]
    parquet(tmp_path / "a.parquet", *rows)
    for zone, first in (("Pacific/Kiritimati", 14), ("Etc/GMT+12", -12), ("Asia/Kolkata", 5.5)):
        frame = opened(tmp_path, "a.parquet", zone=zone).rows(DAY).frame()
        local = frame["timestamp"].dt.tz_localize(None) + timedelta(hours=first)
        assert sorted(f"r{round((time - datetime(2026, 3, 1, 12)).total_seconds() / 3600)}" for time in local) == sorted(
            frame["request_id"]
        )
        assert len(frame) == 24


def test_a_wrong_type_quarantines_its_rows_and_says_which_type(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"prompt": 5})
    parquet(tmp_path / "b.parquet", {"timestamp": 1772359200})
    parquet(tmp_path / "c.parquet", {"latency_ms": "12"})
    parquet(tmp_path / "d.parquet", {"request_id": 7, "feedback": True})
    logs = opened(tmp_path, "*.parquet")
    reasons = [row.reason for row in logs.quarantined]
    assert reasons[0] == "prompt is of type int64, must be text"
    assert (
        "timestamp is of type int64, must be ISO 8601 text or a timestamp, or its unit in logs.columns: 'timestamp as ms'"
        in reasons[1]
    )
    assert reasons[2] == "latency_ms is of type string, must be a finite number"
    row = logs.rows(DAY).frame().iloc[0]
    assert (row["request_id"], row["feedback"]) == ("7", 1.0)
    assert opened(tmp_path, "b.parquet", timestamp="timestamp as s").rows(DAY).frame()["timestamp"].iloc[0] == pd.Timestamp(TEN)


def test_a_parquet_file_that_is_still_being_written_waits_like_a_half_line(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {})
    half = tmp_path / "b.parquet"
    half.write_bytes(whole.read_bytes()[:-20])
    logs = opened(tmp_path, "*.parquet")
    assert [(Path(tail.file).name, "not yet whole" in tail.reason) for tail in logs.tails] == [("b.parquet", True)]
    assert logs.counts(DAY).model_dump() == {
        "read": 1, "used": 1, "duplicates": 0, "quarantined": 0, "late": 0, "outside": 0, "tails": 1
    }  # fmt: skip
    whole.unlink()
    with pytest.raises(DataError, match=r"b\.parquet is not a readable Parquet file"):
        opened(tmp_path, "*.parquet")


def test_a_parquet_file_that_vanishes_before_it_is_asked_leaves_the_others(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"request_id": "a"})
    gone = parquet(tmp_path / "b.parquet", {"request_id": "b"})
    logs = opened(tmp_path, "*.parquet")
    parquet(tmp_path / "c.parquet", {"request_id": "b"}, {"request_id": "c"})  # compacted into another
    gone.unlink()
    assert list(logs.rows(DAY).frame()["request_id"]) == ["a", "b", "c"]
    assert logs.counts(DAY).read == 3


def test_partitioned_folders_are_read_whole_and_their_keys_are_columns(tmp_path: Path) -> None:
    for name in ("support", "orders"):
        parquet(tmp_path / "logs" / f"model={name}" / "part-0.parquet", {"request_id": name})
        (tmp_path / "logs" / "_SUCCESS").write_text("")
    logs = opened(tmp_path, "logs", adapter="model")
    assert list(logs.rows(DAY).frame()["request_id"]) == ["support"]
    assert (logs.counts(DAY).read, logs.counts(DAY).outside) == (2, 1)


def test_names_with_signs_of_patterns_are_names(tmp_path: Path) -> None:
    parquet(tmp_path / "logs" / "a[1]*?.parquet", {"request_id": "odd"})
    parquet(tmp_path / "logs" / "a1xy.parquet", {"request_id": "plain"})
    assert opened(tmp_path, "logs").counts(DAY).read == 2


@pytest.mark.parametrize("place", ["memory://logs/{adapter}/*", "file://{root}/logs/{adapter}/*.*"])
def test_an_object_store_is_read_like_a_folder(tmp_path: Path, place: str) -> None:
    source = parquet(tmp_path / "logs" / "support" / "a.parquet", {"request_id": "from parquet"})
    lines = jsonl(tmp_path / "logs" / "support" / "b.jsonl", {"request_id": "from lines"}, {"prompt": None})
    memory = fsspec.filesystem("memory")
    for path in (source, lines):
        memory.pipe(f"/logs/support/{path.name}", path.read_bytes())
    logs = opened(tmp_path, place.replace("{root}", str(tmp_path)))
    assert sorted(logs.rows(DAY).frame()["request_id"]) == ["from lines", "from parquet"]
    assert [(row.file.endswith("b.jsonl"), row.line) for row in logs.quarantined] == [(True, 2)]
    memory.rm("/logs", recursive=True)


def test_an_object_store_whose_package_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"s3:// cannot be read \(Install s3fs"):
        opened(tmp_path, "s3://bucket/logs/*.parquet")
    with pytest.raises(ParamsError, match="nonsense:// cannot be read"):
        opened(tmp_path, "nonsense://bucket/*.parquet")


def test_gzip_in_several_members_is_read_and_a_cut_one_up_to_the_cut(tmp_path: Path) -> None:
    line = json.dumps({"request_id": "%s", "timestamp": "2026-03-01T10:00:00Z", "prompt": "q"}) + "\n"
    two = gzip.compress((line % "a").encode()) + gzip.compress((line % "b").encode())
    (tmp_path / "a.jsonl.gz").write_bytes(two)
    many = gzip.compress("".join(line % f"c{i}" for i in range(5000)).encode())
    (tmp_path / "b.jsonl.gz").write_bytes(many[: len(many) // 2])
    logs = opened(tmp_path, "*.jsonl.gz")
    (bad,) = logs.quarantined
    assert (Path(bad.file).name, "ends early" in bad.reason) == ("b.jsonl.gz", True)
    counts = logs.counts(DAY)
    assert 1000 < counts.used < 5000
    assert bad.line == counts.used - 2 + 1


def test_feedback_in_a_second_table_arrives_late_and_the_newer_wins(tmp_path: Path) -> None:
    early = {"feedback": 1, "feedback_at": "2026-03-01T11:00:00Z"}
    jsonl(tmp_path / "logs" / "a.jsonl", {"request_id": "r1", **early}, {"request_id": "r2", **early}, {"request_id": "r3"})
    second = Feedback(uri="said/*.jsonl", columns={"request_id": "id", "correction": "should_be"})
    jsonl(
        tmp_path / "said" / "a.jsonl",
        {"id": "r1", "feedback": -1, "should_be": "refund", "feedback_at": "2026-03-04T00:00:00Z"},
        {"id": "r2", "feedback": -1, "feedback_at": "2026-03-01T10:30:00Z"},
        {"id": "r3", "should_be": "wrong", "feedback_at": "2026-03-02T00:00:00Z"},
        {"id": "r3", "should_be": "right", "feedback_at": "2026-03-03T00:00:00Z"},
        {"id": "r3", "feedback": -1, "feedback_at": "2026-03-05T00:00:00Z"},
        {"id": "r4", "feedback": 9, "feedback_at": "2026-03-05T00:00:00Z"},
    )
    logs = opened(tmp_path, "logs/*.jsonl", feedback=second)
    frame = logs.rows(DAY).frame().set_index("request_id")
    assert frame["feedback"].to_dict() == {"r1": -1.0, "r2": 1.0, "r3": -1.0}
    assert (frame["correction"]["r1"], frame["correction"]["r3"]) == ("refund", "right")
    assert frame["feedback_at"]["r3"] == pd.Timestamp("2026-03-05", tz="UTC")
    second_of_march = datetime(2026, 3, 2, 12, tzinfo=UTC)
    then = logs.known(second_of_march).frame().set_index("request_id")
    assert (then["feedback"]["r1"], then["correction"]["r3"]) == (1.0, "wrong")
    later = logs.known(datetime(2026, 3, 6, tzinfo=UTC), second_of_march).frame()
    assert list(later["request_id"]) == ["r1", "r3"]
    assert [row.reason for row in logs.bad_feedback] == ["feedback is neither -1 nor +1"]
    assert logs.counts(DAY).read == 3


def test_a_request_logged_again_is_known_as_it_was_then(tmp_path: Path) -> None:
    again = [{"correction": word, "feedback_at": f"2026-03-0{day}T00:00:00Z"} for day, word in ((2, "first"), (4, "second"))]
    jsonl(tmp_path / "a.jsonl", {}, *again)
    logs = opened(tmp_path, "a.jsonl")
    assert logs.counts(DAY).duplicates == 2
    assert logs.known(datetime(2026, 3, 3, tzinfo=UTC)).frame()["correction"].tolist() == ["first"]
    assert logs.known(datetime(2026, 3, 5, tzinfo=UTC)).frame()["correction"].tolist() == ["second"]


def test_late_rows_have_a_place_in_the_account_and_no_more_of_them_than_there_are(tmp_path: Path) -> None:
    before = {"request_id": "late", "timestamp": "2026-02-28T20:00:00Z"}
    jsonl(tmp_path / "a.jsonl", {}, before, {"request_id": "bad", "timestamp": "2026-02-28T20:00:00Z", "prompt": None})
    logs = opened(tmp_path, "a.jsonl")
    counts = logs.counts(DAY, late=1)
    assert (counts.read, counts.used, counts.late, counts.outside, counts.quarantined) == (3, 1, 1, 1, 0)
    with pytest.raises(DataError, match="3 rows of support are said to be late"):
        logs.counts(DAY, late=3)
    day_before = Window(DAY.start - DAY.length, DAY.start)
    assert [row.reason for row in logs.bad(day_before)] == ["prompt is missing"]
    assert logs.bad(DAY) == ()


def test_rows_of_a_frame_behave_like_rows_of_a_table() -> None:
    frame = pd.DataFrame(
        {"request_id": [f"r{i}" for i in range(50)], "prompt": ["q"] * 50, "feedback": [1.0] * 25 + [None] * 25}
    )
    rows = Rows.of_frame(frame)
    assert (rows.count(), rows.where(lambda t: t.feedback.notnull()).count()) == (50, 25)
    assert list(rows.frame().columns) == COLUMNS
    assert list(rows.sample(5, "x")["request_id"]) == list(Rows.of_frame(frame[::-1]).sample(5, "x")["request_id"])
    assert Rows.of_frame(pd.DataFrame()).count() == 0
    with pytest.raises(ParamsError, match="timestamp of the frame has no time zone"):
        Rows.of_frame(frame.assign(timestamp=pd.Timestamp("2026-03-01")))


def test_a_window_without_rows_is_empty_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    logs = opened(tmp_path, "a.jsonl")
    assert set(logs.counts(DAY).model_dump().values()) == {0}
    assert logs.rows(DAY).frame().empty
    assert logs.rows(DAY).sample(5, "x").empty


def test_a_mapping_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {})
    with pytest.raises(ParamsError, match=r"logs\.columns\.timestamp has the unit 'hours'.*must be one of s, ms, us, ns"):
        opened(tmp_path, "a.jsonl", timestamp="at as hours")
    with pytest.raises(ParamsError, match=r"user_id has the unit 'ms'.*user_id takes none"):
        opened(tmp_path, "a.jsonl", user_id="user as ms")
    with pytest.raises(ParamsError, match="must be a column, or a path"):
        opened(tmp_path, "a.jsonl", prompt="request//x")
    parquet(tmp_path / "a.parquet", {})
    with pytest.raises(DataError, match=r"has no column question for prompt, it has request_id, timestamp, prompt"):
        opened(tmp_path, "a.parquet", prompt="question")
