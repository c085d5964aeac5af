"""Which synthetic examples may train: each filter in turn, with what it rejected. PURE.

Human rows alone say what is right: the classifier is fitted on them, and lengths, variety and shares are held against theirs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain import copies, regression
from retrain.params import Synthesize
from retrain.records import Example, unit_hash
from retrain.text import vectors

WHY = {
    "form": "it is cut off, has no visible text, or holds a label's name, a chat marker or several lines",
    "length": "it is much shorter or longer than any human row",
    "near_train": "it copies, or nearly copies, a human row that trains",
    "contamination": "it copies, or nearly copies, a row of a suite",
    "near_synthetic": "it copies, or nearly copies, another synthetic row",
    "agreement": "a classifier fitted on human rows alone would give it another label, or is not sure",
    "diversity": "the rows of its label were more alike than human rows of that label are",
    "share": "its label would be synthetic to a larger part than allowed, or has all the rows that were asked for",
}
MARKERS = ("<|", "|>", "[INST]", "</s>", "###", "```", "\ufffd")


@dataclass(frozen=True)
class Candidate:
    """A text that a generator wrote for a label; `cut`: it ran into the length limit."""

    text: str
    label: str
    cut: bool = False


@dataclass(frozen=True)
class Sifted:
    """What may train, what each filter rejected, and variety by label: mean cosine distance of (synthetic, human) rows."""

    kept: list[Example]
    rejected: dict[str, list[Candidate]]
    variety: dict[str, tuple[float, float]]


def sift(
    candidates: Sequence[Candidate],
    *,
    human: Sequence[Example],
    suites: Sequence[Example],
    labels: Sequence[str],
    rules: Synthesize,
    rows: int,
    seed: int,
) -> Sifted:
    """Candidates through every filter, in the order of WHY; at most `rows` of a label stay."""
    rejected: dict[str, list[Candidate]] = {name: [] for name in WHY}
    made = _split(list(candidates), [_well_formed(one, labels) for one in candidates], rejected["form"])
    lengths = [len(row.question) for row in human] or [0]
    low, high = min(lengths) / rules.length, max(lengths) * rules.length
    made = _split(made, [low <= len(one.text) <= high for one in made], rejected["length"])
    for name, known in (("near_train", human), ("contamination", suites)):
        made = _split(made, _new(made, [row.question for row in known], rules.near), rejected[name])
    made = _split(made, _distinct(made, rules.near), rejected["near_synthetic"])
    sure = regression.agreement(human, [_example(one) for one in made], seed=seed)
    made = _split(made, [share >= rules.agreement for share in sure], rejected["agreement"])
    kept: list[Candidate] = []
    variety: dict[str, tuple[float, float]] = {}
    counts = Counter(row.answer for row in human)
    for label, group in _by_label(made).items():
        theirs = vectors([row.question for row in human if row.answer == label])
        varied = _varied(group, theirs, rules.diversity)
        rejected["diversity"] += [one for one in group if one not in varied]
        most = min(rows, int(counts[label] * rules.max_share / (1 - rules.max_share) + 1e-9))
        order = sorted(varied, key=lambda one: unit_hash(_example(one).id, "synthetic"))
        rejected["share"] += order[most:]
        kept += order[:most]
        mine = vectors([one.text for one in order[:most]])
        variety[label] = (round(_spread(mine), 3), round(_spread(theirs), 3))
    return Sifted(sorted((_example(one) for one in kept), key=lambda row: row.id), rejected, variety)


def _split(made: list[Candidate], good: Sequence[bool], rejected: list[Candidate]) -> list[Candidate]:
    rejected += [one for one, ok in zip(made, good, strict=True) if not ok]
    return [one for one, ok in zip(made, good, strict=True) if ok]


def _example(one: Candidate) -> Example:
    return Example.of(one.text, one.label, source="synthetic", label_source="synthetic")


def _well_formed(one: Candidate, labels: Sequence[str]) -> bool:
    """A label's name gives the answer away (`order_status`; a word such as `refund` is what users write)."""
    text = one.text
    visible = any(char.isalnum() for char in text) and text.strip() == text and "\n" not in text and "\r" not in text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    told = any("_" in label and label.casefold() in text.casefold() for label in labels)
    return visible and not one.cut and one.label in labels and not told and not any(mark in text for mark in MARKERS)


def _new(made: Sequence[Candidate], known: Sequence[str], near: float) -> list[bool]:
    """Whether each text is a near copy of no known one."""
    return [found < 0 for found in copies.copied([one.text for one in made], known, near).tolist()]


def _distinct(made: Sequence[Candidate], near: float) -> list[bool]:
    """The first of near copies is the one that stays, whatever its label."""
    return [i == first for i, first in enumerate(copies.groups([one.text for one in made], near).tolist())]


def _by_label(made: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for one in made:
        groups[one.label].append(one)
    return {label: groups[label] for label in sorted(groups)}


def _varied(group: list[Candidate], theirs: Any, least: float) -> list[Candidate]:
    """Without the rows most like the others, until what is left varies at least this much of what human rows do."""
    wanted, left = least * _spread(theirs), list(group)
    mine = vectors([one.text for one in left])
    while len(left) > 1 and _spread(mine) < wanted:
        worst = int((mine @ mine.sum(axis=0)).argmax())
        del left[worst]
        mine = np.delete(mine, worst, axis=0)
    return left


def _spread(rows: Any) -> float:
    """Mean cosine distance between two different rows; 0 for fewer than two."""
    n = len(rows)
    return float(1 - (np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()) / (n * (n - 1))) if n > 1 else 0.0


def lines(made: Sifted, candidates: int) -> Iterator[str]:
    """The report in plain words."""
    yield f"{candidates} texts written, {len(made.kept)} kept"
    for name, gone in made.rejected.items():
        yield f"- {name}: {len(gone)} rejected: {WHY[name]}"
    for label, (mine, theirs) in made.variety.items():
        yield f"- variety of {label}: {mine} (human rows: {theirs})"
