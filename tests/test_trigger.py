"""The trigger, from made-up window records: when it fires, what it says when it does not, and how often it errs."""

import bisect
import math
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from deciding import BAD, POLICY, START, day, decided, facts, found, said, share, window, windows
from scipy.stats import binom

from monitoring.planner import judgeable
from monitoring.trigger import TriggerDecision, decide, measured_again
from retrain import power

# --- what violates


def test_a_window_as_good_as_the_reference_violates_nothing() -> None:
    assert found(share(135, 150), share(90, 100, signal="satisfaction")) == []


def test_drift_names_every_column_with_its_numbers() -> None:
    columns = ["topic 0.30 > 0.21", "novelty 0.31 > 0.28"]
    assert found(status="drift", drifted=columns) == ["drift: topic 0.30 > 0.21, novelty 0.31 > 0.28"]


def test_a_fall_is_said_with_both_sides_and_how_rare_chance_makes_it() -> None:
    words = "accuracy on the audit sample fell from 90% of 1000 to 75% of 150; chance alone would do this in less than 0.1 %"
    assert words in found(share(112, 150))[0]
    assert found(share(60, 100, signal="satisfaction"))[0].startswith("satisfaction fell from 90% of 1000 to 60% of 100")


def test_a_fall_that_chance_explains_does_not_violate_however_large() -> None:
    assert found(share(8, 10)) == []  # ten points
    assert found(share(80, 100, 9, 10)) == []


def test_a_fall_that_is_certain_but_small_does_not_violate() -> None:
    assert found(share(86_000, 100_000)) == []
    assert len(found(share(84_900, 100_000))) == 1


def test_what_is_not_known_violates_nothing() -> None:
    assert found() == []
    assert found(share(0, 0)) == []
    assert found(share(0, 50, 0, 0)) == []


def test_broken_logging_is_no_loss_of_quality() -> None:
    assert found(share(10, 150), status="logging_broken") == []


def chances(signal: Any, p: float, n: int, before: float, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact: the probability of each reference that m rows at `before` give, and how often n rows at p violate against it."""
    seen = np.arange(int(binom.ppf(1e-9, m, before)), int(binom.isf(1e-9, m, before)) + 1)
    enough = [
        bisect.bisect_left(range(n + 1), True, key=lambda x, g=g: not found(share(x, n, int(g), m, signal))) for g in seen
    ]
    return binom.pmf(seen, m, before), binom.cdf(np.array(enough) - 1, n, p)


def test_a_fall_of_accuracy_from_90_to_80_is_found() -> None:
    """150 audited rows a window, against a week of them and against two windows; windows share their reference."""
    for m, one, two_of_three in ((1050, 0.93, 0.98), (300, 0.88, 0.93)):
        weight, p = chances("accuracy", 0.8, 150, 0.9, m)
        assert weight @ p == pytest.approx(one, abs=0.005)
        assert weight @ (3 * p**2 - 2 * p**3) == pytest.approx(two_of_three, abs=0.005)


def test_without_change_two_of_three_windows_seldom_violate() -> None:
    """150 audited and 100 rated rows a window: with a week of reference 0.8 % of windows fire, with two windows 2.7 %."""
    for m, rated, most in ((1050, 700, 0.008), (300, 200, 0.028)):
        (weight, a), (other, s) = chances("accuracy", 0.9, 150, 0.9, m), chances("satisfaction", 0.7, 100, 0.7, rated)
        p = 1 - (1 - a[:, None]) * (1 - s[None, :])
        assert weight @ (p * (1 - (1 - p) ** 2)) @ other <= most


def test_windows_drawn_at_random_agree_with_the_exact_figures() -> None:
    rng = np.random.default_rng(0)
    draws = [(int(rng.binomial(1050, 0.9)), rng.binomial(150, 0.8, 3)) for _ in range(500)]
    fell = np.array([[bool(found(share(int(x), 150, g, 1050))) for x in row] for g, row in draws])
    assert fell.mean() == pytest.approx(0.93, abs=0.02)
    assert (fell.sum(axis=1) >= 2).mean() >= 0.95


# --- k of n


def test_it_fires_at_two_of_three_and_says_what_it_learns_from_and_is_judged_by() -> None:
    for kinds in (("quiet", "bad", "bad"), ("bad", "quiet", "bad"), ("quiet", "quiet", "quiet", "bad", "bad")):
        assert decided(*kinds).fire
    decision = decided("quiet", "bad", "bad")
    assert decision.purpose == "improve"
    assert decision.reasons[:3] == [*BAD, "2 of the last 3 windows of v1 violate, 2 are needed", "40 new labelled failures"]
    assert decision.reasons[3].startswith("120 unread audited rows, 120 are needed to show")


def test_the_story_of_the_demo() -> None:
    kinds = ("quiet", "quiet", "bad", "bad")
    assert [decided(*kinds[: n + 1]).fire for n in range(4)] == [False, False, False, True]
    second = [window(n, kind, version=2) for n, kind in enumerate(("quiet", "bad", "bad"), start=4)]
    told = [decide([*windows(*kinds), *second[: n + 1]], policy=POLICY, facts=facts(champion=2)).fire for n in range(3)]
    assert told == [False, False, True]


HOLDS = [
    ("one of three", ("quiet", "quiet", "bad"), {}, "1 of the last 3 windows of v1 violates, 2 are needed"),
    ("the first of all windows", ("bad",), {}, "1 of 1 window of v1 violates"),
    ("not three windows yet", ("bad", "bad"), {}, "3 windows must be seen first, 1 to come"),
    ("the newest is fine", ("bad", "bad", "quiet"), {}, "the newest window does not violate (no drift"),
    ("too long ago", ("bad", "quiet", "quiet", "bad"), {}, "1 of the last 3 windows"),
    (
        "39 failures",
        ("quiet", "bad", "bad"),
        {"new_failures": 39},
        "only 39 new labelled failures, 40 are needed: label 1 more",
    ),
    ("no audited rows", ("quiet", "bad", "bad"), {"unread_audit": 0, "audit_wrong": None}, "label 160 more"),
    ("logging is broken now", ("bad", "bad", "bad", "logging_broken"), {}, "logging is broken"),
    ("too few rows now", ("bad", "bad", "bad", "not_enough_data"), {}, "nor does it clear (nothing could be told: not enough"),
    ("not computable now", ("bad", "bad", "bad", "not_computable"), {}, "(nothing could be told: not computable)"),
    ("no champion", ("quiet", "bad", "bad"), {"champion": None}, "no champion yet: run `retrain repro support`"),
    ("the last champion's window", ("quiet", "bad", "bad"), {"champion": 2}, "served by v1, the champion is v2"),
    ("before the last retraining", ("quiet", "bad", "bad"), {"attempts": (day(3),)}, "ends before the last retraining"),
    ("newer windows are recorded", ("quiet", "bad", "bad"), {"newest": day(9)}, "counts in the next decision"),
]


@pytest.mark.parametrize(("kinds", "changes", "words"), [case[1:] for case in HOLDS], ids=[case[0] for case in HOLDS])
def test_it_holds_and_says_why(kinds: tuple[str, ...], changes: dict[str, Any], words: str) -> None:
    decision = decided(*kinds, **changes)
    assert not decision.fire
    assert decision.purpose is None
    assert words in said(decision)


def test_the_violations_of_an_older_champion_do_not_count_for_the_new_one() -> None:
    old = windows("bad", "bad")
    new = [window(n, "bad", version=2) for n in (2, 3, 4)]
    assert not decide([*old, new[0]], policy=POLICY, facts=facts(champion=2)).fire
    assert decide([*old, *new], policy=POLICY, facts=facts(champion=2)).fire


@pytest.mark.parametrize("untold", ["not_enough_data", "not_computable", "logging_broken", "pending"])
def test_a_window_that_tells_nothing_neither_fires_nor_pushes_a_violation_out(untold: str) -> None:
    decision = decided("quiet", "bad", untold, untold, untold, "bad")
    assert decision.fire
    assert "(3 more could not be told and do not count)" in said(decision)
    assert not decided(untold, untold, "bad").fire


def test_labels_that_are_still_to_come_hide_no_violation_before_them() -> None:
    decision = decided("quiet", "bad", "bad", "pending")
    assert decision.fire
    held = decided("quiet", "quiet", "quiet", "pending")
    assert f"whose labels are known ({day(3)}) does not violate" in said(held)
    assert "quality is not known yet" in said(decided("pending"))


def test_a_loss_of_quality_counts_even_where_drift_could_not_be_computed() -> None:
    history = [window(n, "not_computable", violations=BAD) for n in range(3)]
    assert decide(history, policy=POLICY, facts=facts()).fire


def test_a_second_measurement_replaces_the_first_and_what_was_decided_stands() -> None:
    quiet, bad, newest = windows("quiet", "bad", "bad")
    late = measured_again(bad.model_copy(update={"fire": True, "reasons": ["as decided"]}), window(1, "quiet", rows=400))
    assert (late.rows, late.remeasured, late.fire, late.reasons) == (400, True, True, ["as decided"])
    for history in ([quiet, bad, late], [quiet, late, bad]):
        assert "1 of the last 3 windows" in said(decide([*history, newest], policy=POLICY, facts=facts()))


def test_a_backfilled_window_trains_only_when_asked() -> None:
    history = [*windows("quiet", "bad"), window(2, "bad", backfill=True)]
    assert "this window is a backfill" in said(decide(history, policy=POLICY, facts=facts()))
    assert decide(history, policy=POLICY, facts=facts(asked=True)).fire


def test_a_window_that_is_decided_on_again_decides_the_same() -> None:
    history = windows("quiet", "bad", "bad")
    fired = history[-1].model_copy(update={"fire": True})
    assert decide([*history[:-1], fired, history[-1]], policy=POLICY, facts=facts(newest=day(3))).fire


# --- an incident


def incident(*kinds: str, fired: int, **changes: Any) -> TriggerDecision:
    history = [window(n, kind, fire=n == fired) for n, kind in enumerate(kinds)]
    return decide(history, policy=POLICY, facts=facts(**changes))


def test_an_incident_opens_one_retraining() -> None:
    training = START + timedelta(days=3, hours=1)
    decision = incident("quiet", "bad", "bad", "bad", fired=2, training=training)
    assert not decision.fire
    assert "has opened its retraining at 2026-03-04 00:00; a training runs since 2026-03-04 01:00" in said(decision)


def test_a_retraining_that_came_to_no_attempt_is_rung_again() -> None:
    decision = incident("quiet", "bad", "bad", "bad", fired=2)
    assert decision.fire
    assert "opened its retraining at 2026-03-04 00:00, of which no attempt is recorded" in said(decision)
    assert not incident("quiet", "bad", "bad", "bad", fired=2, attempts=(day(3),)).fire
    assert not incident("quiet", "bad", "bad", "quiet", fired=2).fire


@pytest.mark.parametrize(("hours", "fire"), [(1, False), (11, False), (13, True)])
def test_a_ring_that_nobody_may_have_heard_yet_is_not_repeated(hours: float, fire: bool) -> None:
    fired = window(2, "bad", fire=True, facts=facts(at=START))
    history = [*windows("quiet", "bad"), fired, window(3, "bad")]
    decision = decide(history, policy=POLICY, facts=facts(at=START + timedelta(hours=hours)))
    assert decision.fire == fire
    assert fire or "`retrain repro support --end 2026-03-04T00:00:00Z` starts it by hand" in said(decision)


def test_a_window_that_does_not_violate_ends_the_incident() -> None:
    assert incident("quiet", "bad", "bad", "quiet", "bad", fired=2, attempts=(day(3),)).fire
    assert not incident("quiet", "bad", "bad", "pending", "bad", fired=2, attempts=(day(3),)).fire


def test_after_a_refusal_it_opens_another_with_enough_new_rows_to_learn_from_and_to_judge_by() -> None:
    history = ("quiet", "bad", "bad", "bad")
    few = incident(*history, fired=2, attempts=(day(3),), new_failures=79)
    assert "did not become champion; 79 new labelled failures since, 80 are needed: label 1 more" in said(few)
    unread = incident(*history, fired=2, attempts=(day(3),), new_failures=80, unread_audit=90)
    assert "only 90 unread audited rows, 120 are needed" in said(unread)
    assert incident(*history, fired=2, attempts=(day(3),), new_failures=80).fire


def test_a_retraining_by_hand_is_the_incidents_one() -> None:
    decision = decided("quiet", "bad", "bad", attempts=(day(2),))
    assert "has had its retraining (2026-03-03 00:00)" in said(decision)


def test_an_attempt_from_before_the_incident_is_not_its_retraining() -> None:
    assert decided("quiet", "bad", "bad", attempts=(day(0), day(1))).fire


# --- the planner


def test_the_planner_asks_for_as_many_rows_as_the_effect_needs_and_counts_those_that_do_not_judge() -> None:
    agrees, why = judgeable("improve", facts(audit_wrong=0.1, unread_audit=120), POLICY)
    assert not agrees
    assert "only 120 unread audited rows" in why and "6.5 points that a retraining could gain" in why
    passes = partial(power.power_superior, won=0.075, lost=0.01, level=0.05, min_effect=0.02)
    needed = power.rows_needed(passes, power=0.8, least=120)
    assert needed is not None and needed > 120
    assert f"{needed} are needed" in why and f"label {math.ceil((needed - 120) / 0.75)} more" in why
    assert judgeable("improve", facts(audit_wrong=0.1, unread_audit=needed), POLICY)[0]
    assert judgeable("improve", facts(audit_wrong=0.25, unread_audit=120), POLICY)[0]  # what the demo shows


def test_a_champion_with_nothing_to_repair_is_not_retrained_to_improve() -> None:
    agrees, why = judgeable("improve", facts(audit_wrong=0.02, unread_audit=5000), POLICY)
    assert not agrees
    assert "answers 98% of 5000 unread audited rows right" in why and "too little for gates.min_effect" in why
    assert judgeable("replace", facts(audit_wrong=0.02, unread_audit=5000), POLICY)[0]


def test_the_planner_answers_for_every_share_of_wrong_answers() -> None:
    for wrong in (0.0, 0.5, 0.995, 1.0):
        assert judgeable("improve", facts(audit_wrong=wrong, unread_audit=5000), POLICY)[0] == (wrong > 0)
        assert judgeable("replace", facts(audit_wrong=wrong, unread_audit=5000), POLICY)[0]


def test_few_rows_do_not_say_that_it_is_hopeless() -> None:
    assert "label 160 more" in judgeable("improve", facts(audit_wrong=None, unread_audit=0), POLICY)[1]
    assert "label 158 more" in judgeable("improve", facts(audit_wrong=0.0, unread_audit=2), POLICY)[1]
