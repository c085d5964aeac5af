"""What every check of the gate reads: rows of predictions, paired one a cluster, and the rules. PURE.

A suite that lacks rows, or of which too many rows were not measured, tells nothing: `why_not` says why and what to do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr

from retrain import params as params_
from retrain.clusters import independent
from retrain.figures import percent
from retrain.verdict import ChampionState, Score

COMPARED = {  # purpose -> (suites to be better on, suites to be no worse on)
    "first": (("audit",), ("golden",)),
    "improve": (("audit",), ("golden", "retained")),
    "replace": ((), ("audit", "golden", "retained")),
}
SUITES = ("audit", "golden", "retained", "repair")


class Answer(BaseModel):
    """One arm's answer to a row; `right`, or a score, is None where our machinery could not tell it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    answer: StrictStr | None
    right: StrictBool | None
    parsed: StrictBool | None = None
    scores: dict[str, Score | None] = {}
    faults: tuple[StrictStr, ...] = ()  # of a generated answer: names of scoring.FAULTS


class Calibration(BaseModel):
    """What the judge says of a person's answer beside a wrong one: 1 prefers it, 0.5 a tie, None not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    arm: StrictStr
    human: Score | None


class Prediction(BaseModel):
    """One row of predictions.jsonl; arms that were not asked are missing."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    suite: Literal["golden", "audit", "repair", "retained"]
    id: StrictStr
    joins: tuple[StrictStr, ...]  # what it may share with other rows: see `clusters`
    expected: StrictStr
    slice: dict[str, Any] = {}
    excluded: StrictStr | None
    question: StrictStr
    arms: dict[str, Answer]
    calibration: Calibration | None = None

    def score(self, arm: str, metric: str) -> float | None:
        """In [0, 1]; of `right` 0 or 1. None where it was not measured."""
        answer = self.arms.get(arm)
        if answer is None:
            return None
        if metric == "right":
            return None if answer.right is None else float(answer.right)
        return answer.scores.get(metric)


class Pair(NamedTuple):
    """A row and the scores of candidate and reference on it."""

    row: Prediction
    ours: float
    theirs: float


def rows_lost(pairs: Iterable[Pair]) -> list[Prediction]:
    """Rows on which the reference did better."""
    return [pair.row for pair in pairs if pair.theirs > pair.ours]


@dataclass(frozen=True)
class Case:
    """Rows that count (not excluded) by suite, the rules, and whom the candidate is held against."""

    rows: dict[str, list[Prediction]]
    gates: params_.Gates
    state: ChampionState
    reference: str
    attempt: int  # which one on this audit file, from 1
    copies: dict[str, int]  # rows of each suite that have left the comparison

    @property
    def metric(self) -> str:
        return self.gates.metric

    def asked(self, suite: str) -> list[Prediction]:
        """Rows to compare on: the base is asked on a part of a suite only, a champion that is missing was not measured."""
        return [row for row in self.rows[suite] if self.reference != "base" or "base" in row.arms]

    def compared(self, suite: str) -> bool:
        return any(suite in group for group in COMPARED[self.state.purpose])

    @cached_property
    def paired(self) -> dict[str, list[Pair]]:
        """By suite, one row a cluster; what is not measured on either side is a row lost."""
        return {suite: [self._pair(row) for row in one_a_cluster(self.asked(suite))] for suite in self.rows}

    @cached_property
    def missing(self) -> dict[str, int]:
        """By suite, rows where the candidate, or a reference that was to be asked and is compared, was not measured."""
        return {suite: self._missing(suite) for suite in self.rows}

    @cached_property
    def clusters(self) -> dict[str, int]:
        """By suite, how many rows would be left of which no two are joined."""
        return {suite: len(one_a_cluster(rows)) for suite, rows in self.rows.items()}

    def measured(self, row: Prediction) -> bool:
        return row.score("candidate", self.metric) is not None and row.score(self.reference, self.metric) is not None

    def needed(self, suite: str) -> int:
        return self.gates.repair_min_rows if suite == "repair" else self.gates.min_rows

    def why_not(self, suite: str, needed: int) -> str | None:
        """Why a suite tells nothing, and what to do; None where it does tell."""
        if self.unmeasured(suite):
            most = percent(self.gates.not_measured_max)
            said = f"{self.missing[suite]} of {len(self.rows[suite])} rows of {suite} could not be scored by {self.metric}"
            return f"{said}, at most {most} may be: `why` of these rows in predictions.jsonl says what to mend"
        return self.too_few(suite, needed)

    def unmeasured(self, suite: str) -> bool:
        """Whether too many of its rows were not measured."""
        n = len(self.rows[suite])
        return n > 0 and self.missing[suite] / n > self.gates.not_measured_max

    def too_few(self, suite: str, needed: int) -> str | None:
        clusters = self.clusters[suite]
        found = len(self.paired[suite]) if self.compared(suite) else clusters
        if found >= needed:
            return None
        if self.compared(suite) and clusters >= needed:
            return f"the base was asked on only {found} rows of {suite}, {needed} are needed: raise evaluate.base_rows"
        kind, fix = _fix(suite, needed - found)
        return f"only {found} {kind} rows{self._gone(suite, clusters)}, {needed} are needed: {fix}"

    def _gone(self, suite: str, clusters: int) -> str:
        """Which rows of the suite do not count, in brackets."""
        copies, joined = self.copies.get(suite, 0), len(self.rows[suite]) - clusters
        said = [f"{copies} more copy what an arm trained on"] if copies else []
        said += [f"{joined} more are joined to one of them by conversation, user or near copy"] if joined else []
        return f" ({', '.join(said)})" if said else ""

    def _pair(self, row: Prediction) -> Pair:
        ours, theirs = row.score("candidate", self.metric), row.score(self.reference, self.metric)
        return Pair(row, 0.0, 1.0) if ours is None or theirs is None else Pair(row, ours, theirs)

    def _missing(self, suite: str) -> int:
        asked = {row.id for row in self.asked(suite)} if self.compared(suite) else set()
        return sum(
            row.score("candidate", self.metric) is None or (row.id in asked and row.score(self.reference, self.metric) is None)
            for row in self.rows[suite]
        )


def one_a_cluster(rows: Iterable[Prediction]) -> list[Prediction]:
    """Rows of which no two are joined by conversation, user or near copy, in order of id."""
    return independent(rows, of=lambda row: (row.id, row.joins))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fix(suite: str, lacking: int) -> tuple[str, str]:
    """(what such rows are called, how to get so many more)."""
    return {
        "audit": ("unread audited", f"label {lacking} more"),
        "golden": ("golden", f"write {lacking} more"),
        "retained": ("retained", f"{lacking} more must be held back (prepare.retained_share)"),
        "repair": ("held-out failure", f"about {lacking} more must be held back of new corrections (prepare.repair_share)"),
    }[suite]
