"""Paired tests and intervals: plain functions over counts (`power` has the rows that they need).

Of n rows that two arms answered, b were right by the candidate only and c by its reference only (the other n - b - c
agree). Levels are one-sided; an interval at level a leaves a on each side, so a = 0.05 gives the usual 90 % interval,
whose lower end is the one-sided 95 % bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES, RESAMPLED = 9_999, 2_000_000  # of the bootstrap; values that are in memory at once
BOOTSTRAP_SEED = 7


def discordant(candidate: Sequence[float], reference: Sequence[float]) -> tuple[int, int]:
    """(b, c) of two equally long sequences of right and wrong, or of scores: rows on which one is higher than the other."""
    pairs = list(zip(candidate, reference, strict=True))
    return sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)


def mcnemar_p(b: int, c: int) -> float:
    """Exact one-sided McNemar test of "the candidate is better"; 1.0 where nothing differs.

    Given b + c rows that differ, b is binomial with one half if the two are equally good.
    """
    from scipy.stats import binomtest

    _counts(b, c, b + c)
    return float(binomtest(b, b + c, 0.5, alternative="greater").pvalue) if b + c else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: those at most a are refused with a family-wise error of at most a.

    Holm (1979), Scandinavian Journal of Statistics 6, 65-70; valid whatever the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def tango_z(b: int, c: int, n: int, difference: float) -> float:
    """Tango's score statistic for "the paired difference is `difference`", in (-1, 1); large speaks for a greater one.

    Tango (1998), Statistics in Medicine 17, 891-908: the variance is that of the likelihood restricted to `difference`.
    """
    _counts(b, c, n)
    if not -1 < difference < 1:
        raise ValueError(f"difference is {difference}, must lie between -1 and 1")
    gap = b - c - n * difference
    variance = n * (2 * _restricted(b, c, n, difference) + difference * (1 - difference))
    if variance <= 1e-12 * n:  # only at difference 0 with b = c = 0, or for rounding at the ends
        return 0.0 if abs(gap) < 1e-9 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def _restricted(b: int, c: int, n: int, difference: float) -> float:
    """Maximum-likelihood share of rows that only the reference gets right, given the difference."""
    first = 2 * n
    second = -b - c + (2 * n - b + c) * difference
    third = -c * difference * (1 - difference)
    return (math.sqrt(max(second * second - 4 * first * third, 0.0)) - second) / (2 * first)


def tango_interval(b: int, c: int, n: int, *, level: float) -> tuple[float, float]:
    """(low, high) of the paired difference: all differences that Tango's test at `level` a side does not refuse."""
    critical = quantile(1 - level)
    return _crossing(b, c, n, critical, low=True), _crossing(b, c, n, critical, low=False)


def _crossing(b: int, c: int, n: int, critical: float, *, low: bool) -> float:
    """Where the falling curve z(difference) meets +critical (low end) or -critical (high end)."""
    from scipy.optimize import brentq

    edge, observed = (1 - 1e-9) * (-1 if low else 1), (b - c) / n
    if abs(observed) > 1 - 1e-9 and (observed < 0) == low:
        return math.copysign(1.0, observed)  # every row differs one way: the interval reaches the end
    inner = min(max(observed, -1 + 1e-9), 1 - 1e-9)
    target = critical if low else -critical
    ends = sorted((edge, inner))
    return float(brentq(lambda value: _bounded(tango_z(b, c, n, value)) - target, *ends, xtol=1e-10))


def _bounded(z: float) -> float:
    return max(-1e9, min(1e9, z))


def non_inferior(b: int, c: int, n: int, *, margin: float) -> tuple[float, float]:
    """(z, p) of "the candidate loses less than `margin`" by Tango's test; non-inferior at level a where p < a.

    The same decision as asking whether the low end of `tango_interval` at that level is above -margin.
    """
    z = tango_z(b, c, n, -margin)
    return z, 1 - _normal(z)


def allowed_loss(b: int, n: int, *, margin: float, level: float) -> float | None:
    """The largest measured loss (share of n) that would still be non-inferior with b rows won; None where none would."""
    import bisect

    failing = bisect.bisect_left(range(n - b + 1), True, key=lambda c: non_inferior(b, c, n, margin=margin)[1] >= level)
    return (failing - 1 - b) / n if failing else None  # the fewest lost rows that do not pass: p grows with each


def bca_interval(values: Sequence[float], *, level: float) -> tuple[float, float]:
    """(low, high) of the mean of independent values by the bootstrap, bias-corrected and accelerated, `level` on each side.

    Efron (1987), Journal of the American Statistical Association 82, 171-185; by scipy, seeded. It errs more often than exact
    tests where few values differ from zero: docs/gate.md has how often.
    """
    import numpy as np
    from scipy.stats import bootstrap

    data = np.sort(np.asarray(values, dtype=float))  # whatever the order of the rows
    if data[0] == data[-1]:  # no resample differs: the mean is all that is known
        return float(data[0]), float(data[0])
    batch = max(1, RESAMPLED // len(data))
    found = bootstrap((data,), np.mean, confidence_level=1 - 2 * level, n_resamples=RESAMPLES, batch=batch, rng=BOOTSTRAP_SEED)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """One-sided randomisation test of "the mean paired difference of scores is above 0"; 1.0 where nothing differs.

    Where the arms are equal, each row's difference is as likely with the other sign: exact up to 13 rows that differ, from
    seeded draws above (Fisher 1935). It keeps its level where few rows differ, which the bootstrap does not; with right and
    wrong it is McNemar's test.
    """
    import numpy as np
    from scipy.stats import permutation_test

    data = np.sort([value for value in differences if value])
    if len(data) < 2:
        return 0.5 if len(data) and data[0] > 0 else 1.0
    batch = max(1, RESAMPLED // len(data))
    found = permutation_test(
        (data,), np.mean, permutation_type="samples", alternative="greater", vectorized=True,
        n_resamples=RESAMPLES, batch=batch, rng=np.random.default_rng(BOOTSTRAP_SEED),
    )  # fmt: skip
    return float(found.pvalue)


def wilson(right: int, n: int, *, level: float) -> tuple[float, float]:
    """Wilson's interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, alpha=2 * level, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class Corrected:
    """A share seen through a test that errs, with its interval; `centre` and `error` are of the adjusted estimate."""

    share: float
    low: float
    high: float
    centre: float
    error: float


def rogan_gladen(said: tuple[int, int], right: tuple[int, int], wrong: tuple[int, int], *, level: float) -> Corrected:
    """The true share of right rows, from (yes, n) of a test on rows of which nothing is known, on right and on wrong rows.

    Rogan and Gladen (1978), American Journal of Epidemiology 107, 71-76: (q + specificity - 1) / (sensitivity + specificity
    - 1). The interval, `level` a side, is that of Lang and Reiczigel (2014), Preventive Veterinary Medicine 113, 13-22, which
    adds two rows to each of the known ones and z^2 to the others. The three must be independent rows. ValueError where the
    known ones do not show, at `level`, that the test says yes more often on right rows than on wrong ones.
    """
    z = quantile(1 - level)
    (yes, n), (right_yes, right_n), (wrong_yes, wrong_n) = said, right, wrong
    for good, total in (said, right, wrong):
        _counts(good, 0, total)
    if min(n, right_n, wrong_n) < 1:
        raise ValueError(f"n are {n}, {right_n}, {wrong_n}: each must be at least 1")
    q, sensitivity, specificity = yes / n, right_yes / right_n, 1 - wrong_yes / wrong_n
    many, rights, wrongs = n + z * z, right_n + 2, wrong_n + 2
    q2, sens, spec = (yes + z * z / 2) / many, (right_yes + 1) / rights, (wrong_n - wrong_yes + 1) / wrongs
    of_sens, of_spec = sens * (1 - sens) / rights, spec * (1 - spec) / wrongs
    tells = sens + spec - 1
    if tells - z * math.sqrt(of_sens + of_spec) <= 0:
        raise ValueError(f"yes on {right_yes} of {right_n} right rows and {wrong_yes} of {wrong_n} wrong ones: no difference")
    share = (q + specificity - 1) / (sensitivity + specificity - 1)
    centre = (q2 + spec - 1) / tells
    error = math.sqrt(q2 * (1 - q2) / many + centre**2 * of_sens + (1 - centre) ** 2 * of_spec) / tells
    centre += 2 * z * z * (centre * of_sens - (1 - centre) * of_spec)
    low, high = (min(max(end, 0.0), 1.0) for end in (centre - z * error, centre + z * error))
    return Corrected(min(max(share, low), high), low, high, centre, error)


def corrected_fall_p(now: Corrected, before: Corrected) -> float:
    """How often chance alone makes `now` so much lower than `before`: one-sided, by the normal distribution of the difference.

    Simulated without a fall, at 0.05: 5.3 to 6.4 % of windows (3,000 each; 100 to 600 known rows, sensitivity 0.8 to 0.95).
    """
    return 1 - _normal((before.centre - now.centre) / math.hypot(now.error, before.error))


def fall_p(good: int, n: int, reference_good: int, reference_n: int) -> float:
    """How often chance alone makes `good` of n as low as it is, for one whose share is the reference's: one-sided mid-p.

    The count is beta-binomial, the predictive distribution of a share that was good `reference_good` times in
    `reference_n` (Jeffreys prior), so that few rows, on either side, and a reference without a fault are weighed rightly.
    """
    from scipy.stats import betabinom

    _counts(good, 0, n)
    _counts(reference_good, 0, reference_n)
    chance = betabinom(n, reference_good + 0.5, reference_n - reference_good + 0.5)
    return float(chance.cdf(good) - 0.5 * chance.pmf(good))


def stratified_p(strata: Sequence[tuple[int, int, int, int]]) -> float:
    """How often chance alone gives the first arm so many of the faults: one-sided, exact; 1.0 where nothing can be told.

    strata: (faults, n, faults of the other arm, its n) of times or places that are compared each in itself. Given the faults of
    a stratum, those of the first arm are hypergeometric if the arms are equal; their sum over the strata is tested (the exact
    test of Mantel and Haenszel 1959, Journal of the National Cancer Institute 22, 719-748). What befalls both arms of a
    stratum, or lies in a stratum with one arm, tells nothing.
    """
    import numpy as np
    from scipy.stats import hypergeom

    sums, seen = np.ones(1), 0
    for bad, n, other_bad, other_n in strata:
        _counts(bad, 0, n)
        _counts(other_bad, 0, other_n)
        if bad + other_bad and n and other_n:
            each = np.arange(min(n, bad + other_bad) + 1)
            sums = np.convolve(sums, hypergeom(n + other_n, bad + other_bad, n).pmf(each))
            seen += bad
    return float(min(1.0, sums[seen:].sum()))


def log_e(losses: int, wins: int) -> float:
    """log of the evidence (an e-value) that a row which differs is lost more often than won, after these losses and wins.

    The uniform mixture over shares of losses above one half, against one half: ln B(1+s, 1+f) + ln I(1/2; 1+f, 1+s) + ln 2
    + (s + f) ln 2, with s losses and f wins. It is a martingale where the arms are equal, so by Ville's inequality it ever
    passes ln(1 / level) with a probability of at most `level`, however often one looks. It needs only (s, f).
    """
    from scipy.special import betainc, betaln

    _counts(losses, wins, losses + wins)
    share = float(betainc(1 + wins, 1 + losses, 0.5))
    if share == 0.0:  # so many more wins than losses that the tail is below the smallest number
        return -math.inf
    return float(betaln(1 + losses, 1 + wins)) + math.log(share) + (losses + wins + 1) * math.log(2)


def e_process_harm(losses: int, wins: int, *, level: float) -> bool:
    """Whether the new version is shown to be worse; may be asked after every row."""
    return log_e(losses, wins) >= math.log(1 / level)


def _counts(b: int, c: int, n: int) -> None:
    if min(b, c) < 0 or b + c > n:
        raise ValueError(f"b, c, n are {b}, {c}, {n}: counts must not be negative, and b + c at most n")


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
