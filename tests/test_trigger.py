"""The trigger, from made-up window records: when it fires, and what it says when it does not."""

from typing import Any

import pytest

from monitoring.trigger import TriggerDecision, WindowRecord, decide, violations
from retrain.params import Trigger

POLICY = Trigger(windows=3, violations=2, satisfaction_drop=0.10, accuracy_drop=0.10, min_failures=40, min_audit=120)
BAD = ["drift: topic 0.30 > 0.21"]


def window(*, bad: bool = False, status: str = "", version: int | None = 1) -> WindowRecord:
    return WindowRecord(
        adapter="support", start="s", end="e", rows=320, drift_status=status or ("drift" if bad else "no_drift"), drifted=[],
        audited=90, violations=BAD if bad else [], version=version, fire=False, reasons=[],
    )  # fmt: skip


QUIET, VIOLATES, BROKEN = window(), window(bad=True), window(status="logging_broken")
FEW, UNCLEAR = window(status="not_enough_data"), window(status="not_computable")


def decided(*history: WindowRecord, **changes: Any) -> TriggerDecision:
    given: dict[str, Any] = {"policy": POLICY, "new_failures": 40, "unread_audit": 120, "champion": 1, **changes}
    return decide(history, **given)


def found(**changes: Any) -> list[str]:
    quiet: dict[str, Any] = {
        "drift_status": "no_drift", "drifted": [], "satisfaction": 0.9, "accuracy": 0.9,
        "reference_satisfaction": 0.9, "reference_accuracy": 0.9, "policy": POLICY,
    }  # fmt: skip
    return violations(**{**quiet, **changes})


# --- what violates


def test_a_window_as_good_as_the_reference_violates_nothing() -> None:
    assert found() == []


def test_drift_names_every_column_with_its_numbers() -> None:
    columns = ["topic 0.30 > 0.21", "novelty 0.31 > 0.28"]
    assert found(drift_status="drift", drifted=columns) == ["drift: topic 0.30 > 0.21, novelty 0.31 > 0.28"]


def test_a_loss_is_said_with_before_after_and_limit() -> None:
    assert found(satisfaction=0.7) == ["satisfaction fell from 90% to 70%, 10% allowed"]
    assert found(accuracy=0.75) == ["accuracy on the audit sample fell from 90% to 75%, 10% allowed"]


def test_a_loss_of_just_what_is_allowed_does_not_violate_whatever_floats_say() -> None:
    assert found(satisfaction=0.7, reference_satisfaction=0.8) == []
    assert len(found(satisfaction=0.699, reference_satisfaction=0.8)) == 1


def test_what_is_not_known_violates_nothing() -> None:
    assert found(satisfaction=None, accuracy=None) == []
    assert found(satisfaction=0.0, reference_satisfaction=None) == []


def test_broken_logging_is_no_loss_of_quality() -> None:
    assert found(drift_status="logging_broken", accuracy=0.1) == []


# --- fire or hold


def test_it_fires_at_two_of_three_and_says_what_it_learns_from_and_is_judged_by() -> None:
    for history in ((QUIET, VIOLATES, VIOLATES), (VIOLATES, QUIET, VIOLATES), (VIOLATES, VIOLATES)):
        assert decided(*history).fire
    decision = decided(QUIET, VIOLATES, VIOLATES)
    seen = "2 of the last 3 windows of v1 violate, 2 are needed"
    assert decision.reasons == [*BAD, seen, "40 new labelled failures, 120 unread audited rows"]
    assert decision.purpose == "improve"


HOLDS = [
    ("one of three", (QUIET, QUIET, VIOLATES), {}, "1 of the last 3 windows of v1 violates, 2 are needed"),
    ("the first of all windows", (VIOLATES,), {}, "1 of the last 1 window of v1 violates, 2 are needed"),
    ("the newest is fine", (VIOLATES, VIOLATES, QUIET), {}, "the newest window does not violate (no drift"),
    ("too long ago", (VIOLATES, QUIET, QUIET, VIOLATES), {}, "1 of the last 3 windows"),
    ("39 failures", (VIOLATES, VIOLATES), {"new_failures": 39}, "39 new labelled failures: label 1 more"),
    ("no audited rows", (VIOLATES, VIOLATES), {"unread_audit": 0}, "0 unread audited rows can judge: label 120 more"),
    ("logging is broken now", (VIOLATES, VIOLATES, BROKEN), {}, "logging is broken"),
    ("too few rows now", (VIOLATES, VIOLATES, FEW), {}, "nor does it clear (nothing could be told: not enough data)"),
    ("not computable now", (VIOLATES, VIOLATES, UNCLEAR), {}, "nor does it clear (nothing could be told: not computable)"),
    ("no champion", (VIOLATES, VIOLATES), {"champion": None}, "no champion yet: run `retrain repro support`"),
    ("the last champion's window", (VIOLATES, VIOLATES), {"champion": 2}, "served by v1, the champion is v2"),
    ("nobody's window", (VIOLATES, window(bad=True, version=None)), {}, "served by no champion, the champion is v1"),
]


@pytest.mark.parametrize(("history", "changes", "words"), [case[1:] for case in HOLDS], ids=[case[0] for case in HOLDS])
def test_it_holds_and_says_why(history: tuple[WindowRecord, ...], changes: dict[str, Any], words: str) -> None:
    decision = decided(*history, **changes)
    assert not decision.fire
    assert decision.purpose is None
    assert words in "; ".join(decision.reasons)


def test_the_violations_of_an_older_champion_do_not_count_for_the_new_one() -> None:
    new = window(bad=True, version=2)
    assert not decided(VIOLATES, VIOLATES, new, champion=2).fire
    assert decided(new, VIOLATES, new, champion=2).fire


@pytest.mark.parametrize("untold", [FEW, UNCLEAR, BROKEN], ids=lambda record: record.drift_status)
def test_a_window_that_tells_nothing_neither_fires_nor_pushes_a_violation_out(untold: WindowRecord) -> None:
    decision = decided(VIOLATES, untold, untold, untold, VIOLATES)
    assert decision.fire
    assert "(3 more could not be told and do not count)" in "; ".join(decision.reasons)
    assert not decided(untold, untold, VIOLATES).fire


def test_an_older_record_of_broken_logging_is_no_violation_whatever_it_lists() -> None:
    assert not decided(window(bad=True, status="logging_broken"), VIOLATES).fire


def test_a_loss_of_quality_counts_even_where_drift_could_not_be_computed() -> None:
    assert decided(window(bad=True, status="not_computable"), window(bad=True, status="not_computable")).fire


def test_both_kinds_of_missing_rows_are_asked_for_at_once() -> None:
    words = "; ".join(decided(VIOLATES, VIOLATES, new_failures=10, unread_audit=100).reasons)
    assert "label 30 more" in words
    assert "label 20 more" in words


def test_a_record_survives_json() -> None:
    assert WindowRecord.model_validate(VIOLATES.as_dict()) == VIOLATES
