"""The trigger, from made-up window records: when it fires, what it says when it does not, and how often it errs."""

import bisect
import json
import math
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from monitoring.decisions import fires, replay, side_by_side, story
from monitoring.trigger import (
    Compared,
    Facts,
    TriggerDecision,
    WindowRecord,
    bar,
    decide,
    judgeable,
    measured_again,
    violations,
)  # fmt: skip
from retrain import edits, stats
from retrain import params as params_
from retrain.cli import app
from retrain.errors import ParamsError
from retrain.ledger import Attempt
from retrain.policies import Cost, cost
from retrain.records import stamp
from retrain.registry import Registry
from retrain.story import params_text
from retrain.workspace import init

PARAMS = params_.load(".")
POLICY = PARAMS.trigger
BAD = ["drift: topic 0.30 > 0.21"]
START = datetime(2026, 3, 1, tzinfo=UTC)


def day(n: float) -> str:
    return stamp(START + timedelta(days=n))


def window(n: int, kind: str = "quiet", **changes: Any) -> WindowRecord:
    """The window of day n, which ends where n + 1 begins; a kind that is no word here is a drift status."""
    bad = kind == "bad"
    status = {"quiet": "no_drift", "bad": "drift", "pending": "no_drift"}.get(kind, kind)
    given: dict[str, Any] = {
        "adapter": "support", "start": day(n), "end": day(n + 1), "rows": 320, "drift_status": status, "drifted": [],
        "audited": 90, "violations": BAD if bad else [], "version": 1, "fire": False, "reasons": [],
        "known": kind != "pending",
    }  # fmt: skip
    return WindowRecord(**{**given, **changes})


def windows(*kinds: str) -> list[WindowRecord]:
    return [window(n, kind) for n, kind in enumerate(kinds)]


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {
        "at": START, "champion": 1, "trained": day(0), "new_failures": 40, "unread_audit": 120, "audit_wrong": 0.25,
        "bar": bar(PARAMS),
    }  # fmt: skip
    return Facts(**{**given, **changes})


def policy(*settings: str) -> params_.Trigger:
    return PARAMS.other_trigger({}, tuple(f"trigger.{setting}" for setting in settings), "test")


def decided(*kinds: str, rules: params_.Trigger = POLICY, **changes: Any) -> TriggerDecision:
    return decide(windows(*kinds), policy=rules, facts=facts(**changes))


def said(decision: TriggerDecision) -> str:
    return "; ".join(decision.reasons)


# --- what violates


def share(good: int, n: int, reference_good: int = 900, reference_n: int = 1000, signal: Any = "accuracy") -> Compared:
    return Compared(signal=signal, good=good, n=n, reference_good=reference_good, reference_n=reference_n)


def found(*compared: Compared, status: str = "no_drift", drifted: list[str] | None = None) -> list[str]:
    return violations(drift_status=status, drifted=drifted or [], compared=compared, policy=POLICY)


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


# --- policies


def test_a_cooldown_holds_for_its_hours() -> None:
    rules = policy("policies.cooldown={hours: 72}")
    held = decided("quiet", "bad", "bad", rules=rules, attempts=(day(1),))
    assert "but the last retraining was 48 h ago, 72 h must pass" in said(held)
    assert decided("quiet", "bad", "bad", rules=rules, attempts=(day(0),)).fire
    assert decided("quiet", "bad", "bad", rules=rules).fire


def test_a_budget_counts_what_was_spent_and_one_more() -> None:
    rules = policy("policies.budget={gpu_hours_a_week: 10}")
    spent = Cost(runs=4, hours=30.0, week=9.5, weekly=7.5, one=1.0)
    held = decided("quiet", "bad", "bad", rules=rules, cost=spent)
    assert "training took 30.0 h so far (4 runs), 9.5 h in the last 7 days, 7.5 h a week at the present rate" in said(held)
    assert decided("quiet", "bad", "bad", rules=rules, cost=spent.model_copy(update={"week": 9.0})).fire


def test_the_cost_of_trainings_is_their_time() -> None:
    at = START + timedelta(days=30)
    hour = timedelta(hours=1)
    spans = [
        (at - timedelta(days=20), at - timedelta(days=20) + 4 * hour),
        (at - timedelta(days=6), at - timedelta(days=6) + hour),
    ]
    found = cost(spans, at)
    assert (found.runs, found.hours, found.week, found.one) == (2, 5.0, 1.0, 2.5)
    assert found.weekly == pytest.approx(5 / (20 / 7))
    dead = cost([*spans, (at - timedelta(days=3), None)], at)  # its process died, and nobody closed the run
    assert dead.week == 1.0 + 4.0
    assert cost([*spans, (at - hour / 2, None)], at).week == 1.5
    assert cost([], at) == Cost()


def test_training_starts_only_in_its_hours_and_over_midnight() -> None:
    rules = policy("policies.hours={after: 22, before: 6, timezone: Europe/Berlin}")
    for clock, fire in (("22:30", True), ("04:59", True), ("05:01", False), ("20:59", False), ("21:00", True)):  # of UTC
        at = datetime.fromisoformat(f"2026-03-04T{clock}:00+00:00")
        decision = decided("quiet", "bad", "bad", rules=rules, at=at)
        assert decision.fire == fire, clock
    assert "it is 21:59, training starts after 22:00 and before 6:00 (Europe/Berlin)" in said(
        decided("quiet", "bad", "bad", rules=rules, at=datetime(2026, 3, 4, 20, 59, tzinfo=UTC))
    )


def test_manual_waits_for_a_person() -> None:
    rules = policy("policies.manual={}")
    assert "but a person starts it (trigger.policies: manual)" in said(decided("quiet", "bad", "bad", rules=rules))
    assert decided("quiet", "bad", "bad", rules=rules, asked=True).fire


def test_the_longest_age_replaces_a_champion_that_nothing_is_wrong_with() -> None:
    rules = policy("policies.max_age={days: 30}")
    old = {"trained": stamp(START - timedelta(days=30)), "unread_audit": 400}
    decision = decided("quiet", rules=rules, **old)
    assert (decision.fire, decision.purpose) == (True, "replace")
    assert "v1 learned from data that is 31 days old, 30 are allowed" in said(decision)
    assert not decided("quiet", rules=rules, unread_audit=400).fire
    assert decided("quiet", "bad", "bad", rules=rules, **old).purpose == "improve"
    assert "label" in said(decided("quiet", rules=rules, **{**old, "unread_audit": 120}))


def test_a_refused_replacement_waits_for_new_rows_too() -> None:
    rules = policy("policies.max_age={days: 30}")
    old = {"trained": stamp(START - timedelta(days=40)), "unread_audit": 400, "attempts": (day(0.5),)}
    assert "which did not become champion; 40 new labelled failures since, 80 are needed" in said(
        decided("quiet", rules=rules, **old)
    )
    assert decided("quiet", rules=rules, **{**old, "new_failures": 80}).fire


def test_all_that_is_missing_is_said_at_once() -> None:
    rules = policy("policies.manual={}", "policies.cooldown={hours: 999}")
    words = said(decided("quiet", "bad", "bad", rules=rules, attempts=(day(0),), unread_audit=100))
    assert "999 h must pass" in words and "a person starts it" in words and "label 27 more" in words


def test_one_policy_is_changed_added_or_taken_away_by_its_kind() -> None:
    assert policy("policies.k_of_n.windows=5").policies[0].windows == 5  # type: ignore[union-attr]
    assert [p.kind for p in policy("policies.min_failures=null", "policies.manual={}").policies] == ["manual", "k_of_n"]
    text = Path("params.yaml").read_text()
    text = text.replace("trigger: {min_audit: 30}", "trigger: {policies: [{kind: min_failures, rows: 7}]}")
    merged = params_.parse(text, "params.yaml").of("orders")
    assert [(p.kind, getattr(p, "rows", None)) for p in merged.trigger.policies] == [("k_of_n", None), ("min_failures", 7)]


def test_a_policy_is_written_into_params_yaml_and_the_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(Path("params.yaml").read_text())
    edits.set_values(path, ["trigger.policies.cooldown={hours: 48}", "trigger.policies.k_of_n.windows=5"])
    edits.set_values(path, ["trigger.policies.min_failures=null"])
    assert [p.kind for p in params_.load(tmp_path).trigger.policies] == ["cooldown", "k_of_n"]
    assert "# at least k of the last n windows violate" in path.read_text()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("policies.k_of_n.violations=4", "violations is 4 of windows 3: it could never fire"),
        ("policies.k_of_m.violations=4", "did you mean 'k_of_n'"),
        ("policies.cooldwn={hours: 1}", "does not match any of the expected tags"),
        ("policies.hours={after: 1, befor: 2, timezone: UTC}", "did you mean 'before'"),
        ("policies.hours={after: 1, before: 2, timezone: Mars/North}", "is no time zone"),
        ("policies=[{kind: manual}, {kind: manual}]", "names manual twice"),
        ("windows=4", "'windows' is not in params.yaml"),
        ("policies.cooldown=24", "give a mapping such as"),
        ("policies.cooldown=null", "there is none of that kind"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused_with_the_fix(setting: str, words: str) -> None:
    with pytest.raises(ParamsError, match=words.replace("(", r"\(")):
        policy(setting)


# --- the planner


def test_the_planner_asks_for_as_many_rows_as_the_effect_needs_and_counts_those_that_do_not_judge() -> None:
    agrees, why = judgeable("improve", facts(audit_wrong=0.1, unread_audit=120), POLICY)
    assert not agrees
    assert "only 120 unread audited rows" in why and "6.5 points that a retraining could gain" in why
    passes = partial(stats.power_superior, won=0.075, lost=0.01, level=0.05, min_effect=0.02)
    needed = stats.rows_needed(passes, power=0.8, least=120)
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


# --- the recorded past


def recorded(*kinds: str, rules: params_.Trigger = POLICY) -> list[WindowRecord]:
    """Windows decided one after another, as the monitor does, nothing being trained."""
    history: list[WindowRecord] = []
    for n, kind in enumerate(kinds):
        falls = [share(70 if kind == "bad" else 90, 100, 90, 100)]
        record = window(n, "quiet", compared=falls, facts=facts(), policy=rules.model_dump(mode="json"))
        record = record.model_copy(update={"violations": found(*falls)})
        decision = decide([*history, record], policy=rules, facts=facts())
        history.append(
            record.model_copy(update={"fire": decision.fire, "reasons": decision.reasons, "purpose": decision.purpose})
        )
    return [WindowRecord.model_validate(record.as_dict()) for record in history]


PAST = ("quiet", "quiet", "bad", "bad", "bad", "quiet", "bad")


def test_a_replay_of_the_same_policy_decides_the_same() -> None:
    past = recorded(*PAST)
    again = replay(past, POLICY)
    assert [line.replayed for line in again] == [line.decided for line in again]
    assert [line.reasons for line in again] == [record.reasons for record in past]
    assert fires(again)["decided"] == [day(4), day(7)]


def test_a_replay_says_when_another_policy_would_have_fired() -> None:
    past = recorded(*PAST)
    eager = replay(past, policy("policies.k_of_n={windows: 1, violations: 1}"))
    assert fires(eager) == {"decided": [day(4), day(7)], "replayed": [day(3), day(7)]}
    table = side_by_side(eager)
    assert "2026-03-04 00:00  hold     fire" in table
    assert "this policy: 2 fires, 2026-03-04 00:00, 2026-03-08 00:00" in table
    blind = replay(past, policy("accuracy_drop=0.5"))
    assert fires(blind)["replayed"] == []


def test_a_record_from_before_facts_were_kept_is_read_and_said_not_to_be_replayable() -> None:
    old = {k: v for k, v in window(0, "bad").as_dict().items() if k in ("adapter", "start", "end", "rows", "drift_status",
           "drifted", "audited", "violations", "version", "fire", "reasons")}  # fmt: skip
    line = replay([WindowRecord.model_validate(old)], POLICY)[0]
    assert line.replayed is None
    assert "cannot be replayed" in line.reasons[0]


def test_the_story_tells_quiet_windows_in_one_line_and_what_a_fire_came_to() -> None:
    attempt = Attempt(
        at="2026-03-05T01:00:00Z", adapter="support", purpose="improve", end=day(4), commit="c", digest="d", status="failed",
        promote=False, dataset="s", audit=None, champion=None, why="forgot cancel_order",
    )  # fmt: skip
    lines = story("support", recorded(*PAST), [attempt], Cost(runs=1, hours=0.2, week=0.2, weekly=0.2, one=0.2))
    assert lines[0] == "2026-03-02 00:00 to 2026-03-03 00:00  v1  hold: 2 quiet windows, 640 rows"
    text = "\n".join(lines)
    assert "2026-03-05 00:00  v1  FIRE, to improve: 320 rows" in text
    assert text.index("FIRE") < text.index("then: 2026-03-05T01:00:00Z attempt") < text.index("2026-03-06 00:00  v1  hold")
    assert "training took 12 min so far (1 run)" in text
    assert "no window has been measured yet" in story("support", [], [], Cost())[0]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real workspace whose MLflow holds the recorded windows."""
    root = init(tmp_path_factory.mktemp("why") / "ws", files={"params.yaml": params_text("support", ["a", "b"])}).root
    registry = Registry.open(params_.load(root).mlflow, root)
    for record in recorded(*PAST):
        registry.log_window("support", record.as_dict(), {}, [])
    return root


def printed(root: Path, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--workspace", str(root)])
    assert done.exit_code == 0, done.output or done.exception
    return done.stdout


def test_why_tells_the_recorded_windows_to_people_and_to_programs(watched: Path) -> None:
    assert "FIRE, to improve: 320 rows" in printed(watched, "why", "support")
    told = json.loads(printed(watched, "why", "support", "--json"))
    assert [line["decision"] for line in told["windows"]] == ["hold", "hold", "hold", "fire", "hold", "hold", "fire"]
    assert len(json.loads(printed(watched, "why", "support", "--windows", "2", "--json"))["windows"]) == 2


def test_another_policy_is_replayed_from_a_file_and_from_settings(watched: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("policies:\n  - {kind: k_of_n, windows: 1, violations: 1}\n")
    assert "this policy: 2 fires, 2026-03-04 00:00" in printed(watched, "trigger", "support", "--replay", str(other))
    setting = "trigger.policies.k_of_n={windows: 1, violations: 1}"
    told = json.loads(printed(watched, "trigger", "support", "--set", setting, "--json"))
    assert told["fires"] == {"decided": [day(4), day(7)], "replayed": [day(3), day(7)]}
    wrong = CliRunner().invoke(app, ["trigger", "support", "--set", "seed=8", "--workspace", str(watched)])
    assert "a replay changes the trigger alone" in str(wrong.exception)


def test_a_record_survives_json() -> None:
    record = window(1, "bad", facts=facts(), compared=[share(70, 100)], policy=POLICY.model_dump(mode="json"), fire=True)
    assert WindowRecord.model_validate(record.as_dict()) == record
