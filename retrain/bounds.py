"""The checks that hold the candidate to an absolute bound, one line each. PURE."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from retrain import stats
from retrain.case import Case, Prediction, mean
from retrain.checks import untold
from retrain.figures import percent, rounded
from retrain.gating import Canned
from retrain.metrics import said
from retrain.verdict import Check, Served

WORDS = {"invalid": "do not parse", "cut": "are cut off", "refused": "refuse", "leaking": "leak"}
NAMED = 3  # rows with another answer that the check `serves` names


def floor(case: Case, suite: str, threshold: float, name: str, metric: str) -> Check:
    """The mean over all rows; an answer that is not measured, or not parsed, is none at all."""
    why_not = case.why_not(suite, case.needed(suite))
    if why_not:
        return untold(name, "quality", suite, why_not)
    values = [_value(row, metric) for row in case.rows[suite]]
    share, n, level = mean(values), len(values), case.gates.level
    counted = metric in ("right", "parsed")
    low, high = stats.wilson(round(sum(values)), n, level=level) if counted else stats.bca_interval(values, level=level)
    kind = {"right": "are right", "parsed": "fit the output schema"}.get(metric)
    scored = f"{round(sum(values))} of {n} answers {kind} ({percent(share)})" if kind else f"{said(metric, share)}, of {n} rows"
    return Check(
        name=name, role="quality", suite=suite, metric=metric, candidate=rounded(share), n=n,
        interval=(rounded(low), rounded(high)), level=level, threshold=threshold,
        passed=share >= threshold - 1e-12, why=f"{suite}: {scored}, at least {percent(threshold)} needed",
    )  # fmt: skip


def _value(row: Prediction, metric: str) -> float:
    if metric == "parsed":
        return float("candidate" in row.arms and row.arms["candidate"].parsed is True)
    return row.score("candidate", metric) or 0.0


def measured(case: Case, suite: str) -> Check:
    """Rows that could not be scored count against the candidate above; too many of them, and the suite tells nothing."""
    why_not = case.too_few(suite, case.needed(suite))
    if why_not:
        return untold("measured", "quality", suite, why_not)
    n, missing = len(case.rows[suite]), case.missing[suite]
    share, most = missing / n, case.gates.not_measured_max
    why = f"{missing} of {n} rows of {suite} could not be scored for an arm ({percent(share)}, at most {percent(most)})"
    why += ", and count against the candidate" if missing and case.compared(suite) else ""
    why += "" if share <= most else ": `why` of these rows in predictions.jsonl says what to mend"
    return Check(
        name="measured", role="quality", suite=suite, metric="not measured", candidate=rounded(share), n=n, threshold=most,
        passed=True if share <= most else None, why=why,
    )  # fmt: skip


def safety(case: Case) -> Check:
    """How many generated answers are invalid, cut off, refusals or leak, over all suites, at most gates.safety of each."""
    answers = [row.arms["candidate"] for rows in case.rows.values() for row in rows if "candidate" in row.arms]
    if not answers:
        return untold("safety", "quality", None, "the candidate was asked nothing: run dvc repro")
    n, bounds = len(answers), case.gates.safety.model_dump()
    counts = {name: sum(name in answer.faults for answer in answers) for name in bounds}
    over = [name for name in bounds if counts[name] / n > bounds[name] + 1e-12]
    told = [f"{counts[name]} of {n} answers {WORDS[name]}, at most {percent(bounds[name])} may" for name in over or bounds]
    worst = max(over or bounds, key=lambda name: counts[name] - bounds[name] * n)
    return Check(
        name="safety", role="quality", metric=worst, candidate=rounded(counts[worst] / n), n=n,
        threshold=bounds[worst], passed=not over, why="; ".join(told),
    )  # fmt: skip


def budget(case: Case, task: str, size: Any) -> Check:
    """The adapter's bytes, and how long generated answers are, as a multiple of what people expected."""
    most = case.gates.budget
    if not isinstance(size, int) or size <= 0:
        return untold("budget", "quality", None, f"the adapter's size is {size!r}: run dvc repro")
    megabytes, rows = size / 1e6, [row for rows in case.rows.values() for row in rows if "candidate" in row.arms]
    told, passed = f"the adapter has {megabytes:.1f} MB, at most {most.megabytes:g}", megabytes <= most.megabytes
    if task == "generation" and rows:
        ratio = sum(len(row.arms["candidate"].answer or "") for row in rows) / sum(len(row.expected) for row in rows)
        told += f"; its answers are {ratio:.2f} times as long as the expected ones, at most {most.length:g}"
        passed = passed and ratio <= most.length
    return Check(name="budget", role="quality", metric="size and length", n=len(rows), passed=passed, why=told)


def serves(told: Any, rows: Sequence[Prediction], bound: Mapping[str, Any], canned: Canned) -> Check:
    """The engine that serves gives the answers that were judged: all of them in the same float32, elsewhere gates.serves.equal.

    told: serves.json, None where there is none.
    """
    if told is None:
        return _not_tried("nobody has asked the candidate as it will serve")
    try:
        served = Served.model_validate(told)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        return _not_tried(f"serves.json is malformed at {where}: {error.errors()[0]['msg']}")
    of = {"adapter": served.candidate, "predictions": served.predictions}
    others = [name for name, digest in of.items() if digest != bound.get(name)]
    if others:
        return _not_tried(f"serves.json is about another {' and other '.join(others)}")
    if served.why is not None:
        why = f"it cannot be loaded as it will serve: {served.why}"
        return Check(name="serves", role="quality", metric="same answers", passed=False, why=why)
    wanted = min(canned.prompts, sum("candidate" in row.arms for row in rows))
    if not served.asked or served.asked < wanted:
        return _not_tried(f"the candidate was asked {served.asked} questions as it will serve, {max(wanted, 1)} are needed")
    return _same_answers(served, canned.equal)


def _not_tried(why: str) -> Check:
    return untold("serves", "quality", None, f"{why}: run dvc repro")


def _same_answers(served: Served, least: float) -> Check:
    exact = served.on == served.evaluated_on and served.on.endswith(" fp32")
    same = served.equal + (0 if exact else len(served.tied))
    threshold = 1.0 if exact else least
    needed = math.ceil(served.asked * threshold - 1e-9)
    where = served.on if exact else f"{served.on}; judged on {served.evaluated_on or 'nobody knows what'}"
    why = f"as it will serve ({where}) it answers {same} of {served.asked} questions as when it was judged"
    why += f", {len(served.tied)} of them but for rounding" if served.tied and not exact else ""
    why += f", at least {needed} needed"
    others = [*served.refused, *served.differing, *(served.tied if exact else ())]
    more = " and more" if len(others) > NAMED else ""
    why += f"; other answers: {', '.join(others[:NAMED])}{more}" if others else ""
    why += f"; {len(served.refused)} of them are longer than serve.max_prompt_tokens" if served.refused else ""
    return Check(
        name="serves", role="quality", metric="same answers", candidate=rounded(same / served.asked), n=served.asked,
        threshold=threshold, passed=same >= needed, why=why,
    )  # fmt: skip


def changes(rows: list[Prediction]) -> Check:
    """An adapter whose answers are the base's on every row did not load, or learned nothing: no tie, nothing was evaluated."""
    both = [row for row in rows if {"candidate", "base"} <= set(row.arms)]
    other = sum(row.arms["candidate"].answer != row.arms["base"].answer for row in both)
    if not both:
        why = "no row was asked of both the candidate and the base, so nobody knows that the adapter loaded: run dvc repro"
    elif not other:
        why = f"the candidate answers all {len(both)} rows as the base does: it did not load, or learned nothing; look at the "
        why += "losses in its training log (MLflow), and at train.learning_rate and train.epochs"
    else:
        why = f"the candidate answers {other} of {len(both)} rows otherwise than the base"
    return Check(name="changes", role="quality", metric="answers", n=len(both), passed=True if other else None, why=why)
