"""Distances between two distributions, from counts or sorted values: plain functions over arrays, by Evidently's definitions.

Each equals Evidently 0.7's method of the same name on the same values (tests/test_distances.py). The one exception is TVD:
Evidently puts its distance through a permutation test and reports the p-value, which falls with every row that a busy day
adds; here TVD is the distance itself.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

EMPTY = 1e-4  # what psi takes for a share of zero, unless real shares are as small
FEW_VALUES = 20  # a number with at most so many values in the reference is compared value by value
CHUNK = 1 << 20


def edges(low: float, high: float, rows: int) -> Any:
    """Bin edges for `rows` values between low and high of both sides together: Sturges' rule, as numpy's histogram has it."""
    width = (high - low) / (np.log2(rows) + 1.0)
    return np.linspace(low, high, int(np.ceil((high - low) / width)) + 1)


def of_counts(method: str, reference: Any, current: Any) -> float:
    """Distance of two arrays of counts, one place a bin or value."""
    before, now = (np.asarray(side, dtype=float) / np.sum(side) for side in (reference, current))
    if method == "psi":
        before, now = _filled(before), _filled(now)
        return float(np.sum((before - now) * np.log(before / now)))
    if method == "jensenshannon":
        middle = (before + now) / 2
        both = np.sum(_entropy(before, middle) + _entropy(now, middle))
        return float(np.sqrt(max(both, 0.0) / 2))  # rounding may leave equal sides just below zero
    if method == "TVD":
        return float(np.abs(before - now).sum() / 2)
    raise ValueError(f"{method} is no distance of counts")


def by_chance(distance: float, reference: Any, current: Any) -> float:
    """How often two samples of one distribution, given as counts, are at least this far apart by jensenshannon.

    Near 0 its square is an eighth of the squared differences by share, so 8 d^2 / (1/n + 1/m) is about chi-squared, with one
    degree less than there are values.
    """
    from scipy.stats import chi2

    before, now = (np.asarray(side, dtype=float) for side in (reference, current))
    values = int(((before + now) > 0).sum())
    return float(chi2.sf(8 * distance**2 / (1 / before.sum() + 1 / now.sum()), max(values - 1, 1)))


def of_values(method: str, reference: tuple[Any, Any], current: tuple[Any, Any]) -> float:
    """Distance of two columns of numbers, each given as its different values in order and the rows that have each."""
    (had, before), (has, now) = reference, current
    if method != "wasserstein" and len(had) > FEW_VALUES:
        bins = edges(min(had[0], has[0]), max(had[-1], has[-1]), int(before.sum() + now.sum()))
        return of_counts(method, np.histogram(had, bins, weights=before)[0], np.histogram(has, bins, weights=now)[0])
    values = np.union1d(had, has)
    rows = np.zeros((2, len(values)))
    rows[0, np.searchsorted(values, had)] = before
    rows[1, np.searchsorted(values, has)] = now
    if method != "wasserstein":
        return of_counts(method, *rows)
    shares = rows / rows.sum(axis=1, keepdims=True)
    below = np.cumsum(shares[0] - shares[1])[:-1]
    spread = np.sqrt(np.dot(shares[0], np.square(values - np.dot(shares[0], values))))
    return float(np.dot(np.abs(below), np.diff(values)) / max(spread, 0.001))


def wasserstein(reference: Any, current: Any) -> float:
    """Area between the two cumulative distributions in standard deviations of the reference; both arrays are sorted in place.

    The axis is walked in pieces, so that ten million values need little more memory than themselves.
    """
    norm = max(_std(reference), 0.001)
    with ThreadPoolExecutor(2) as pool:  # numpy sorts outside of Python's lock
        list(pool.map(np.ndarray.sort, (reference, current)))
    cuts = np.unique(np.concatenate([reference[CHUNK::CHUNK], current[CHUNK::CHUNK], [np.inf]]))
    last = min(reference[0], current[0])
    i = j = 0
    area = 0.0
    for cut in cuts:
        here, there = (np.searchsorted(side, cut, "right") for side in (reference, current))
        left, right = reference[i:here], current[j:there]
        values = np.concatenate([[last], left, right])
        values.sort()
        below = (i + np.searchsorted(left, values[:-1], "right")) / len(reference)
        below -= (j + np.searchsorted(right, values[:-1], "right")) / len(current)
        area += float(np.dot(np.abs(below), np.diff(values)))
        i, j, last = here, there, values[-1]
    return area / norm


def _std(values: Any) -> float:
    """Of the whole population, in pieces: numpy's makes a copy."""
    mean = float(values.mean())
    squares = sum(float(np.square(values[i : i + CHUNK] - mean).sum()) for i in range(0, len(values), CHUNK))
    return float(np.sqrt(squares / len(values)))


def _filled(shares: Any) -> Any:
    least = shares[shares > 0].min()
    return np.where(shares == 0, least / 10**6 if least <= EMPTY else EMPTY, shares)


def _entropy(share: Any, middle: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, share * np.log(share / middle), 0.0)
