"""Paired statistics, held against formulas of their sources, published numbers and brute force."""

import math
import random
from functools import partial

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, norm

from retrain import power, stats


def z_by_likelihood(b: int, c: int, n: int, difference: float) -> float:
    """Tango's z with the restricted maximum-likelihood estimate found by search instead of the closed form."""

    def loss(q: float) -> float:
        shares = ((b, q + difference), (c, q), (n - b - c, 1 - 2 * q - difference))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in shares)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    q = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return float((b - c - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference))))


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (12, 2, 50), (0, 5, 100), (3, 3, 100)])
def test_tango_interval_inverts_the_score_test(b: int, c: int, n: int) -> None:
    observed, z = (b - c) / n, norm.ppf(0.975)
    low = brentq(lambda d: z_by_likelihood(b, c, n, d) - z, -0.9, observed - 1e-6)
    high = brentq(lambda d: z_by_likelihood(b, c, n, d) + z, observed + 1e-6, 0.9)
    assert stats.tango_interval(b, c, n, level=0.025) == pytest.approx((low, high), abs=1e-5)


def test_tango_interval_of_the_example_of_propcis() -> None:
    assert stats.tango_interval(40, 20, 160, level=0.025) == pytest.approx((0.0309, 0.2181), abs=1e-4)


def test_non_inferiority_is_the_low_end_of_the_interval() -> None:
    for n in (1, 10, 31, 32, 100, 200):
        for b in range(0, n + 1, max(1, n // 7)):
            for c in range(0, n - b + 1, max(1, n // 7)):
                low, high = stats.tango_interval(b, c, n, level=0.05)
                assert -1 <= low <= (b - c) / n + 1e-9 and (b - c) / n - 1e-9 <= high <= 1
                for margin in (0.05, 0.08, 0.3):
                    assert (stats.non_inferior(b, c, n, margin=margin)[1] < 0.05) == (low > -margin), (b, c, n, margin)


def test_swapping_the_arms_mirrors_the_interval() -> None:
    low, high = stats.tango_interval(7, 19, 120, level=0.05)
    assert stats.tango_interval(19, 7, 120, level=0.05) == pytest.approx((-high, -low), abs=1e-8)


def test_equal_answers_need_the_least_rows_and_no_fewer() -> None:
    least = power.rows_for_non_inferiority(discordant=0.0, margin=0.08, level=0.05, power=0.9)
    assert least == math.ceil(norm.ppf(0.95) ** 2 * 0.92 / 0.08) == 32
    assert stats.non_inferior(0, 0, least, margin=0.08)[1] < 0.05 < stats.non_inferior(0, 0, least - 1, margin=0.08)[1]


def test_tango_errs_less_than_its_level_at_the_margin() -> None:
    """Tango's interval at n = 100, margin 5 points, 6 % discordant, it errs 3.0 %; power for an equal candidate 55 %."""

    def passing(difference: float) -> float:
        b_share, c_share = (0.06 + difference) / 2, (0.06 - difference) / 2
        return sum(
            binom.pmf(b, 100, b_share) * binom.pmf(c, 100 - b, c_share / (1 - b_share))
            for b in range(30)
            for c in range(30)
            if stats.non_inferior(b, c, 100, margin=0.05)[1] < 0.05
        )

    assert passing(-0.05) == pytest.approx(0.03, abs=0.005)
    assert passing(0.0) == pytest.approx(0.55, abs=0.02)


def test_rows_for_a_guardrail_are_those_of_the_design() -> None:
    assert power.rows_for_non_inferiority(discordant=0.06, margin=0.05, level=0.05, power=0.9) == pytest.approx(
        8.6 * 0.06 / 0.05**2, rel=0.01
    )
    assert power.rows_for_non_inferiority(discordant=0.06, margin=0.05, level=0.05, power=0.8) == pytest.approx(148, abs=2)


@pytest.mark.parametrize(("discordant", "gain"), [(0.3, 0.2), (0.2, 0.1), (0.1, 0.1)])
def test_rows_for_a_gain_give_the_power_they_promise(discordant: float, gain: float) -> None:
    n = power.rows_for_superiority(discordant=discordant, gain=gain, level=0.025, power=0.8)
    won = (discordant + gain) / 2 / discordant
    found = 0.0
    for differing in range(n + 1):
        least = next(b for b in range(differing + 2) if b > differing or stats.mcnemar_p(b, differing - b) <= 0.025)
        found += binom.pmf(differing, n, discordant) * binom.sf(least - 1, differing, won)
    assert 0.78 <= found <= 0.92


def test_mcnemar_is_the_binomial_tail() -> None:
    assert stats.mcnemar_p(0, 0) == 1.0
    assert stats.mcnemar_p(5, 0) == pytest.approx(1 / 32)
    assert stats.mcnemar_p(8, 2) == pytest.approx(sum(math.comb(10, k) for k in (8, 9, 10)) / 1024)
    assert stats.mcnemar_p(2, 8) > 0.98


def test_allowed_loss_is_the_last_that_passes() -> None:
    loss = stats.allowed_loss(2, 200, margin=0.08, level=0.05)
    assert loss is not None
    c = round(loss * 200) + 2
    assert stats.non_inferior(2, c, 200, margin=0.08)[1] < 0.05 <= stats.non_inferior(2, c + 1, 200, margin=0.08)[1]
    assert stats.allowed_loss(0, 20, margin=0.08, level=0.05) is None  # 20 rows show nothing, whatever they say


def test_wilson_interval_of_ten_in_ten() -> None:
    z = norm.ppf(0.975)
    assert stats.wilson(10, 10, level=0.025) == pytest.approx((10 / (10 + z * z), 1.0))


def test_discordant_counts_rows_that_only_one_arm_got_right() -> None:
    assert stats.discordant([True, True, False, False], [False, True, True, False]) == (1, 1)
    with pytest.raises(ValueError):
        stats.discordant([True], [])


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 10), (6, 5, 10)])
def test_impossible_counts_are_refused(b: int, c: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{b}, {c}, {n}"):
        stats.tango_z(b, c, n, 0.0)


def test_exact_test_keeps_its_level_under_chance() -> None:
    rng = random.Random(0)
    pairs = [(sum(rng.random() < 0.5 for _ in range(20)), 20) for _ in range(2000)]
    assert sum(stats.mcnemar_p(b, n - b) <= 0.05 for b, n in pairs) / 2000 < 0.05


# --- planning


def outcomes(n: int, won: float, lost: float, draws: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [(int(b), int(c)) for b, c, _ in rng.multinomial(n, [won, lost, 1 - won - lost], draws)]


@pytest.mark.parametrize(("n", "won", "lost"), [(120, 0.19, 0.01), (200, 0.075, 0.01), (400, 0.06, 0.03), (90, 0.2, 0.0)])
def test_power_of_the_success_check_is_what_simulation_finds(n: int, won: float, lost: float) -> None:
    passed = [stats.mcnemar_p(b, c) <= 0.05 and (b - c) / n >= 0.02 - 1e-12 for b, c in outcomes(n, won, lost, 2000)]
    assert power.power_superior(n, won=won, lost=lost, level=0.05, min_effect=0.02) == pytest.approx(np.mean(passed), abs=0.03)


@pytest.mark.parametrize(("n", "won", "lost"), [(150, 0.07, 0.07), (120, 0.03, 0.03), (200, 0.04, 0.12), (40, 0.0, 0.0)])
def test_power_of_a_guardrail_is_what_simulation_finds(n: int, won: float, lost: float) -> None:
    passed = [stats.non_inferior(b, c, n, margin=0.08)[1] < 0.05 for b, c in outcomes(n, won, lost, 2000)]
    assert power.power_non_inferior(n, won=won, lost=lost, margin=0.08, level=0.05) == pytest.approx(np.mean(passed), abs=0.03)


def test_the_minimum_effect_costs_power_where_the_gain_is_near_it() -> None:
    free, asked = (power.power_superior(3000, won=0.04, lost=0.015, level=0.05, min_effect=e) for e in (0.0, 0.025))
    assert free > 0.99
    assert asked == pytest.approx(0.5, abs=0.05)


def test_rows_needed_are_the_fewest_that_give_the_power() -> None:
    passes = partial(power.power_superior, won=0.075, lost=0.01, level=0.05, min_effect=0.02)
    n = power.rows_needed(passes, power=0.8, least=30)
    assert n is not None
    assert passes(n) >= 0.8 > passes(n - 1)
    assert n == pytest.approx(power.rows_for_superiority(discordant=0.085, gain=0.065, level=0.05, power=0.8), rel=0.1)
    assert power.rows_needed(passes, power=0.8, least=500) == 500
    hopeless = partial(power.power_superior, won=0.02, lost=0.01, level=0.05, min_effect=0.02)
    assert power.rows_needed(hopeless, power=0.8, least=30) is None


# --- a fall below the reference


def test_a_fall_against_a_large_reference_is_the_binomial_tail_in_mid_p() -> None:
    exact = binom.cdf(8, 20, 0.7) - 0.5 * binom.pmf(8, 20, 0.7)
    assert stats.fall_p(8, 20, 700_000, 1_000_000) == pytest.approx(exact, rel=1e-3)


def test_a_fall_against_few_rows_is_weighed_by_them() -> None:
    assert stats.fall_p(80, 100, 90, 100) > stats.fall_p(80, 100, 900, 1000)
    assert stats.fall_p(9, 10, 10, 10) > 0.1  # one of ten wrong says nothing about a reference without a fault in ten
    assert stats.fall_p(9, 10, 1000, 1000) < 0.01
    with pytest.raises(ValueError):
        stats.fall_p(11, 10, 5, 10)


# --- several tests, and looking again and again


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = [0.01, 0.04, 0.03, 0.005, 0.04, 1.0]
    assert stats.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert stats.holm([]) == []


def test_the_e_value_is_the_mean_likelihood_ratio_over_shares_of_losses_above_one_half() -> None:
    for losses, wins in [(0, 0), (1, 0), (0, 1), (12, 3), (3, 12), (40, 35)]:
        steps = 200_000
        shares = 0.5 + (np.arange(steps) + 0.5) / (2 * steps)
        ratio = np.mean(shares**losses * (1 - shares) ** wins) * 2 ** (losses + wins)
        assert stats.log_e(losses, wins) == pytest.approx(math.log(ratio), abs=1e-6)
    assert stats.log_e(0, 100_000) < 0 < stats.log_e(100_000, 0)
    with pytest.raises(ValueError):
        stats.log_e(-1, 3)


def test_the_e_process_is_a_martingale_where_the_arms_are_equal() -> None:
    for losses, wins in [(0, 0), (5, 9), (30, 12)]:
        now, worse, better = (math.exp(stats.log_e(*at)) for at in ((losses, wins), (losses + 1, wins), (losses, wins + 1)))
        assert (worse + better) / 2 == pytest.approx(now)


def test_looking_after_each_of_1000_pairs_raises_few_false_alarms_and_a_repeated_test_many() -> None:
    rng = np.random.default_rng(0)
    lost = np.cumsum(rng.random((300, 1000)) < 0.5, axis=1)
    seen = np.arange(1, 1001)
    bars = [next(s for s in range(n // 2, n + 2) if s > n or stats.log_e(s, n - s) >= math.log(20)) for n in seen]
    tests = binom.isf(0.05, seen, 0.5) + 1
    assert np.mean((lost >= bars).any(axis=1)) <= 0.05
    assert np.mean((lost >= tests).any(axis=1)) > 0.25
