"""Trial 35: a canary with no traffic, with 3 requests, with traffic that stops half-way, with feedback on 1 in 200."""

from collections.abc import Iterator
from typing import Any

import pytest
from canary import arms, ask, drawn_ids, label, look, rows, running, traffic, tries, written
from doors import Stub, try_out
from doors import running as serving
from small import set_for_all

from retrain import jobs, ledger
from retrain.workspace import Workspace


@pytest.fixture
def door(canary: Workspace) -> Iterator[str]:
    with serving(canary, Stub()) as (_, address):
        yield address


def expires(canary: Workspace, address: str, why: str) -> None:
    """Nobody is blamed, and the champion has the traffic."""
    found = look(canary, hours=49)
    assert found.judged is not None
    assert (found.judged.outcome, found.judged.expired) == ("inconclusive", True)
    assert any(why in reason for reason in found.judged.reasons), found.judged.reasons
    line = jobs.entries(canary, "support")[-1]
    assert isinstance(line, ledger.Rollout)
    assert (line.action, line.outcome) == ("ended", "expired")
    tries(address, None)
    assert set(arms(traffic(address, range(20)))) == {"champion"}
    state = ledger.state(jobs.entries(canary, "support"))
    assert state.champion is not None
    assert state.champion.version == 7


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [(0, 0, "0 requests of the challenger, 20 are needed"), (3, 0, "requests of the challenger, 20 are needed"),
     (80, 47, "no request of the challenger in the last 0.25 hours: the traffic has stopped")],
)  # fmt: skip
def test_trial_35_too_little_traffic_is_inconclusive_and_expires(
    canary: Workspace, door: str, before: int, after: int, why: str
) -> None:
    try_out(canary, 8, 50, against=7)
    tries(door, "support-v8")
    written_so_far = len(rows(canary))
    traffic(door, range(before))
    written(canary, written_so_far + before)
    for hours in (0, 2, after):
        found = look(canary, hours=hours)
        assert found.judged is not None
        assert (found.judged.outcome, found.wrote, running(canary)) == ("inconclusive", None, "begun")
    assert any(why in reason for reason in found.judged.reasons), found.judged.reasons
    expires(canary, door, why)


def test_trial_35_labels_on_one_in_200_are_too_few_to_go_on(canary: Workspace) -> None:
    set_for_all(canary, "promotion.rollout.min_labels=5")
    with serving(canary, Stub()) as (_, address):
        line: Any = try_out(canary, 8, 50, against=7)
        tries(address, "support-v8")
        answers = traffic(address, range(200))
        assert 60 < arms(answers).count("challenger") < 140
        assert label(address, drawn_ids(canary, answers)[0], "order_status") == 200
        written(canary, 200)
        written(canary, 1, ".feedback")
        written(canary, len(drawn_ids(canary, answers)) // 2, ".shadow")
        found = look(canary, hours=0.9)  # the traffic has just stopped
        assert found.judged is not None and found.look is not None
        assert found.look.labels == 1
        assert "1 labelled requests that both answered, 5 are needed" in found.judged.reasons
        expires(canary, address, "labelled requests that both answered, 5 are needed")
        assert line.key == rows(canary)[0]["rollout"]
        assert ask(address, user="u").headers["x-retrain-model"] == "support-v7"
