"""Trial 36: an ill champion while a canary runs; beside it the same faults of the challenger alone, which are found."""

from collections.abc import Iterator

import pytest
from canary import arms, look, running, traffic, tries, written
from doors import Stub, try_out
from doors import running as serving

from retrain.errors import RetrainError
from retrain.records import Message
from retrain.serving.versions import Version
from retrain.workspace import Workspace


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def door(canary: Workspace, stub: Stub) -> Iterator[str]:
    with serving(canary, stub) as (_, address):
        try_out(canary, 8, 50, against=7)
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
    canary: Workspace, door: str, stub: Stub, fault: str
) -> None:
    ill(stub, fault, 7)
    answers = traffic(door, range(100))
    good = [answer for answer in answers if answer.status_code == 200]
    assert set(arms(good)) == ({"challenger"} if fault == "fails" else {"champion", "challenger"})
    written(canary, len(good))
    written(canary, 100 - len(good), ".uncounted")
    found = look(canary, hours=0.1)
    assert found.judged is not None and found.look is not None
    assert found.judged.outcome == "inconclusive"
    assert min(found.look.count("champion"), found.look.count("challenger")) >= 20
    assert running(canary) == "begun"


@pytest.mark.parametrize("fault", ["fails", "rubbish"])
def test_trial_36_what_makes_both_ill_keeps_the_canary(canary: Workspace, door: str, stub: Stub, fault: str) -> None:
    ill(stub, fault, 7, 8)
    answers = traffic(door, range(100))
    kind = ".uncounted" if fault == "fails" else ""
    written(canary, 100, kind)
    found = look(canary, hours=1.1)
    assert found.judged is not None
    assert found.judged.outcome == "inconclusive"
    assert any("it is not blamed, and waits" in reason for reason in found.judged.reasons), found.judged.reasons
    assert len({a.headers.get("x-retrain-arm", "failed") for a in answers}) == (1 if fault == "fails" else 2)


@pytest.mark.parametrize("fault", ["fails", "slow", "rubbish"])
def test_trial_36_the_same_fault_of_the_challenger_alone_takes_it_back_at_once(
    canary: Workspace, door: str, stub: Stub, fault: str
) -> None:
    ill(stub, fault, 8)
    answers = traffic(door, range(40))
    good = [a for a in answers if a.status_code == 200]
    written(canary, len(good))
    found = look(canary)
    assert found.judged is not None
    assert found.judged.outcome == "failure", found.judged
    assert running(canary) is None
    tries(door, None)
    assert set(arms(traffic(door, range(20)))) == {"champion"}
    if fault == "fails":  # its own door stopped it before anybody looked
        assert len(answers) - len(good) == 5
