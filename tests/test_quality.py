"""Quality of a window: shares with their n, at equal age, and nothing where nothing is known."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from monitoring import failures, quality
from monitoring.sources import Rows

END = datetime(2026, 3, 2, tzinfo=UTC)
NOW = datetime(2026, 4, 1, tzinfo=UTC)


def log(*rows: dict[str, Any]) -> Rows:
    base = {"timestamp": END - timedelta(hours=2), "feedback_at": END - timedelta(hours=1), "prompt": "where is it"}
    return Rows.of_frame(pd.DataFrame([{**base, "request_id": f"r{i}", **row} for i, row in enumerate(rows)]))


def measure(rows: Rows, **given: Any) -> quality.Quality:
    return quality.measure(rows, **{"known_before": END, "now": NOW, **given})


def test_shares_count_only_the_rows_that_somebody_judged() -> None:
    found = measure(
        log(
            {"response": " a ", "feedback": 1, "audit_label": "a", "latency_ms": 10.0, "confidence": 0.9},
            {"response": "a", "feedback": -1, "audit_label": "b", "latency_ms": 20.0, "confidence": 0.7},
            {"response": "b", "feedback": 1, "latency_ms": 30.0},
            {"response": "", "latency_ms": 40.0},
        ),
        labels=("a", "c"),
        slices=("response",),
    )
    assert (found.rows, found.feedback, found.audited, found.known) == (4, 3, 2, True)
    assert (found.satisfaction, found.accuracy) == (pytest.approx(2 / 3), 0.5)
    assert found.accuracy_low == pytest.approx(0.0945, abs=1e-3)  # Wilson, 1 of 2
    assert found.accuracy_high == pytest.approx(0.9055, abs=1e-3)
    assert (found.latency_p50, found.confidence, found.blank, found.invalid) == (25.0, pytest.approx(0.8), 0.25, 0.5)
    assert found.slices["response=a"] == {"rows": 1, "audited": 1, "right": 0}


def test_a_structured_answer_is_right_by_its_values_and_a_label_that_fits_no_schema_tells_nothing() -> None:
    schema = {"type": "object", "required": ["n"]}
    rows = log(
        {"response": '{"n": 1, "who": null}', "audit_label": '{"who":null,"n":1.0}'},
        {"response": '{"n": 2}', "audit_label": '{"n": 3}'},
        {"response": "two", "audit_label": '{"n": 2}'},
        {"response": None, "audit_label": '{"n": 2}'},
        {"response": '{"n": 2}', "audit_label": "two"},
        {"response": '{"n": 5}'},
    )
    found = measure(rows, schema=schema, slices=("response",))
    assert (found.rows, found.right, found.audited) == (6, 1, 4)
    assert measure(rows).right == 0  # as texts
    assert found.slices['response={"n": 1, "who": null}'] == {"rows": 1, "audited": 1, "right": 1}
    assert failures.audit_wrong(rows, audit_rate=1.0, schema=schema) == 0.75
    assert failures.audit_wrong(rows.where(lambda t: t.audit_label.isnull()), audit_rate=1.0, schema=schema) is None


def test_confidence_is_calibrated_on_what_the_values_say() -> None:
    spelled = [{"response": '{"n": 1}', "audit_label": '{"n":1}', "confidence": 0.5 + i / 200} for i in range(60)]
    rows = log(*spelled, {"response": '{"n": 1}', "audit_label": "one", "confidence": 0.1})
    made = quality.Calibration.of(rows, {"type": "object"})
    assert made is not None and made.estimate(pd.DataFrame({"confidence": [0.5]})) == 1.0


def test_labels_that_came_later_than_the_lag_do_not_count_and_before_it_nothing_is_known() -> None:
    rows = log(
        {"response": "a", "audit_label": "a", "feedback": 1},
        {"response": "a", "audit_label": "b", "feedback": -1, "feedback_at": END + timedelta(hours=30)},
    )
    day = END + timedelta(hours=24)
    assert (measure(rows, known_before=day).accuracy, measure(rows, known_before=day).audited) == (1.0, 1)
    assert measure(rows, known_before=END + timedelta(hours=48)).accuracy == 0.5
    assert not measure(rows, known_before=day, now=END).known


def test_nothing_known_is_none_and_never_zero() -> None:
    found = measure(log({"response": "a"}))
    assert (found.feedback, found.audited) == (0, 0)
    assert found.satisfaction is found.accuracy is found.accuracy_low is found.latency_p95 is found.confidence is None
    empty = measure(log({"response": "a"}).where(lambda t: t.request_id == "none"))
    assert (empty.rows, empty.blank, empty.invalid, empty.latency_p50) == (0, None, None, None)


def test_an_answer_cut_off_at_the_limit_is_invalid() -> None:
    rows = log({"response": "{", "completion_tokens": 160}, {"response": "{}", "completion_tokens": 9}, {"response": "{}"})
    assert measure(rows, max_new_tokens=160).invalid == pytest.approx(1 / 3)


def test_accuracy_is_estimated_from_confidence_that_was_calibrated_on_the_reference() -> None:
    rng = random.Random(1)

    def rows(n: int, share_sure: float) -> list[dict[str, Any]]:
        """Sure answers (0.95) are right nine times of ten, unsure ones (0.5) three times of ten."""
        sure = [rng.random() < share_sure for _ in range(n)]
        right = [rng.random() < (0.9 if s else 0.3) for s in sure]
        return [
            {"response": "a", "audit_label": "a" if r else "b", "confidence": 0.95 if s else 0.5}
            for s, r in zip(sure, right, strict=True)
        ]

    calibration = quality.Calibration.of(log(*rows(2000, 0.9)))
    assert calibration is not None
    window = log(*[{**row, "audit_label": None} for row in rows(500, 0.4)])
    found = measure(window, calibration=calibration, sample=window.frame())
    assert found.estimated_accuracy == pytest.approx(0.4 * 0.9 + 0.6 * 0.3, abs=0.05)
    assert quality.Calibration.of(log(*rows(20, 0.9))) is None


def test_relevance_is_higher_where_answers_are_about_the_question() -> None:
    asked = ["where is my refund", "change my address please"]
    about = pd.DataFrame({"prompt": asked, "response": ["refund_status", "change_address"]})
    mixed = pd.DataFrame({"prompt": asked, "response": ["change_address", "refund_status"]})
    assert (quality.relevance(about) or 0) > (quality.relevance(mixed) or 0) + 0.1
    assert quality.relevance(about.assign(response=None)) is None
