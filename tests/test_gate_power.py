"""The benchmark of the gate tells what it says it tells."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gate_power


@pytest.mark.parametrize("name", ["better_10", "five_promotions_each_2_worse"])
def test_the_same_draws_give_the_same_row(name: str) -> None:
    shares = gate_power._row((name, 200), 3)
    assert shares == gate_power._row((name, 200), 3) and set(shares) == {"promoted", "bare_rule"}


def test_a_drawn_candidate_differs_as_often_and_gains_as_much_as_its_case_says() -> None:
    rng, bench = np.random.default_rng(0), gate_power.Bench(1000)
    gained, differing, slice_ = [], [], []
    for _ in range(60):
        champion = bench.champion(rng)
        candidate = bench.candidate(rng, champion, {"audit": 0.05, "retained": -0.10}, -0.15)
        change = {suite: candidate[suite] - champion[suite] for suite in gate_power.SUITES}
        rest = bench.labels != 0
        gained.append([change[suite][rest].mean() for suite in gate_power.SUITES])
        differing.append([abs(change[suite][rest]).mean() for suite in gate_power.SUITES])
        slice_.append(np.mean([change[suite][~rest].mean() for suite in gate_power.SUITES]))
    assert np.mean(gained, axis=0) == pytest.approx([0.05, 0.0, -0.10], abs=0.006)
    assert np.mean(differing, axis=0) == pytest.approx([0.10, 0.10, 0.10], abs=0.006)
    assert np.mean(slice_) == pytest.approx(-0.15, abs=0.02)


def test_a_candidate_that_gained_less_than_is_asked_for_is_refused() -> None:
    rng, bench = np.random.default_rng(1), gate_power.Bench(200)
    champion = bench.champion(rng)
    candidate = {**champion, "audit": champion["audit"].copy()}
    candidate["audit"][np.flatnonzero(champion["audit"] == 0)[:3]] = 1  # 1.5 points
    assert not bench.promoted(candidate, champion)
