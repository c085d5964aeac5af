"""The verdict in plain words: one line, ten lines for anyone, then every number (`bars` draws the scores).

The first line has no markup: MLflow shows the start of a description raw, and cut.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrain.figures import moved, percent, points
from retrain.verdict import Check, Harm, Verdict

Metrics = Mapping[str, Any]  # metrics.json: {"suites": {suite: {"n", "arms": {arm: {"n", "right", "parsed", "measured"}}}}}
Predictions = Sequence[Mapping[str, Any]]  # rows of predictions.jsonl

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
SIMPLER = ("regression", "prompted", "base")
TRIED = {
    "first": "There is no champion yet, so it must beat the untrained base model.",
    "improve": "It must be better on what users ask now, and forget nothing that matters.",
    "replace": "It has nothing to gain: it must be as good as the version it replaces.",
}


def one_line(verdict: Verdict) -> str:
    """What happened and why, in one sentence without markup."""
    if verdict.status == "passed":
        return _plain(f"Passed: {_success(verdict)}, and on what it knew it lost no more than allowed.")
    if verdict.status == "not_evaluated":
        reasons = list(dict.fromkeys(check.why for check in verdict.checks if check.passed is None))
        more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
        return _plain(f"Could not tell: {'; '.join(reasons[:2])}{more}.")
    success = verdict.check("superior")
    failed = [check for check in verdict.checks if check.passed is False and check.name != "superior"]
    blocks = [block for check in failed if (block := _blocked(check, verdict))]
    if success is None or success.passed is None:
        return _plain(f"Not promoted: {', and '.join(blocks)}.")
    if not blocks:
        return _plain(f"Not promoted: {_success(verdict)}.")
    return _plain(f"Not promoted: {_success(verdict)}, {'but' if success.passed else 'and'} {', and '.join(blocks)}.")


def _success(verdict: Verdict) -> str:
    check = verdict.check("superior") or verdict.check("non_inferior", "audit")
    if check is None or check.difference is None:
        return "it is as good as it must be"
    if check.name == "non_inferior":
        return f"it is as good as the champion on what users ask now ({_change(check)})"
    if check.passed:
        than = " than the untrained base" if verdict.purpose == "first" else ""
        return f"it answers the new questions better{than} ({_change(check)})"
    if check.difference > 0:
        return f"it is not shown to be better on what users ask now ({_change(check)}, which may be chance or too little)"
    return f"it is no better on what users ask now ({_change(check)})"


def _change(check: Check) -> str:
    difference = check.difference or 0.0
    return f"{check.suite} {'no change' if difference == 0 else moved(difference).removeprefix('it ')}"


def _blocked(check: Check, verdict: Verdict) -> str:
    if check.name == "slices":
        named = {name for c in verdict.checks if c.name == "non_inferior" and c.passed is False for name in _worst(verdict, c)}
        rows = f"{check.lost} rows lost, {check.won} won, of {check.n} over all suites"
        return "" if check.slice in named else f"it harmed {check.slice} ({rows})"
    if check.name == "anchored":
        since = f"{_change(check)} against those that served when its rows entered"
        return f"small losses on {check.suite} have added up, or too many answers changed ({since})"
    if check.name != "non_inferior":
        failing = {"parse_floor": "too few answers parse", "repair": "it repairs too few of the failures held back"}
        score = f"{percent(check.candidate or 0)}, at least {percent(check.threshold or 0)} needed"
        return f"{failing.get(check.name, f'it is not good enough on {check.suite}')} ({score})"
    if (check.difference or 0) >= 0 or check.allowed is None or check.allowed < 0:
        changed = f"{check.won} rows won, {check.lost} lost, of {check.n}"
        return f"it changed too many answers on {check.suite} to rule out harm ({changed})"
    numbers = f"{_change(check)}, {100 * check.allowed:.1f} allowed"
    verb = "forgot" if check.champion is not None and check.suite != "audit" else "got worse at"
    return f"{verb} {_forgotten(verdict, check)} ({numbers})"


def _forgotten(verdict: Verdict, check: Check) -> str:
    """Labels that hold a fifth of the lost rows or more; or that the loss is spread."""
    return " and ".join(_worst(verdict, check)) or "a little of many things"


def _worst(verdict: Verdict, check: Check) -> list[str]:
    ours = [harm for harm in verdict.harmed if harm.suite == check.suite and harm.label != "all"]
    lost = sum(harm.lost for harm in ours)
    return [harm.label for harm in ours if harm.lost >= 2 and 5 * harm.lost >= lost][:3]


def card(verdict: Verdict, metrics: Metrics, predictions: Predictions, changed: Sequence[str] = ()) -> str:
    """Markdown: the line, ten plain lines, the checks, the scores of every arm, the harmed rows, and what it is bound to.

    changed: what people changed in the suites since the champion was judged (`overlay.since`).

    It quotes what users wrote: it belongs into the DVC cache and MLflow, not into git.
    """
    lines = [one_line(verdict), "", *(f"- {escape(line)}" for line in plain_lines(verdict, metrics)), ""]
    since = "since the champion was judged" if verdict.purpose != "first" else "by hand"
    lines += [f"- The suites were changed {since}: {escape('; '.join(changed))}.", ""] if changed else []
    lines += ["## Checks", "", *_checks_table(verdict), "", "## Scores", "", *_scores_table(metrics), ""]
    if verdict.harmed:
        lines += ["## What was lost", "", *_harmed_table(verdict.harmed, predictions), ""]
    lines += ["## Bound to", "", *(f"- {key}: {escape(str(value))}" for key, value in _flat(verdict.bound)), ""]
    return "\n".join(lines)


def plain_lines(verdict: Verdict, metrics: Metrics) -> list[str]:
    """About ten sentences for someone who runs no statistics."""
    lines = [_tried(verdict), *(_suite_line(verdict, suite) for suite in SUITES)]
    lines += [_slices_line(verdict), _measured_line(verdict), _excluded_line(verdict), *_simpler(metrics)]
    lines.append(_next(verdict))
    return [line for line in lines if line]


def _tried(verdict: Verdict) -> str:
    attempts = verdict.bound.get("attempts")
    attempt = attempts + 1 if isinstance(attempts, int) else 1
    again = f" It is attempt {attempt} on the same audited rows, so it needs stronger evidence." if attempt > 1 else ""
    return f"What was tried: a new adapter for {verdict.adapter}. {TRIED.get(verdict.purpose, '')}{again}"


def _suite_line(verdict: Verdict, suite: str) -> str:
    paired = [c for c in verdict.checks if c.suite == suite and c.name in ("superior", "non_inferior")]
    single = [c for c in verdict.checks if c.suite == suite and c.name in ("floor", "repair", "parse_floor")]
    for check in paired + single:
        if check.passed is None:
            return f"{_capital(SUITES[suite])}: could not be told; {check.why}."
        if check in paired:
            return _paired_line(check)
        return f"{_capital(SUITES[suite])} ({suite}): {check.why.partition(': ')[2]}."
    return ""


def _paired_line(check: Check) -> str:
    other, score = ("champion", check.champion) if check.champion is not None else ("untrained base", check.base)
    change = moved(check.difference or 0.0).removeprefix("it ")
    result = f"it {change}" if check.difference else "no difference"
    outcome = {
        ("superior", True): "more than chance would explain",
        ("superior", False): "which is too little, or may be chance",
        ("non_inferior", True): f"a true loss of {points(-(check.threshold or 0))} can be ruled out",
        ("non_inferior", False): f"a true loss of {points(-(check.threshold or 0))} cannot be ruled out",
    }[check.name, bool(check.passed)]
    scores = f"{percent(check.candidate or 0)} right, the {other} {percent(score or 0)}, of {check.n} rows"
    return f"{_capital(SUITES[check.suite or ''])} ({check.suite}): {scores}: {result}, {outcome}."


def _slices_line(verdict: Verdict) -> str:
    check = verdict.check("slices")
    if not check:
        return ""
    shared = f"; {check.shared}" if check.shared else ""
    return f"Was any kind of question harmed? {'No' if check.passed else 'Yes'}: {check.why}{shared}."


def _measured_line(verdict: Verdict) -> str:
    missing = sum(round((c.candidate or 0) * (c.n or 0)) for c in verdict.checks if c.name == "measured")
    if not missing:
        return ""
    return f"{missing} answers could not be scored by our own machinery; each counts against the candidate."


def _excluded_line(verdict: Verdict) -> str:
    total = sum(n for reasons in verdict.excluded.values() for n in reasons.values())
    if not total:
        return ""
    reasons = sorted({reason for reasons in verdict.excluded.values() for reason in reasons})
    return f"{total} rows were left out for every arm ({', '.join(reasons)})."


def _simpler(metrics: Metrics) -> list[str]:
    """Would something simpler have been enough? Said on what users ask now, else on the golden rows."""
    suite = next((s for s in ("audit", "golden") if is_number(arms_of(metrics, s).get("candidate", {}).get("right"))), None)
    if suite is None:
        return []
    arms = arms_of(metrics, suite)
    scored = {ARMS[arm]: arms[arm] for arm in SIMPLER if arm in arms and is_number(arms[arm].get("right"))}
    if not scored:
        return ["Would something simpler have been enough? Nothing simpler was scored, so that is not known."]
    listed = ", ".join(f"the {name} {percent(arm['right'])}" for name, arm in scored.items())
    asked = f"Would something simpler have been enough? On {SUITES[suite]} ({suite}) are right:"
    return [f"{asked} {listed}; this candidate {percent(arms['candidate']['right'])}.", _honest(arms["candidate"], scored)]


def _honest(ours: Mapping[str, Any], scored: Mapping[str, Mapping[str, Any]]) -> str:
    best, arm = max(scored.items(), key=lambda pair: pair[1]["right"])
    gap = arm["right"] - ours["right"]
    rows = "" if arm.get("n") == ours.get("n") else f", asked on {arm.get('n')} of the {ours.get('n')} rows,"
    if gap < -1e-9:
        return f"So no: the best of them, the {best}{rows} is {points(-gap)} behind the candidate."
    result = "is as good as" if gap < 1e-9 else f"is {points(gap)} better than"
    advice = "; for a closed set of answers it is often the better tool, and takes a second"
    return f"So perhaps yes: the {best}{rows} {result} the candidate{advice if best == ARMS['regression'] else ''}."


def _next(verdict: Verdict) -> str:
    if verdict.status == "passed":
        return "What now: it may be promoted; retrain history says what serves."
    stays = "the base model still stands alone" if verdict.purpose == "first" else "the champion goes on serving"
    if verdict.status == "not_evaluated":
        return f"What now: {stays}; do what the first line says, then run again."
    return f"What now: {stays}; the rows below, if any, show what to look at before the next try."


# --- tables


def _checks_table(verdict: Verdict) -> list[str]:
    head = "check, role, suite, candidate, champion, base, rows, difference, interval, p, threshold, result, why"
    return _table(head.split(", "), [_check_cells(check) for check in verdict.checks])


def _check_cells(check: Check) -> list[str]:
    shares = [_cell_percent(value) for value in (check.candidate, check.champion, check.base)]
    interval = "" if check.interval is None else f"{100 * check.interval[0]:.1f} to {100 * check.interval[1]:.1f}"
    difference = "" if check.difference is None else f"{100 * check.difference:+.1f}"
    numbers = [str(check.n or ""), difference, interval, "" if check.p is None else f"{check.p:.2g}"]
    result = {True: "passed", False: "FAILED", None: "not told"}[check.passed]
    return [check.name, check.role, check.suite or "", *shares, *numbers, _cell_percent(check.threshold), result, check.why]


def _scores_table(metrics: Metrics) -> list[str]:
    rows = []
    for suite in suites_of(metrics):
        arms = arms_of(metrics, suite)
        for arm in [*(a for a in ARMS if a in arms), *sorted(set(arms) - set(ARMS))]:
            score = arms[arm]
            shares = [_cell_percent(score.get(key)) for key in ("right", "parsed", "measured")]
            rows.append([suite, ARMS.get(arm, arm), *shares, str(score.get("n", ""))])
    return _table(["suite", "arm", "right", "parsed", "measured", "rows"], rows)


def lost_rows(harmed: Iterable[Harm], predictions: Predictions) -> list[tuple[str, str, str, str, str]]:
    """(suite, question, expected, what the candidate answers, what its reference answered) of the rows that harm names."""
    known = {(row["suite"], row["id"]): row for row in predictions}
    rows = [(harm.suite, known[harm.suite, row]) for harm in harmed for row in harm.rows]
    return [(suite, row["question"], row["expected"], *_before_and_now(row["arms"])) for suite, row in rows]


def _before_and_now(arms: Mapping[str, Any]) -> tuple[str, str]:
    reference = arms.get("champion") or arms.get("base") or {}
    return arms.get("candidate", {}).get("answer") or "(none)", reference.get("answer") or "(none)"


def _harmed_table(harmed: tuple[Harm, ...], predictions: Predictions) -> list[str]:
    labels = [[h.suite, h.label, str(h.lost), str(h.won), str(h.n)] for h in harmed]
    cells = [list(row) for row in lost_rows(harmed, predictions)]
    examples = _table(["suite", "question", "expected", "candidate", "before"], cells)
    return [*_table(["suite", "label", "lost", "won back", "of rows"], labels), "", *examples]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; every cell is escaped, so that a user's text stays text."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows]


def _flat(bound: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs = []
    for key, value in bound.items():
        inner = [(f"{key} {name}", part) for name, part in value.items()] if isinstance(value, Mapping) else [(key, value)]
        pairs += inner
    return pairs


def suites_of(metrics: Metrics) -> list[str]:
    found = metrics.get("suites") or {}
    return [*(s for s in SUITES if s in found), *sorted(set(found) - set(SUITES))]


def arms_of(metrics: Metrics, suite: str) -> Mapping[str, Any]:
    return ((metrics.get("suites") or {}).get(suite) or {}).get("arms") or {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _cell_percent(value: Any) -> str:
    return percent(value) if is_number(value) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    """One line without markup; labels and reasons may hold anything."""
    return re.sub(r"\s+", " ", re.sub(r"[`*<>|\[\]]", "", text)).strip()


def escape(text: str, most: int = 300) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    flat = re.sub(r"\s+", " ", text).strip()
    flat = flat if len(flat) <= most else flat[: most - 1] + "…"
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)
