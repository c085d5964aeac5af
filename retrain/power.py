"""How many rows a check of the gate needs, and what it can see with those it has: exact or by its formula, plain functions.

Levels are one-sided; `won` and `lost` are the shares of rows that only the candidate, and only its reference, gets right.
"""

import math
from collections.abc import Callable
from typing import Any

from retrain.stats import non_inferior, quantile


def rows_for_non_inferiority(*, discordant: float, margin: float, level: float, power: float) -> int:
    """Rows that let an equal candidate pass a guardrail with `power`; `discordant` is the share on which the arms differ.

    (z_level + z_power)^2 d / margin^2: 8.6 d / margin^2 at level 0.05 and power 0.9, so that two guardrails pass with
    about 0.8; and never below z_level^2 (1 - margin) / margin, what even equal answers need (2.7 at level 0.05).
    """
    differing = (quantile(1 - level) + quantile(power)) ** 2 * discordant / margin**2
    equal = quantile(1 - level) ** 2 * (1 - margin) / margin
    return math.ceil(max(differing, equal))


def rows_for_superiority(*, discordant: float, gain: float, level: float, power: float) -> int:
    """Rows on which McNemar's test sees a true `gain` with `power`, where the arms differ on a share `discordant`.

    Connett, Smith and McHugh (1987): (z_level sqrt(d) + z_power sqrt(d - gain^2))^2 / gain^2; the exact test needs a
    few more, for it never uses up its level: 1 / gain rows are added, after Fleiss.
    """
    if not 0 < gain <= discordant <= 1:
        raise ValueError(f"gain is {gain} and discordant {discordant}, must be 0 < gain <= discordant <= 1")
    root = quantile(1 - level) * math.sqrt(discordant) + quantile(power) * math.sqrt(max(discordant - gain**2, 0.0))
    return math.ceil((root / gain) ** 2 + 1 / gain)


def power_superior(n: int, *, won: float, lost: float, level: float, min_effect: float) -> float:
    """How surely the gate's success check passes on n rows, of which the candidate truly wins and loses these shares: exact.

    It passes where McNemar's exact test does at `level` and the measured gain is at least `min_effect`.
    """
    import numpy as np
    from scipy.stats import binom

    differing, weight = _likely(n, won + lost)
    tested = binom.isf(level, differing, 0.5) + 1  # the fewest rows won at which the test passes
    gained = np.ceil((differing + min_effect * n) / 2 - 1e-9)
    return float(weight @ binom.sf(np.maximum(tested, gained) - 1, differing, won / (won + lost)))


def power_non_inferior(n: int, *, won: float, lost: float, margin: float, level: float) -> float:
    """How surely Tango's non-inferiority check passes on n rows, of which the candidate wins and loses these shares: exact."""
    import bisect

    from scipy.stats import binom

    differing, weight = _likely(n, won + lost)
    least = [  # rows won at which it passes, by rows that differ: the statistic grows with each
        bisect.bisect_left(range(d + 1), True, key=lambda b: non_inferior(b, d - b, n, margin=margin)[1] < level)
        for d in map(int, differing)
    ]
    share = won / (won + lost) if won + lost else 0.0
    return float(sum(w * binom.sf(b - 1, d, share) for w, b, d in zip(weight, least, differing, strict=True)))


def _likely(n: int, share: float) -> tuple[Any, Any]:
    """Counts of n rows at `share` that can come about (all but one in 10^12), and the probability of each."""
    import numpy as np
    from scipy.stats import binom

    counts = np.arange(int(binom.ppf(1e-12, n, share)), int(binom.isf(1e-12, n, share)) + 1)
    counts = counts[counts >= 0]
    return counts, binom.pmf(counts, n, share)


def rows_needed(power_at: Callable[[int], float], *, power: float, least: int, most: int = 20_000) -> int | None:
    """The fewest rows, at least `least`, that give the power; None where even `most` do not.

    Exact power goes up in a saw-tooth, so a few more rows than the answer may fall short by a hair.
    """
    low, high = least - 1, least
    while power_at(high) < power:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return high


def visible_gain(n: int, *, differing: float, level: float, power: float, min_effect: float) -> float | None:
    """The smallest true gain that the success check sees on n rows with this power, where the arms differ on such a share.

    Where the gain itself is larger than that, they differ on as many rows as are gained. None where it never sees one.
    """

    def seen(gain: float) -> bool:
        share = max(differing, gain)
        found = power_superior(n, won=(share + gain) / 2, lost=(share - gain) / 2, level=level, min_effect=min_effect)
        return found >= power

    low, high = 0.0, 1.0
    if not seen(high):
        return None
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
