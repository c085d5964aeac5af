"""Trial 36: an ill champion while a canary runs; beside it the same faults of the challenger alone, which are found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from canary import QUICK, arms, fresh, look, running, traffic, tries, written
from doors import Stub, promote, space_of, try_out
from doors import running as serving

from retrain.errors import RetrainError
from retrain.records import Message
from retrain.serving.versions import Version
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
def stub() -> Stub:
    return Stub()


@pytest.fixture
def door(space: Workspace, stub: Stub) -> Iterator[str]:
    with serving(space, stub) as (_, address):
        try_out(space, 8, 50, against=7)
        tries(address, "support-v8")
        yield address


def ill(stub: Stub, fault: str, *numbers: int) -> None:
    """These versions fail, are slow, or answer rubbish."""

    def text(version: Version, messages: list[Message]) -> str:
        stub.wait = 0.05 if fault == "slow" and version.number in numbers else 0.001
        if fault == "fails" and version.number in numbers:
            raise RetrainError("the model failed: RuntimeError: out of memory")
        return "rubbish" if fault == "rubbish" and version.number in numbers else "order_status"

    stub.text = text


@pytest.mark.parametrize("fault", ["fails", "slow", "rubbish"])
def test_trial_36_an_ill_champion_is_not_held_against_the_challenger(
    space: Workspace, door: str, stub: Stub, fault: str
) -> None:
    ill(stub, fault, 7)
    answers = traffic(door, range(100))
    good = [answer for answer in answers if answer.status_code == 200]
    assert set(arms(good)) == ({"challenger"} if fault == "fails" else {"champion", "challenger"})
    written(space, len(good))
    written(space, 100 - len(good), ".uncounted")
    found = look(space, hours=0.1)
    assert found.judged is not None and found.look is not None
    assert found.judged.outcome == "inconclusive"
    assert min(found.look.count("champion"), found.look.count("challenger")) >= 20
    assert running(space) == "begun"


@pytest.mark.parametrize("fault", ["fails", "rubbish"])
def test_trial_36_what_makes_both_ill_keeps_the_canary_where_it_is(space: Workspace, door: str, stub: Stub, fault: str) -> None:
    ill(stub, fault, 7, 8)
    answers = traffic(door, range(100))
    kind = ".uncounted" if fault == "fails" else ""
    written(space, 100, kind)
    found = look(space, hours=1.1)
    assert found.judged is not None
    assert found.judged.outcome == "inconclusive"
    assert any("it is not blamed, and waits" in reason for reason in found.judged.reasons), found.judged.reasons
    assert len({a.headers.get("x-retrain-arm", "failed") for a in answers}) == (1 if fault == "fails" else 2)


@pytest.mark.parametrize("fault", ["fails", "slow", "rubbish"])
def test_trial_36_the_same_fault_of_the_challenger_alone_takes_it_back_at_once(
    space: Workspace, door: str, stub: Stub, fault: str
) -> None:
    ill(stub, fault, 8)
    answers = traffic(door, range(40))
    good = [a for a in answers if a.status_code == 200]
    written(space, len(good))
    found = look(space)
    assert found.judged is not None
    assert found.judged.outcome == "failure", found.judged
    assert running(space) is None
    tries(door, None)
    assert set(arms(traffic(door, range(20)))) == {"champion"}
    if fault == "fails":  # its own door stopped it before anybody looked
        assert len(answers) - len(good) == 5
