"""One log table in Parquet, in a real PostgreSQL and in a real Spark: the same rows, the same counts, the same sample."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import POSTGRES, postgres_schema, spark

from monitoring import drift, quality, trigger
from monitoring.failures import audited, drawn, failure_cases, waiting
from monitoring.selection import Selector
from monitoring.sources import COLUMNS, LogTable, open_logs
from monitoring.windows import Window
from retrain import params as params_
from retrain import sections
from retrain.errors import DataError, ParamsError
from retrain.sections import Feedback, Logs

DAY = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
NIGHT = Window(DAY.start, DAY.start + timedelta(hours=6))
TIMES = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {
        "request_id": pa.string(), "timestamp": TIMES, "adapter": pa.string(), "user_id": pa.int64(), "prompt": pa.string(),
        "response": pa.string(), "latency_ms": pa.float64(), "feedback": pa.int64(), "correction": pa.string(),
        "audit_label": pa.string(), "feedback_at": TIMES, "conversation": pa.string(),
    }
)  # fmt: skip
CONVERSATION = (
    '[{"role": "user", "content": "first"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "t1"}]},'
    ' {"role": "user", "content": [{"type": "text", "text": "what about"}, {"type": "text", "text": "µ, \\"x\\"?"}]}]'
)


def table(rows: int) -> pa.Table:
    """Two days with everything that can be wrong with a row of typed columns."""
    rng = random.Random(7)
    made: list[dict[str, Any]] = []
    for i in range(rows):
        at = DAY.start + timedelta(seconds=rng.randrange(2 * 86400), microseconds=rng.randrange(10**6))
        row: dict[str, Any] = {"request_id": f"r-{i} é", "timestamp": at, "adapter": "support", "user_id": i % 50}
        row |= {"prompt": f"question {i}", "response": "cancel_order", "latency_ms": 100 + i / 7}
        if i % 6 == 0:
            row |= {"feedback": -1 if i % 4 else 1, "feedback_at": at + timedelta(minutes=1)}
        if i % 9 == 0:
            row |= {"correction": "refund_status", "audit_label": "refund_status", "feedback_at": at + timedelta(hours=1)}
        made.append(row)
        if i % 100 == 3:  # the same request again, with feedback
            made.append({**row, "feedback": -1, "correction": "return_item", "feedback_at": at + timedelta(hours=2)})
    for i, wrong in enumerate(
        [
            {"prompt": None},
            {"timestamp": None},
            {"feedback": 7},
            {"latency_ms": float("inf")},
            {"request_id": "  "},
            {"latency_ms": float("nan")},
        ]
    ):
        made.append({**made[i], **wrong})
    made += [{**made[i], "request_id": f"other {i}", "adapter": "orders"} for i in range(5)]
    made += [{**made[9], "request_id": "talk", "timestamp": NIGHT.start, "prompt": None, "conversation": CONVERSATION}]
    made += [{**made[9], "request_id": "role", "timestamp": NIGHT.start, "conversation": '[{"role": "boss", "content": "x"}]'}]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def opened(uri: str, root: Path, zone: str | None = None, feedback: Feedback | None = None, **columns: str) -> LogTable:
    logs = Logs(uri=uri, preset="ours", timezone=zone, columns={"messages": "conversation", **columns}, feedback=feedback)
    return open_logs(logs, root=root, adapter="support")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LogTable]]:
    folder = tmp_path_factory.mktemp("logs")
    columns = {"prompt": "prompt | conversation as messages"}
    data = table(10_000)
    for day in (0, 1):  # a partitioned folder
        part = folder / "parquet" / f"day={day}" / "rows.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(data.filter(pa.array([i % 2 == day for i in range(len(data))])), part)
    with postgres_schema() as (connection, schema):
        connection.execute(
            f"CREATE TABLE {schema}.logs (request_id text, timestamp timestamptz, adapter text, user_id bigint, prompt text,"
            " response text, latency_ms double precision, feedback integer, correction text, audit_label text,"
            " feedback_at timestamptz, conversation jsonb)"
        )
        with connection.cursor().copy(f"COPY {schema}.logs FROM STDIN") as copy:
            for row in data.to_pylist():
                copy.write_row(list(row.values()))
        spark().read.parquet(str(folder / "parquet")).createOrReplaceTempView("logs_of_test")
        joint = "&" if "?" in POSTGRES else "?"
        yield {
            "parquet": opened("parquet", folder, **columns),
            "postgres": opened(f"{POSTGRES}{joint}table={schema}.logs", folder, **columns),
            "spark": opened("spark:logs_of_test", folder, **columns),
            "spark path": opened("spark:./parquet", folder, **columns),
        }


@pytest.fixture(scope="module")
def stores(places: dict[str, LogTable]) -> dict[str, LogTable]:
    """One an engine: two ways to name a table of Spark differ in where its rows come from alone."""
    return {name: logs for name, logs in places.items() if name != "spark path"}


def same(stores: dict[str, LogTable], ask: Callable[[LogTable], pd.DataFrame]) -> pd.DataFrame:
    """What Parquet answers, after all others were found to answer the same, to the bit and the type."""
    expected = parsed(ask(stores["parquet"]))
    for name in stores.keys() - {"parquet"}:
        pd.testing.assert_frame_equal(parsed(ask(stores[name])), expected, obj=name)
    return expected


def parsed(frame: pd.DataFrame) -> pd.DataFrame:
    """jsonb keeps no order of keys."""
    return (
        frame.assign(messages=frame["messages"].map(lambda text: text and json.loads(text))) if "messages" in frame else frame
    )


def test_every_store_counts_the_same_and_every_row_falls_somewhere(places: dict[str, LogTable]) -> None:
    for window in (DAY, NIGHT):
        counts = {name: logs.counts(window).model_dump() for name, logs in places.items()}
        assert counts == dict.fromkeys(counts, counts["parquet"])
    day = places["parquet"].counts(DAY, late=11)
    assert day.read == 10_000 + 100 + 6 + 5 + 2
    assert day.read == day.used + day.duplicates + day.quarantined + day.late + day.outside
    assert 35 <= day.duplicates <= 65
    assert 4_700 < day.used < 5_300
    assert places["parquet"].counts(DAY).outside == day.outside + 11


def test_every_store_draws_the_same_sample_in_the_same_order(stores: dict[str, LogTable]) -> None:
    sample = same(stores, lambda logs: logs.rows(DAY).sample(500, "7"))
    assert list(sample.columns) == COLUMNS
    assert sample["request_id"].nunique() == 500
    assert set(sample["request_id"]) != set(stores["parquet"].rows(DAY).sample(500, "8")["request_id"])
    small = stores["parquet"].rows(DAY).sample(100, "7")
    assert list(small["request_id"]) == list(sample["request_id"][:100])


def test_every_store_gives_the_same_rows_with_their_newest_feedback(places: dict[str, LogTable]) -> None:
    frame = same(places, lambda logs: logs.rows(NIGHT).frame())
    again = frame[frame["correction"] == "return_item"]
    assert len(again) >= 5
    assert set(again["feedback"]) == {-1.0}
    talk = frame[frame["request_id"] == "talk"].iloc[0]
    assert talk["prompt"] == 'what about\nµ, "x"?'


def test_every_store_knows_the_same_feedback_at_a_time(stores: dict[str, LogTable]) -> None:
    noon = DAY.start + timedelta(hours=12)
    known = same(
        stores, lambda logs: logs.known(noon, DAY.start + timedelta(hours=6)).frame(["request_id", "feedback_at", "correction"])
    )
    assert len(known) > 200
    assert known["feedback_at"].between(DAY.start + timedelta(hours=6), noon, inclusive="left").all()
    before = stores["parquet"].known(noon).count()
    assert before > len(known)


def test_every_store_says_the_same_of_bad_rows(stores: dict[str, LogTable]) -> None:
    reasons = {name: sorted(row.reason for row in logs.quarantined) for name, logs in stores.items()}
    assert reasons == dict.fromkeys(reasons, reasons["parquet"])
    words = " ".join(reasons["parquet"])
    for part in (
        "prompt is missing",
        "timestamp is missing",
        "neither -1 nor +1",
        "request_id is missing",
        "a role that is none of",
    ):
        assert part in words
    assert words.count("latency_ms is not a finite number") == 2
    assert all(row.line > 0 and row.file.endswith("rows.parquet") for row in stores["parquet"].quarantined)


def test_failures_and_the_audit_draw_are_chosen_alike_in_every_engine_and_in_python(stores: dict[str, LogTable]) -> None:
    made = {}
    for name, logs in stores.items():
        known = logs.known(DAY.end)
        judging = audited(known, audit_rate=0.3)
        failed = failure_cases(known, audit_rate=0.3, labels=("refund_status",), seen=set(), collected="x")
        made[name] = ([row.id for row in judging], [row.id for row in failed.examples], failed.waiting, failed.new_labels)
        assert all(drawn(origin.request_id, 0.3) for row in judging for origin in row.origins)
        assert not any(drawn(origin.request_id, 0.3) for row in failed.examples for origin in row.origins)
    assert made == dict.fromkeys(made, made["parquet"])
    assert len(made["parquet"][0]) > 50


def test_failure_cases_are_selected_alike_with_the_same_reasons_in_every_engine(stores: dict[str, LogTable]) -> None:
    where = "latency_ms / 2 > 300 and prompt ilike '%N 4_9%'"
    where += " or timestamp between '2026-03-01T00:00:00Z' and '2026-03-01T00:05:00Z'"
    for schema, labels in ((None, ("refund_status",)), ({"type": "object"}, ())):
        selector = Selector(confidence_below=0.5, form=True, where=where, labels=labels, schema=schema)
        made = {}
        for name, logs in stores.items():
            waits = waiting(logs.rows(NIGHT), audit_rate=0.3, selector=selector)
            made[name] = [(row.request_id, row.timestamp.isoformat(), row.reasons) for row in waits]
        assert made == dict.fromkeys(made, made["parquet"])
        assert {reason for _, _, reasons in made["parquet"] for reason in reasons} == {"feedback", "form", "condition"}


def test_requests_are_found_by_their_ids_in_every_store_with_all_their_feedback(stores: dict[str, LogTable]) -> None:
    ids = ["r-3 é", "r-5 é", "talk", "other 1", "no such request", "'); DROP TABLE logs; --", "a'b"]
    found = same(stores, lambda logs: logs.requests(ids).frame(["request_id", "correction", "feedback"]))
    assert sorted(found["request_id"]) == ["r-3 é", "r-5 é", "talk"]  # of this adapter, each once
    assert found.set_index("request_id")["correction"]["r-3 é"] == "return_item"  # the newest of two
    assert same(stores, lambda logs: logs.requests([]).frame(["request_id"])).empty


def test_a_window_is_measured_and_decided_alike_in_every_store(stores: dict[str, LogTable]) -> None:
    """The second day against the first: distances, quality, and from these the violations and the decision."""
    params = params_.load(".").of("support")
    rules = {"response": {"method": "TVD"}, "latency_ms": {"method": "wasserstein"}, "prompt_length": {"method": "psi"}}
    rules["grown"] = {"method": "TVD"}
    columns = {name: sections.DriftColumn(threshold=0.2, **rule) for name, rule in rules.items()}
    second = Window(DAY.end, DAY.end + DAY.length)
    made: dict[str, dict[str, Any]] = {}
    for name in ("parquet", "postgres", "spark"):
        logs = stores[name]
        before, now = logs.rows(DAY), logs.rows(second)
        found = drift.measure(before, before, now, drift=params.drift.model_copy(update={"columns": columns}), html=None)
        later = second.end + DAY.length
        told = quality.measure(now, known_before=later, now=later, slices=["response"])
        assert quality.measure(now, known_before=later, now=later, schema={"type": "object"}).audited == 0  # labels are no JSON
        fallen = trigger.Compared(signal="accuracy", good=told.right, n=told.audited, reference_good=99, reference_n=100)
        drifted = [column.column for column in found.columns if column.status == "drift"]
        wrong = trigger.violations(
            drift_status=found.status, drifted=drifted, compared=[fallen], policy=params.trigger
        )  # fmt: skip
        made[name] = {"counts": logs.counts(second).model_dump(), "violations": wrong, "rows": told.rows}
        made[name] |= {"told": told.model_dump(exclude={"latency_p50", "latency_p95"}), "missing": found.missing}
        made[name] |= {"status": [(c.column, c.status, c.reason, round(c.value or 0, 9)) for c in found.columns]}
    assert made == dict.fromkeys(made, made["parquet"])
    assert made["parquet"]["rows"] > 4_000 and made["parquet"]["told"]["audited"] > 400
    assert "accuracy on the audit sample fell from 99% of 100" in made["parquet"]["violations"][0]


# --- PostgreSQL alone


def test_a_postgres_timestamp_without_zone_needs_the_zone_and_one_with_it_does_not(tmp_path: Path) -> None:
    with postgres_schema() as (connection, schema):
        connection.execute(
            f"CREATE TABLE {schema}.logs (request_id text, timestamp timestamp, prompt text, feedback_at timestamptz)"
        )
        connection.execute(f"INSERT INTO {schema}.logs VALUES ('r1', '2026-03-01 10:00', 'q', '2026-03-01 10:00+02')")
        uri = f"{POSTGRES}?table={schema}.logs"
        refused = opened(uri, tmp_path)
        assert "set logs.timezone" in refused.quarantined[0].reason
        assert (refused.counts(DAY).used, refused.counts(DAY).quarantined) == (0, 1)
        row = opened(uri, tmp_path, zone="Europe/Berlin").rows(DAY).frame().iloc[0]
        assert (row["timestamp"].hour, row["feedback_at"].hour) == (9, 8)


def test_feedback_in_a_second_postgres_table_joins_in_the_engine(tmp_path: Path) -> None:
    with postgres_schema() as (connection, schema):
        connection.execute(f"CREATE TABLE {schema}.logs (request_id text, timestamp timestamptz, prompt text, response text)")
        connection.execute(f"CREATE TABLE {schema}.said (id text, thumbs integer, at timestamptz)")
        connection.execute(
            f"INSERT INTO {schema}.logs VALUES ('r1', '2026-03-01 10:00+00', 'q', 'a'), ('r2', '2026-03-01 11:00+00', 'q', 'a')"
        )
        said = "('r2', 1, '2026-03-02+00'), ('r2', -1, '2026-03-03+00'), ('no', 1, '2026-03-02+00')"
        connection.execute(f"INSERT INTO {schema}.said VALUES {said}")
        uri = f"{POSTGRES}?table={schema}."
        second = Feedback(uri=f"{uri}said", columns={"request_id": "id", "feedback": "thumbs", "feedback_at": "at"})
        logs = opened(f"{uri}logs", tmp_path, feedback=second)
        assert logs.rows(DAY).frame()["feedback"].tolist()[1] == -1
        assert logs.known(datetime(2026, 3, 3, tzinfo=UTC)).frame()["feedback"].tolist() == [1.0]
        with pytest.raises(ParamsError, match="they join inside one engine"):
            opened(f"{uri}logs", tmp_path, feedback=Feedback(uri="said/*.jsonl", columns={}))


def test_a_postgres_table_is_only_read(tmp_path: Path) -> None:
    with postgres_schema() as (connection, schema):
        connection.execute(f"CREATE TABLE {schema}.logs (request_id text, timestamp timestamptz, prompt text)")
        logs = opened(f"{POSTGRES}?table={schema}.logs", tmp_path)
        with pytest.raises(Exception, match="read-only transaction"):
            logs.source.engine.connection.raw_sql(f"INSERT INTO {schema}.logs VALUES ('r', now(), 'q')")


def test_an_address_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not answer") as failed:
        opened("postgresql://me:s3cret@127.0.0.1:1/db?table=logs", tmp_path)
    assert "s3cret" not in str(failed.value)
    with pytest.raises(ParamsError, match=r"names no table: end it with \?table="):
        opened(POSTGRES, tmp_path)
    with pytest.raises(DataError, match="no_such_table"):
        opened(f"{POSTGRES}?table=no_such_table", tmp_path)


def test_a_spark_table_that_is_missing_is_named(tmp_path: Path) -> None:
    spark()
    with pytest.raises(DataError, match="no_such_table"):
        opened("spark:no_such_table", tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        opened("spark:logs/nowhere.parquet", tmp_path)
