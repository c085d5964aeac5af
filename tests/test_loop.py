"""Prepare, failure cases, drift, expectations: what decides, on small tables."""

import pandas as pd

from monitoring import drift, failures
from retrain import params as params_
from retrain.expectations import check_examples, check_logs
from retrain.prepare import merge, prepare
from retrain.records import Example, Origin, unit_hash

PARAMS = params_.load(".")


def example(text: str, answer: str = "a", source: str = "seed", request: str | None = None) -> Example:
    origins = (Origin(request_id=request),) if request else ()
    return Example.of(text, answer, source=source, origins=origins)


def prepared(**given: list) -> object:
    rows = {"seed": [], "failures": [], "golden": [], "audits": [], **given}
    return prepare(**rows, rules=PARAMS.prepare, labels=("a", "b"))


# --- prepare


def test_a_training_row_that_copies_golden_is_dropped_and_counted() -> None:
    seed = [example(f"question number {i}") for i in range(40)]
    train = prepared(seed=seed).train
    again = prepared(seed=seed, golden=[example(train[0].question.upper() + "!", source="golden")])
    assert again.left_out["copy of a golden row"] == 1
    assert train[0].key not in {row.key for row in again.train}


def test_a_question_with_two_answers_trains_nothing() -> None:
    failures_ = [example("same question", answer, "failure", answer) for answer in ("a", "b")]
    made = prepared(seed=[example(f"question {i}") for i in range(20)], failures=failures_)
    assert "same question" not in {row.question for row in made.train}


def test_no_row_both_trains_and_judges_and_growing_data_moves_none() -> None:
    seed = [example(f"question {i}") for i in range(60)]
    small, large = prepared(seed=seed[:30]), prepared(seed=seed)
    for made in (small, large):
        judging = {row.id for rows in made.suites.values() for row in rows}
        assert not judging & {row.id for row in made.train}
    assert {row.id for row in small.train} <= {row.id for row in large.train}


def test_a_label_that_is_not_admitted_trains_nothing_and_equal_rows_keep_all_origins() -> None:
    held = [example(f"new thing {i}", "gift", "failure", f"r{i}") for i in range(10)]
    made = prepared(seed=[example(f"question {i}") for i in range(20)], failures=held)
    assert "gift" not in {row.answer for row in made.train}
    assert made.left_out["label not admitted"] > 0
    twice = merge([example("hello", "a", "failure", "r1"), example("Hello!", "a", "failure", "r2")])
    assert [origin.request_id for origin in twice[0].origins] == ["r1", "r2"]


# --- failure cases


def log(rows: list[dict]) -> pd.DataFrame:
    columns = [
        "request_id",
        "user_id",
        "prompt",
        "response",
        "feedback",
        "correction",
        "audit_label",
        "latency_ms",
        "confidence",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_a_drawn_row_is_audited_and_never_a_failure_case() -> None:
    rows = [
        {
            "request_id": f"r{i}",
            "user_id": "u",
            "prompt": f"q {i}",
            "response": "a",
            "feedback": -1,
            "correction": "b",
            "audit_label": "b",
        }
        for i in range(200)
    ]
    made = failures.failure_cases(log(rows), audit_rate=0.3, labels=("a", "b"), seen=set(), collected="e")
    audited = failures.audited(log(rows), audit_rate=0.3)
    trained = {origin.request_id for row in made.examples for origin in row.origins}
    judged = {origin.request_id for row in audited for origin in row.origins}
    assert not trained & judged
    assert trained | judged == {row["request_id"] for row in rows}
    assert judged == {r["request_id"] for r in rows if unit_hash(r["request_id"], "audit") < 0.3}


def test_what_was_collected_before_conflicts_or_waits_is_kept_out() -> None:
    rows = [
        {"request_id": "r1", "prompt": "one", "response": "a", "correction": "b"},
        {"request_id": "r2", "prompt": "two", "response": "a", "correction": "b"},
        {"request_id": "r3", "prompt": "two", "response": "a", "correction": "c"},
        {"request_id": "r4", "prompt": "four", "response": "a", "feedback": -1},
        {"request_id": "r5", "prompt": "five", "response": "a", "correction": "gift", "user_id": "u5"},
    ]
    made = failures.failure_cases(log(rows), audit_rate=0.0, labels=("a", "b", "c"), seen={("r1", "b")}, collected="e")
    assert made.examples == []
    assert made.waiting == 1
    assert len(made.quarantined) == 2
    assert made.new_labels == {"gift": (1, 1)}


# --- drift and data checks


def window(n: int, prompt: str, label: str = "a") -> pd.DataFrame:
    rows = [
        {"request_id": f"{label}{i}", "prompt": f"{prompt} {i}", "response": label, "latency_ms": 100.0 + i} for i in range(n)
    ]
    return log(rows)


def test_one_column_that_cannot_be_compared_takes_no_other_down() -> None:
    quiet, other = window(150, "where is my parcel"), window(150, "my gift card code does not work", "b")
    report = drift.measure(quiet, quiet, other, drift=PARAMS.drift, html=None)
    by_name = {column.column: column for column in report.columns}
    assert report.status == "drift"
    assert by_name["response"].status == "drift"
    assert by_name["confidence"].status == "not_computable"


def test_too_few_rows_and_blank_answers_are_neither_drift_nor_no_drift() -> None:
    quiet = window(150, "where is my parcel")
    assert drift.measure(quiet, quiet, quiet.head(5), drift=PARAMS.drift, html=None).status == "not_enough_data"
    blank = quiet.assign(response=" ")
    assert drift.measure(quiet, quiet, blank, drift=PARAMS.drift, html=None).status == "logging_broken"
    assert drift.measure(quiet, None, quiet.head(0), drift=PARAMS.drift, html=None).status == "not_enough_data"


def test_an_empty_or_blank_table_passes_no_expectations() -> None:
    quiet = window(150, "where is my parcel").assign(timestamp=pd.Timestamp("2026-03-01T00:00:00Z"))
    assert check_logs(quiet, min_rows=100).passed
    assert not check_logs(quiet.head(0), min_rows=100).passed
    assert not check_logs(quiet.assign(prompt="  "), min_rows=100).passed
    assert not check_examples([], labels=("a",)).passed
    assert not check_examples([example("hello", "zzz")], labels=("a",)).passed
    assert check_examples([example("hello", "a")], labels=("a",)).passed
