"""Each policy of the trigger by itself: what holds it back, what is written into params.yaml, what is refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deciding import START, day, decided, policy, said

from retrain import edits
from retrain import params as params_
from retrain.errors import ParamsError
from retrain.policies import Cost, cost
from retrain.records import stamp


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
