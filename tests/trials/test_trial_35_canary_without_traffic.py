"""Trial 35: a canary with no traffic, with 3 requests, with traffic that stops half-way, with feedback on 1 in 200."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import QUICK, arms, ask, drawn_ids, fresh, label, look, rows, running, traffic, tries, written
from doors import Stub, promote, space_of, try_out
from doors import running as serving

from retrain import jobs, ledger
from retrain.edits import set_values
from retrain.workspace import Workspace


@pytest.fixture(scope="module")
def template(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return space_of(tmp_path_factory.mktemp("canary"), tiny, *QUICK).root


@pytest.fixture
def space(template: Path, tmp_path: Path) -> Workspace:
    made = fresh(template, tmp_path)
    promote(made, 7)
    return made


@pytest.fixture
def door(space: Workspace) -> Iterator[str]:
    with serving(space, Stub()) as (_, address):
        yield address


def expires(space: Workspace, address: str, why: str) -> None:
    """Nobody is blamed, and the champion has the traffic."""
    found = look(space, hours=49)
    assert found.judged is not None
    assert (found.judged.outcome, found.judged.expired) == ("inconclusive", True)
    assert any(why in reason for reason in found.judged.reasons), found.judged.reasons
    line = jobs.entries(space, "support")[-1]
    assert isinstance(line, ledger.Rollout)
    assert (line.action, line.outcome) == ("ended", "expired")
    tries(address, None)
    assert set(arms(traffic(address, range(20)))) == {"champion"}
    state = ledger.state(jobs.entries(space, "support"))
    assert state.champion is not None
    assert state.champion.version == 7


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [(0, 0, "0 requests of the challenger, 20 are needed"), (3, 0, "requests of the challenger, 20 are needed"),
     (80, 47, "no request of the challenger in the last 0.25 hours: the traffic has stopped")],
)  # fmt: skip
def test_trial_35_too_little_traffic_is_inconclusive_and_expires(
    space: Workspace, door: str, before: int, after: int, why: str
) -> None:
    try_out(space, 8, 50, against=7)
    tries(door, "support-v8")
    written_so_far = len(rows(space))
    traffic(door, range(before))
    written(space, written_so_far + before)
    for hours in (0, 2, after):
        found = look(space, hours=hours)
        assert found.judged is not None
        assert (found.judged.outcome, found.wrote, running(space)) == ("inconclusive", None, "begun")
    assert any(why in reason for reason in found.judged.reasons), found.judged.reasons
    expires(space, door, why)


def test_trial_35_labels_on_one_in_200_are_too_few_to_go_on(template: Path, tmp_path: Path) -> None:
    space = fresh(template, tmp_path)
    with space.clone("rules") as clone:
        set_values(clone.root / "params.yaml", ["promotion.rollout.min_labels=5"])
        clone.commit(["params.yaml"], "rules")
        clone.publish(lambda c: None, tries=1)
    promote(space, 7)
    with serving(space, Stub()) as (_, address):
        line: Any = try_out(space, 8, 50, against=7)
        tries(address, "support-v8")
        answers = traffic(address, range(200))
        assert 60 < arms(answers).count("challenger") < 140
        assert label(address, drawn_ids(space, answers)[0], "order_status") == 200
        written(space, 200)
        written(space, 1, ".feedback")
        written(space, len(drawn_ids(space, answers)) // 2, ".shadow")
        found = look(space, hours=0.9)  # the traffic has just stopped
        assert found.judged is not None and found.look is not None
        assert found.look.labels == 1
        assert "1 labelled requests that both answered, 5 are needed" in found.judged.reasons
        expires(space, address, "labelled requests that both answered, 5 are needed")
        assert line.key == rows(space)[0]["rollout"]
        assert ask(address, user="u").headers["x-retrain-model"] == "support-v7"
