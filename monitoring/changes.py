"""What people ask now and did not ask before, in words: the groups of prompts that grew most between two samples.

A group is a cluster of sentence vectors, at any grain, or all prompts that hold one term. Both are found on the two samples
together, without a look at which prompt is from where, so that Fisher's exact test of a group's growth holds; corrected over
all groups (Benjamini and Hochberg) it keeps quiet windows quiet. Overlapping groups are one change: after the clearest one
its prompts are taken out. What is asked on Sundays alone has not grown on a Sunday: a group must have grown against the
reference's rows at the window's time of the week too, where it has some.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from monitoring.counting import NotComparable
from monitoring.topics import Prompts
from monitoring.windows import WEEK

LEVEL = 0.05  # chance that a window in which nothing changed names a change, and share of false ones among those named
GREW = 0.02  # of traffic: less is not worth a line ...
TIMES = 1.5  # ... and neither is what grew by less than half
MOST, EXAMPLES, TERMS = 5, 3, 2
LEAST = 1000  # prompts on either side of the column `grown`: a suite of some hundred rows is no picture of traffic
FEW = 100  # prompts of the reference at the window's time of the week; fewer say too little of it
AS_BEFORE = "as before"
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


class Change(BaseModel):
    """A group of prompts whose share of traffic grew; `before` and `now` are shares, `rows` those of the window's sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    words: str
    terms: list[str]
    before: float
    now: float
    rows: int
    examples: list[str]


@dataclass(frozen=True)
class _Sides:
    """Both samples in one row: `grew(group)` asks how clearly a group (bool over all prompts) is commoner in the second."""

    current: Any  # bool, one a prompt
    then: Any = None  # bool, one a prompt: the reference's at the window's time of the week; None where that is not known

    def shares(self, group: Any) -> tuple[float, float]:
        return float(group[~self.current].mean()), float(group[self.current].mean())

    def p_values(self, groups: Any) -> Any:
        """One-sided, of an array (groups, prompts)."""
        from scipy.stats import hypergeom

        total, now = len(self.current), int(self.current.sum())
        return hypergeom.sf(groups[:, self.current].sum(axis=1) - 1, total, now, groups.sum(axis=1))


@dataclass(frozen=True)
class Growth:
    """At most five changes, the largest growth first, and the prompts of each: bool (changes, prompts), none in two."""

    prompts: Prompts
    changes: list[Change]
    groups: Any

    def column(self) -> tuple[Any, Any]:
        """Of each prompt the group that grew and holds it, else AS_BEFORE: TVD of the two sides is what all groups gained."""
        start, count = self.prompts.reference, len(self.prompts.texts)
        if (fewest := min(start, count - start)) < LEAST:
            raise NotComparable(f"what grew needs {LEAST:,} prompts in the samples of both sides, one has {fewest}")
        values = np.full(count, AS_BEFORE, dtype=object)
        for change, group in zip(self.changes, self.groups, strict=True):
            values[group] = ", ".join(change.terms)
        return values[:start], values[start:]


def same_time(before: Any, now: Any) -> Any:
    """Which of the reference's prompts were asked at the hours of the week in which the window's lie: an array of bool.

    Both are Series of aware timestamps. None where the reference has no times, no whole week, or fewer than FEW there.
    """
    known, asked = before.dropna(), now.dropna()
    if known.empty or asked.empty:
        return None
    start, length = asked.min(), asked.max() - asked.min()
    if length >= WEEK or known.max() - known.min() < WEEK - length:
        return None
    found = ((before - start) % WEEK <= length).to_numpy(dtype=bool)
    return found if found.sum() >= FEW else None


def found(prompts: Prompts, then: Any = None) -> Growth:
    """The groups that grew clearly; `then` says which of the reference's prompts lie at the window's time of the week."""
    current = np.arange(len(prompts.texts)) >= prompts.reference
    sides = _Sides(current, None if then is None else np.concatenate([then, np.zeros(current.sum(), dtype=bool)]))
    if not prompts.reference or not sides.current.any():
        return Growth(prompts, [], [])
    least = GREW * sides.current.sum()  # of fewer prompts no group can have grown by enough
    terms, holds = _terms(prompts.texts, least)
    groups = np.vstack([_clusters(prompts.points, 2 * least), holds])
    cut = _cut(sides.p_values(groups))
    pairs: list[tuple[Change, Any]] = []
    while len(pairs) < MOST and len(groups := _grown(groups, sides, cut)):
        group = groups[np.argmin(sides.p_values(groups))]
        pairs.append((_change(group, sides, prompts, terms, holds), group))
        groups = groups & ~group
    pairs.sort(key=lambda pair: pair[0].before - pair[0].now)
    return Growth(prompts, [change for change, _ in pairs], [group for _, group in pairs])


def _cut(p_values: Any) -> float:
    """The largest p-value that still counts as clear, by Benjamini and Hochberg."""
    ordered = np.sort(p_values)
    passed = ordered[ordered <= LEVEL * np.arange(1, len(ordered) + 1) / len(ordered)]
    return float(passed[-1]) if len(passed) else -1.0


def _grown(groups: Any, sides: _Sides, cut: float) -> Any:
    """Groups that grew clearly, and by enough to be worth a line."""
    now = groups[:, sides.current].mean(axis=1)
    clear = sides.p_values(groups) <= cut
    for side in (~sides.current, *([] if sides.then is None else [sides.then])):
        before = groups[:, side].mean(axis=1)
        clear &= (now - before >= GREW) & (now >= TIMES * before)
    return groups[clear]


def _clusters(points: Any, least: float) -> Any:
    """Every group that Ward's tree of the sentence vectors joins, from `least` prompts to half of all; (groups, prompts)."""
    from scipy.cluster.hierarchy import linkage

    count = len(points)
    members = [np.array([i]) for i in range(count)]
    groups: list[Any] = []
    for left, right, _, size in linkage(_apart(points), "ward") if count > 1 else []:
        members.append(np.concatenate([members[int(left)], members[int(right)]]))
        if least <= size <= count / 2:
            groups.append(members[-1])
    found = np.zeros((len(groups), count), dtype=bool)
    for row, group in zip(found, groups, strict=True):
        row[group] = True
    return found


def _apart(points: Any) -> Any:
    """Distances of all pairs as scipy has them, by one product of matrices: a third of pdist's time."""
    count = len(points)
    lengths = np.square(points).sum(axis=1)
    product = points @ points.T
    apart = np.empty(count * (count - 1) // 2)
    at = 0
    for i in range(count - 1):
        end = at + count - 1 - i
        apart[at:end] = lengths[i] + lengths[i + 1 :] - 2 * product[i, i + 1 :]
        at = end
    return np.sqrt(np.maximum(apart, 0.0, out=apart), out=apart)


def _terms(prompts: Sequence[str], least: float) -> tuple[list[str], Any]:
    """Words and pairs of words that at least so many prompts hold, and which prompts those are (terms, prompts)."""
    held = [_said(text) for text in prompts]
    often = Counter(key for said in held for key in said)
    keys = sorted(key for key, rows in often.items() if rows >= least)
    place = {key: i for i, key in enumerate(keys)}
    holds = np.zeros((len(keys), len(prompts)), dtype=bool)
    forms: list[Counter[str]] = [Counter() for _ in keys]
    for row, said in enumerate(held):
        for key in said.keys() & place.keys():
            holds[place[key], row] = True
            forms[place[key]][said[key]] += 1
    return [min(found, key=lambda form: (-found[form], form)) for found in forms], holds


def _said(text: str) -> dict[str, str]:
    """Words and pairs of neighbours of one prompt: {as they are counted, a plural with its singular: as they are written}."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = _WORD.findall(text.casefold())
    telling = [len(word) > 1 and word not in ENGLISH_STOP_WORDS and not word.isdigit() for word in words]
    keys = [word.removesuffix("s") if len(word) > 3 else word for word in words]
    said = {key: word for key, word, tells in zip(keys, words, telling, strict=True) if tells}
    for i in range(len(words) - 1):
        if telling[i] and telling[i + 1]:
            said[f"{keys[i]} {keys[i + 1]}"] = f"{words[i]} {words[i + 1]}"
    return said


def _change(group: Any, sides: _Sides, prompts: Prompts, terms: list[str], holds: Any) -> Change:
    before, now = sides.shares(group)
    mine = group & sides.current
    named = _name(mine, terms, holds) or [_short(prompts.texts[_typical(mine, prompts)[0]])]
    rows = int(mine.sum())
    words = f"{', '.join(named)}: {_percent(before)} -> {_percent(now)} of traffic ({rows} rows)"
    examples = [prompts.texts[i] for i in _typical(mine, prompts)]
    return Change(words=words, terms=named, before=before, now=now, rows=rows, examples=examples)


def _name(mine: Any, terms: list[str], holds: Any) -> list[str]:
    """The terms that tell these prompts from all others: common here, rare elsewhere; a pair rather than its words."""
    here, there = holds[:, mine].mean(axis=1), holds[:, ~mine].mean(axis=1)
    worth = np.where(here >= 0.15, here * np.log((here + 1e-3) / (there + 1e-3)), 0.0)
    worth *= [1.5 if " " in term else 1.0 for term in terms]
    named: list[str] = []
    for i in np.argsort(-worth, kind="stable"):
        if worth[i] <= 0.1 or len(named) == TERMS:
            break
        if not any(set(terms[i].split()) & set(other.split()) for other in named):
            named.append(terms[i])
    return named


def _typical(mine: Any, prompts: Prompts) -> list[int]:
    """The prompts nearest to the middle of the group, each once."""
    rows = np.flatnonzero(mine).tolist()
    points = prompts.points[rows]
    nearest = [rows[i] for i in np.argsort(-(points @ points.mean(axis=0)), kind="stable")]
    return list({prompts.texts[i]: i for i in reversed(nearest)}.values())[::-1][:EXAMPLES]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.0095 or share == 0 else f"{share * 100:.1f} %"
