"""Trial 31: rows that cannot be scored, on either side; a stub scorer in the evaluation's own seam, then the gate."""

import math
from typing import Any

import pytest
from tables import Rows, judge

from retrain.scoring import Judge, entry

ROWS = {"audit": 120, "golden": 200, "retained": 200}
ARMS = ("candidate", "champion")


class Stub(Judge):
    """Right for every answer of the candidate and for nine in ten of the champion's; a marked answer is given to `fault`."""

    fault: Any = None

    def right(self, answer: str, expected: str) -> bool | None:
        if "unscorable" in answer:
            return Stub.fault()  # type: ignore[no-any-return]
        return "wrong" not in answer

    def parsed(self, answer: str, labels: Any) -> bool:
        return True

    def scores(self, answer: str, expected: str) -> dict[str, float | None]:
        return {}


def raises(error: type[Exception]) -> Any:
    def fault() -> bool:
        raise error("the answer of a user")

    return fault


FAULTS = {
    "exception": raises(ZeroDivisionError),
    "timeout": raises(TimeoutError),
    "unreadable": lambda: None,
    "not a number": lambda: math.nan,
    "infinite": lambda: math.inf,
    "out of range": lambda: 7,
    "a text": lambda: "true",
}


def table(marked: dict[str, int]) -> Rows:
    """Predictions as the evaluation makes them, with so many marked answers of each arm on each suite, on the last rows."""
    stub = Stub("generation", None)
    return [
        {
            "schema": 1, "suite": suite, "id": f"{i:04}", "joins": [f"{suite}{i}"], "question": "?", "expected": "yes",
            "excluded": None, "slice": {},
            "arms": {
                arm: entry(stub, said(arm, i, n - marked.get(arm, 0)), "yes", ()) for arm in (*ARMS, "base")
            },
        }
        for suite, n in ROWS.items() for i in range(n)
    ]  # fmt: skip


def said(arm: str, i: int, first_marked: int) -> str:
    if i >= first_marked:
        return f"unscorable {arm}"
    return f"{arm}: wrong" if arm == "champion" and i % 10 == 0 else arm


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("arm", ARMS)
def test_a_row_that_cannot_be_scored_counts_against_the_candidate_whichever_arm_it_was(arm: str, fault: str) -> None:
    Stub.fault = staticmethod(FAULTS[fault])
    whole, found = judge(table({})), judge(table({arm: 2}))
    assert whole.promote
    for name, suite in (("superior", "audit"), ("non_inferior", "golden"), ("non_inferior", "retained")):
        plain, blind = whole.check(name, suite), found.check(name, suite)
        assert plain and blind and blind.n == plain.n and (blind.lost, blind.won) == (2, plain.won)
        assert (blind.difference or 0) < (plain.difference or 0) and (blind.p or 0) > (plain.p or 0)
    measured = found.check("measured", "audit")
    assert measured and measured.passed and measured.why.startswith("2 of 120 rows of audit could not be scored for an arm")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("arm", ARMS)
def test_above_two_percent_nothing_is_evaluated(arm: str, fault: str) -> None:
    Stub.fault = staticmethod(FAULTS[fault])
    verdict = judge(table({arm: 5}))
    assert (verdict.status, verdict.promote) == ("not_evaluated", False)
    assert not [check for check in verdict.checks if check.passed is False]
    check = verdict.check("superior")
    assert check and "5 of 120 rows of audit could not be scored" in check.why


def test_the_reason_quotes_nothing_that_a_scorer_says() -> None:
    Stub.fault = staticmethod(FAULTS["exception"])
    found = entry(Stub("generation", None), "unscorable", "yes", ())
    assert found == {"answer": "unscorable", "right": None, "parsed": None, "why": "judging it failed: ZeroDivisionError"}
