"""What one look at a challenger says, by tables: no log, no ledger file, no server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain import ledger, looks, params
from retrain.looks import Judged, Look, Request

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
LINE = ledger.Rollout(
    at="2026-03-01T00:00:00Z", adapter="support", action="begun", version=8, digest="d" * 64, commit="c", against=7, step=0,
    weight=5, hours=24, why="passed",
)  # fmt: skip
STEPS = '[{"weight": 0, "hours": 24}, {"weight": 5, "hours": 24}, {"weight": 50, "hours": 48}]'
RULES = params.load(".", [f"promotion.rollout.steps={STEPS}"]).promotion.rollout


def requests(arm: Any, n: int, *, hours: float = 24.0, each: int = 1, **more: Any) -> list[Request]:
    """So many requests, evenly over the hours; every `each`-th has the fault that is given."""
    fault = {"seconds": 1.0, **more}
    at = [BEGAN.timestamp() + hours * 3600 * (i + 0.5) / n for i in range(n)]
    return [Request(t, arm, **(fault if i % each == 0 else {"seconds": 1.0})) for i, t in enumerate(at)]


def judged(*rows: list[Request], hours: float = 24.0, **more: Any) -> Judged:
    """A look after so many hours; 40 labelled pairs that agree, unless said otherwise."""
    given = {"labels": 40, **more}
    return looks.judge(Look(BEGAN + timedelta(hours=hours), tuple(r for row in rows for r in row), **given), LINE, RULES)


WELL = requests("champion", 4000)


def test_a_challenger_without_a_fault_goes_on_after_its_soak_time() -> None:
    found = judged(WELL, requests("challenger", 210))
    assert (found.outcome, found.warnings) == ("success", ())
    early = judged(requests("champion", 4000, hours=12), requests("challenger", 210, hours=12), hours=12.0)
    assert (early.outcome, early.reasons) == ("inconclusive", ("12.0 of 24 hours are over",))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"failed": True, "seconds": None}, "100.0% of its 4 requests failed, 0.0% of the champion's at the same time"),
        ({"invalid": True}, "gave no valid answer"),
        ({"seconds": 2.1}, "were slow"),
    ],
)
def test_a_fault_ends_it_at_once_however_few_requests_there_are(fault: dict[str, Any], words: str) -> None:
    champion = requests("champion", 400, hours=1)
    few = [Request(row.at, "challenger", **{"seconds": 1.0, **fault}) for row in champion[100:400:90]]  # in four blocks
    found = judged(champion, few, hours=1.0)
    assert found.outcome == "failure"
    assert words in found.reasons[0]


def test_one_failure_is_no_proof() -> None:
    champion = requests("champion", 400, hours=1)
    assert judged(champion, [Request(champion[200].at, "challenger", failed=True)], hours=1.0).outcome == "inconclusive"


def test_more_faults_within_the_bound_are_allowed_however_sure_they_are() -> None:
    found = judged(
        requests("champion", 40_000, each=200, failed=True), requests("challenger", 20_000, each=50, failed=True)
    )  # 0.5 % and 2 %
    assert found.outcome == "success"


def test_what_both_suffer_at_the_same_time_is_not_held_against_the_challenger() -> None:
    """All of the challenger's requests fall into an hour in which nothing is answered; the champion has good hours too."""
    outage = [Request(row.at, "champion", failed=True) for row in requests("champion", 160, hours=1)]
    later = [Request(row.at + 3600, "champion", seconds=1.0) for row in requests("champion", 3840, hours=23)]
    ours = [Request(row.at + 1, "challenger", failed=True) for row in outage[::10]]
    assert judged(outage, later, ours).outcome == "inconclusive"
    both = judged(requests("champion", 4000, each=2, failed=True), requests("challenger", 210, each=2, failed=True))
    assert both.outcome == "inconclusive"
    assert "it is not blamed, and waits" in both.reasons[0]
    slow = judged([Request(r.at, "champion", seconds=9.0) for r in WELL],
                  [Request(r.at, "challenger", seconds=8.0) for r in requests("challenger", 210)])  # fmt: skip
    assert slow.outcome == "success"


def test_labels_end_it_where_it_is_shown_to_be_worse_and_thumbs_only_warn() -> None:
    assert judged(WELL, requests("challenger", 210), labels=60, lost=14, won=2).outcome == "failure"
    assert judged(WELL, requests("challenger", 210), labels=60, lost=9, won=4).outcome == "success"
    found = judged(WELL, requests("challenger", 210), thumbs={"challenger": (5, 40), "champion": (700, 800)})
    assert (found.outcome, found.warnings) == (
        "success",
        ("warning: thumbs up on 5 of 40 answers, on 700 of 800 of the champion's",),
    )


@pytest.mark.parametrize(
    ("rows", "more", "why"),
    [
        ([], {}, "0 requests of the challenger, 200 are needed"),
        ([WELL], {}, "0 requests of the challenger, 200 are needed"),
        ([WELL, requests("challenger", 3)], {}, "3 requests of the challenger, 200 are needed"),
        ([WELL, requests("challenger", 300, hours=11)], {}, "no request of the challenger in the last 6 hours"),
        ([requests("champion", 400, hours=11), requests("challenger", 300)], {}, "no request of the champion in the last 6"),
        ([WELL, requests("challenger", 210)], {"labels": 1}, "1 labelled requests that both answered, 30 are needed"),
    ],
)
def test_what_is_missing_keeps_it_and_ends_it_in_the_end_without_blame(rows: Any, more: Any, why: str) -> None:
    found = judged(*rows, hours=24.0, **more)
    assert (found.outcome, found.expired) == ("inconclusive", False)
    assert any(why in reason for reason in found.reasons), found.reasons
    late = judged(*rows, hours=169.0, **more)
    assert (late.outcome, late.expired) == ("inconclusive", True)
    line = looks.following(LINE, late, RULES, "2026-03-08T01:00:00Z")
    assert line is not None
    assert (line.action, line.outcome) == ("ended", "expired")


def test_the_steps_follow_each_other_and_the_last_one_passes() -> None:
    success = Judged("success", ("fine",))
    second = looks.following(LINE, success, RULES, "2026-03-02T00:00:00Z")
    assert second is not None
    assert (second.action, second.step, second.weight, second.hours, second.key) == ("stepped", 1, 50, 48, "support-v8/1")
    last = looks.following(second, success, RULES, "2026-03-04T00:00:00Z")
    assert last is not None
    assert (last.action, last.weight) == ("passed", 50)
    broken = looks.judge(Look(BEGAN, broken="no room"), LINE, RULES)
    ended = looks.following(LINE, broken, RULES, "2026-03-01T00:00:05Z")
    assert ended is not None
    assert (ended.action, ended.outcome, ended.why) == ("ended", "failed", "failure: it cannot serve: no room")


def at(**more: Any) -> dict[str, Any]:
    return {"at": "2026-03-01T01:00:00Z", "adapter": "support", **more}


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (ledger.Restored(**at(version=7, number=9, digest="e" * 64, reason="r")), True),
        (ledger.Label(**at(label="gift", rows=3)), True),
        (ledger.Decision(**at(digest="d" * 64, approved=True, via="airflow", by=None, reason="r")), True),
        (ledger.Decision(**at(digest="d" * 64, approved=False, via="airflow", by=None, reason="r")), False),
        (ledger.Promotion(**at(version=9, digest="f" * 64, commit="c", tag="support-v9", replaces=7)), False),
        (ledger.Rollback(**at(from_version=7, version=6, digest="e" * 64, reason="r")), False),
        (ledger.Erasure(**at(rows=1, versions=(), candidates=("d" * 64,), after=None, tombstone="t", reason="r")), False),
        (ledger.Erasure(**at(rows=1, versions=(), candidates=("f" * 64,), after=None, tombstone="t", reason="r")), True),
        (LINE.model_copy(update={"action": "ended", "outcome": "expired"}), False),
    ],
)
def test_a_rollout_runs_until_it_ends_or_the_ledger_moves(line: ledger.Entry, runs: bool) -> None:
    assert (looks.running([LINE, line]) is not None) is runs
    paused = LINE.model_copy(update={"action": "paused"})
    assert looks.running([LINE, paused]) == paused
