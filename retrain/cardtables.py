"""The tables of a card, in Markdown. Every cell is escaped, so that a user's text stays text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrain.contrast import Contrast, Predictions, Slice, confusions
from retrain.figures import percent
from retrain.markdown import escape, table
from retrain.metrics import NAMES
from retrain.verdict import Check, Harm, Verdict

Metrics = Mapping[str, Any]  # metrics.json: {"suites": {suite: {"n", "arms": {arm: {"n", "right", "parsed", "measured"}}}}}

SUITES = {
    "audit": "what users ask now",
    "golden": "questions chosen by people",
    "retained": "questions of earlier times",
    "repair": "failures that were held back",
}
ARMS = {
    "candidate": "candidate",
    "champion": "champion",
    "regression": "logistic regression",
    "prompted": "prompted base",
    "base": "base",
}
SHORT = {"fields": "fields right", "token_f1": "token F1", "chrf": "chrF", "judge": "judge prefers"}
RESULTS = {True: "passed", False: "FAILED", None: "not told"}
NUMBERS = (
    *("check", "on", "rows", "candidate", "champion", "base", "anchor", "won", "lost"),
    *("difference", "interval", "level", "p", "threshold"),
)
MOST_SLICES, MOST_CONFUSED, MOST_ROWS = 12, 8, 5


def checks_table(verdict: Verdict) -> list[str]:
    """One line a check, what speaks against it first: these few columns have room on any page."""
    order = {False: 0, None: 1, True: 2}
    rows = [
        [RESULTS[check.passed], check.name, check.role, check.suite or "", check.why.removeprefix(f"{check.suite}: ")]
        for check in sorted(verdict.checks, key=lambda check: order[check.passed])
    ]
    return table(["result", "check", "role", "suite", "why"], rows)


def numbers_table(verdict: Verdict) -> list[str]:
    """Every number of the checks; a column that no check fills is left out."""
    rows = [cells for check in verdict.checks if any((cells := _number_cells(check))[3:])]
    filled = [place for place in range(len(NUMBERS)) if any(row[place] for row in rows)]
    told = "Differences and intervals are in points; an interval leaves the level out at each end."
    return [told, "", *table([NUMBERS[i] for i in filled], [[row[i] for i in filled] for row in rows])] if rows else []


def _number_cells(check: Check) -> list[str]:
    shares = [_cell_percent(value) for value in (check.candidate, check.champion, check.base, check.anchor)]
    counts = ["" if value is None else str(value) for value in (check.won, check.lost)]
    difference = "" if check.difference is None else f"{100 * check.difference:+.1f}"
    interval = "" if check.interval is None else f"{100 * check.interval[0]:.1f} to {100 * check.interval[1]:.1f}"
    p, level = ("" if value is None else f"{value:.2g}" for value in (check.p, check.level))
    tested = [difference, interval, level, p, _cell_percent(check.threshold)]
    on = check.suite or check.slice or ""
    return [check.name, on, "" if check.n is None else str(check.n), *shares, *counts, *tested]


def scores_table(metrics: Metrics) -> list[str]:
    """Every arm on every suite, by all that it was scored by."""
    arms = [(suite, arm, scores) for suite in suites_of(metrics) for arm, scores in arms_of(metrics, suite).items()]
    told = [name for name in (*NAMES, "parsed", "measured") if any(name in scores for _, _, scores in arms)]
    order = {arm: place for place, arm in enumerate(ARMS)}
    rows = [
        [suite, ARMS.get(arm, arm), *(_cell_percent(scores.get(name)) for name in told), str(scores.get("n", ""))]
        for suite in suites_of(metrics)
        for arm, scores in sorted(arms_of(metrics, suite).items(), key=lambda pair: (order.get(pair[0], len(order)), pair[0]))
    ]
    return table(["suite", "arm", *(SHORT.get(name, name) for name in told), "rows"], rows)


def lost_rows(harmed: Iterable[Harm], predictions: Predictions) -> list[tuple[str, str, str, str, str]]:
    """(suite, question, expected, what the candidate answers, what its reference answered) of the rows that harm names."""
    known = {(row["suite"], row["id"]): row for row in predictions}
    rows = [(harm.suite, known[harm.suite, row]) for harm in harmed for row in harm.rows]
    return [(suite, row["question"], row["expected"], *_before_and_now(row["arms"])) for suite, row in rows]


def _before_and_now(arms: Mapping[str, Any]) -> tuple[str, str]:
    reference = arms.get("champion") or arms.get("base") or {}
    return arms.get("candidate", {}).get("answer") or "(none)", reference.get("answer") or "(none)"


def harmed_table(harmed: tuple[Harm, ...], predictions: Predictions) -> list[str]:
    """What the gate names as lost: by label, then some of the rows."""
    labels = [[h.suite, h.label, str(h.lost), str(h.won), str(h.n)] for h in harmed]
    cells = [list(row) for row in lost_rows(harmed, predictions)]
    examples = table(["suite", "question", "expected", "candidate", "before"], cells)
    return [*table(["suite", "label", "lost", "won back", "of rows"], labels), "", *examples]


def slices_table(slices: Sequence[Slice]) -> list[str]:
    """The worst first; those beyond MOST_SLICES are counted."""
    lines = table(
        ["kind of question", "rows", "candidate", "before", "difference", "won", "lost"],
        [_slice_cells(one) for one in slices[:MOST_SLICES]],
    )
    return [*lines, "", f"{len(slices) - MOST_SLICES} more lost less."] if len(slices) > MOST_SLICES else lines


def _slice_cells(one: Slice) -> list[str]:
    gain = f"{100 * (one.score - one.score_before):+.1f}"
    return [one.name, str(one.rows), percent(one.score), percent(one.score_before), gain, str(one.won), str(one.lost)]


def confusion_table(rows: Sequence[Contrast]) -> list[str]:
    """Wrong answers whose number changed most; empty where none did."""
    cells = [[expected, answer, str(before), str(now)] for expected, answer, before, now in confusions(rows, MOST_CONFUSED)]
    return table(["expected", "answered", "before", "now"], cells) if cells else []


def rows_table(rows: Sequence[Contrast]) -> list[str]:
    """Answers side by side."""
    cells = [[row.suite, row.question, row.expected, row.answer or "(none)", row.before or "(none)"] for row in rows]
    return table(["suite", "question", "expected", "candidate", "before"], cells)


def bound_lines(bound: Mapping[str, Any]) -> list[str]:
    """What a verdict is bound to, one line a hash or number."""
    pairs: list[tuple[str, Any]] = []
    for key, value in bound.items():
        pairs += [(f"{key} {name}", part) for name, part in value.items()] if isinstance(value, Mapping) else [(key, value)]
    return [f"- {key}: {escape(str(value))}" for key, value in pairs]


def suites_of(metrics: Metrics) -> list[str]:
    found = metrics.get("suites") or {}
    return [*(s for s in SUITES if s in found), *sorted(set(found) - set(SUITES))]


def arms_of(metrics: Metrics, suite: str) -> Mapping[str, Any]:
    return ((metrics.get("suites") or {}).get(suite) or {}).get("arms") or {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _cell_percent(value: Any) -> str:
    return percent(value) if is_number(value) else ""
