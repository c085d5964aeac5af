"""What becomes of a judge's verdicts: the correction by what people labelled, a violation, and what a record keeps."""

import json
from pathlib import Path

import deciding
import pytest

from monitoring import decisions, judge, trigger
from monitoring.judge import Judged
from retrain import params, stats


def judged(share: float, n: int = 400, by: str = "b") -> Judged:
    """By a judge that is nine times of ten right."""
    yes = round(n * (share * 0.9 + (1 - share) * 0.1))
    fixed = {"yes": yes, "n": n, "right_yes": 180, "right_n": 200, "wrong_yes": 20, "wrong_n": 200, "asked": n + 400}
    made = judge.pool([Judged(model="m", by=by, share=0.0, **fixed)], by)
    assert made is not None and made.share == pytest.approx(share, abs=0.01)
    return made


def fallen(drop: float | None, now: Judged | None, before: Judged | None, drift: str = "no_drift") -> list[str]:
    policy = params.load(Path(__file__).parent.parent).trigger.model_copy(update={"judge_drop": drop})
    return trigger.violations(drift_status=drift, drifted=[], compared=[], policy=policy, judged=(now, before))


def test_a_fall_of_the_calibrated_share_violates_only_where_params_say_so() -> None:
    (told,) = fallen(0.05, judged(0.7), judged(0.9))
    assert told.startswith("the judge's share of right answers fell from 90% to 70%; chance alone")
    assert fallen(None, judged(0.7), judged(0.9)) == []
    assert fallen(0.05, judged(0.87), judged(0.9)) == []  # by less than the drop
    assert fallen(0.01, judged(0.87, n=60), judged(0.9, n=60)) == []  # chance does this
    assert fallen(0.05, judged(0.95), judged(0.7)) == []
    assert fallen(0.05, judged(0.7), judged(0.9), drift="logging_broken") == []


def test_nothing_is_compared_with_another_judge_or_with_one_that_was_not_used() -> None:
    assert fallen(0.05, judged(0.7), judged(0.9, by="another")) == []
    unused = Judged(model="m", by="b", reason="down")
    assert fallen(0.05, unused, judged(0.9)) == fallen(0.05, judged(0.7), None) == fallen(0.05, None, None) == []
    assert judge.pool([unused], "b") is None and judge.pool([judged(0.9)], "another") is None
    both = judge.pool([judged(0.9), unused, judged(0.7)], "b")
    assert both is not None and both.share == pytest.approx(0.8, abs=0.01) and both.n == 800


def test_a_record_keeps_what_the_judge_said_and_a_replay_reads_it() -> None:
    said = {"judge": judged(0.7), "judge_reference": judged(0.9), "facts": deciding.facts()}
    records = [deciding.window(n, **said) for n in range(4)]
    again = [trigger.WindowRecord.model_validate(json.loads(json.dumps(record.as_dict()))) for record in records]
    assert again == records and [record.violations for record in again] == [[], [], [], []]
    assert "70% right by the judge" in "\n".join(decisions.story("support", again, [], deciding.facts().cost))
    assert not any(line.replayed == "fire" for line in decisions.replay(again, deciding.policy()))
    replayed = decisions.replay(again, deciding.policy("judge_drop=0.05"))
    assert "fire" in [line.replayed for line in replayed]


# --- the correction


def test_the_correction_is_that_of_rogan_and_gladen() -> None:
    found = stats.rogan_gladen((75, 100), (90, 100), (30, 100), level=0.025)
    assert found.share == pytest.approx((0.75 + 0.7 - 1) / (0.9 + 0.7 - 1))
    assert found.low < found.share < found.high
    perfect = stats.rogan_gladen((100, 100), (500, 500), (0, 500), level=0.025)
    assert (perfect.share, perfect.high) == (1.0, 1.0) and perfect.low < 0.99
    with pytest.raises(ValueError, match="no difference"):
        stats.rogan_gladen((50, 100), (50, 100), (50, 100), level=0.025)
    with pytest.raises(ValueError, match="at least 1"):
        stats.rogan_gladen((50, 100), (50, 100), (0, 0), level=0.025)


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    import numpy as np

    rng, truth, hits = np.random.default_rng(3), 0.85, 0
    for _ in range(1000):
        said = int(rng.binomial(200, truth * 0.9 + (1 - truth) * 0.2))
        found = stats.rogan_gladen(
            (said, 200), (int(rng.binomial(170, 0.9)), 170), (int(rng.binomial(30, 0.2)), 30), level=0.025
        )
        hits += found.low <= truth <= found.high
    assert 0.93 < hits / 1000 < 0.98
