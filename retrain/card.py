"""The verdict in plain words: one line, ten lines for anyone, then every number (`bars` draws the scores).

The first line has no markup: MLflow shows the start of a description raw, and cut.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from retrain import cardtables as tables
from retrain import power
from retrain.cardtables import ARMS, SUITES, Metrics, arms_of, is_number
from retrain.contrast import Predictions, by_slice, contrasts, won_and_lost
from retrain.figures import moved, percent, points
from retrain.markdown import escape
from retrain.metrics import said
from retrain.verdict import Check, Verdict

SIMPLER = ("regression", "prompted", "base")
POWER = 0.8
MORE = (100, 200, 400, 800)  # audited rows that could be labelled besides
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
    if check.name == "preferred":
        return (
            f"an LLM judge that agrees with people does not prefer it ({check.won} rows won, {check.lost} lost, of {check.n})"
        )
    if check.name in ("safety", "budget", "serves"):
        return check.why
    if check.name != "non_inferior":
        failing = {"parse_floor": "too few answers parse", "repair": "it repairs too few of the failures held back"}
        score = f"{percent(check.candidate or 0)}, at least {percent(check.threshold or 0)} needed"
        return f"{failing.get(check.name, f'it is not good enough on {check.suite}')} ({score})"
    hopeless = check.metric == "right" and (check.allowed is None or check.allowed < 0)
    if (check.difference or 0) >= 0 or hopeless:
        changed = f"{check.won} rows won, {check.lost} lost, of {check.n}"
        return f"it changed too many answers on {check.suite} to rule out harm ({changed})"
    limit = f"{100 * check.allowed:.1f} allowed" if check.allowed is not None else f"margin {points(-(check.threshold or 0))}"
    numbers = f"{_change(check)}, {limit}"
    verb = "forgot" if check.champion is not None and check.suite != "audit" else "got worse at"
    return f"{verb} {_forgotten(verdict, check)} ({numbers})"


def _forgotten(verdict: Verdict, check: Check) -> str:
    """Labels that hold a fifth of the lost rows or more; or that the loss is spread."""
    return " and ".join(_worst(verdict, check)) or "a little of many things"


def _worst(verdict: Verdict, check: Check) -> list[str]:
    ours = [harm for harm in verdict.harmed if harm.suite == check.suite and harm.label != "all"]
    lost = sum(harm.lost for harm in ours)
    return [harm.label for harm in ours if harm.lost >= 2 and 5 * harm.lost >= lost][:3]


def card(
    verdict: Verdict, metrics: Metrics, predictions: Predictions, changed: Sequence[str] = (), accepted: Sequence[str] = ()
) -> str:
    """Markdown: the line, some ten plain lines, then every number, and what was won and lost, answers side by side.

    changed: what people changed in the suites since the champion was judged (`overlay.since`). accepted: the times a person
    moved the baseline from which small losses add up.

    It quotes what users wrote: it belongs into the DVC cache and MLflow, not into git.
    """
    since = "since the champion was judged" if verdict.purpose != "first" else "by hand"
    people = [f"The suites were changed {since}: {'; '.join(changed)}."] if changed else []
    people += [f"Losses were accepted: {'; '.join(accepted)}."] if accepted else []
    lines = [one_line(verdict), "", *(_bullet(line) for line in (*plain_lines(verdict, metrics), *people)), ""]
    for title, section in _sections(verdict, metrics, predictions):
        lines += [f"## {title}", "", *section, ""] if section else []
    return "\n".join(lines)


def _bullet(line: str) -> str:
    """What a line is about stands out."""
    about, mark, rest = re.match(r"([^:?]*)([:?] |)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"- **{escape(about)}{mark.strip()}** {escape(rest)}" if mark else f"- {escape(line)}"


def _sections(verdict: Verdict, metrics: Metrics, predictions: Predictions) -> list[tuple[str, list[str]]]:
    rows = contrasts(predictions, metric_of(verdict))
    won, lost = won_and_lost(rows, tables.MOST_ROWS)
    slices, closed = by_slice(rows), any(column == "label" for row in rows for column, _ in row.slices)
    gone = tables.harmed_table(verdict.harmed, predictions) if verdict.harmed else tables.rows_table(lost) if lost else []
    return [
        ("Checks", tables.checks_table(verdict)),
        ("What was lost", gone),
        ("What was won", tables.rows_table(won) if won else []),
        ("Kinds of question, the worst first", tables.slices_table(slices) if slices else []),
        ("What is confused more, or less", tables.confusion_table(rows) if closed else []),
        ("Scores", tables.scores_table(metrics)),
        ("Numbers", tables.numbers_table(verdict)),
        ("Bound to", tables.bound_lines(verdict.bound)),
    ]


def metric_of(verdict: Verdict) -> str:
    """What the comparisons of this verdict are of."""
    return next((check.metric for check in verdict.checks if check.name in ("superior", "non_inferior")), "right")


def plain_lines(verdict: Verdict, metrics: Metrics) -> list[str]:
    """About ten sentences for someone who runs no statistics."""
    lines = [_tried(verdict), *(_suite_line(verdict, suite, metrics) for suite in SUITES)]
    lines += [
        _judge_line(verdict),
        _slices_line(verdict),
        _serves_line(verdict),
        _power_line(verdict),
        _missing_line(verdict),
        _simpler_line(metrics),
    ]
    lines.append(_next(verdict))
    return [line for line in lines if line]


def _tried(verdict: Verdict) -> str:
    attempts = verdict.bound.get("attempts")
    attempt = attempts + 1 if isinstance(attempts, int) else 1
    again = f" It is attempt {attempt} on the same audited rows, so it needs stronger evidence." if attempt > 1 else ""
    return f"What was tried: a new adapter for {verdict.adapter}. {TRIED.get(verdict.purpose, '')}{again}"


def _suite_line(verdict: Verdict, suite: str, metrics: Metrics) -> str:
    paired = [c for c in verdict.checks if c.suite == suite and c.name in ("superior", "non_inferior")]
    single = [c for c in verdict.checks if c.suite == suite and c.name in ("floor", "repair", "parse_floor")]
    for check in paired + single:
        if check.passed is None:
            return f"{_capital(SUITES[suite])}: could not be told; {check.why}."
        if check in paired:
            return _paired_line(check, arms_of(metrics, suite))
        return f"{_capital(SUITES[suite])} ({suite}): {check.why.partition(': ')[2]}."
    return ""


def _paired_line(check: Check, arms: Mapping[str, Any]) -> str:
    other, score = ("champion", check.champion) if check.champion is not None else ("untrained base", check.base)
    change = moved(check.difference or 0.0).removeprefix("it ")
    result = f"it {change}" if check.difference else "no difference"
    outcome = {
        ("superior", True): "more than chance would explain",
        ("superior", False): "which is too little, or may be chance",
        ("non_inferior", True): f"a true loss of {points(-(check.threshold or 0))} can be ruled out",
        ("non_inferior", False): f"a true loss of {points(-(check.threshold or 0))} cannot be ruled out",
    }[check.name, bool(check.passed)]
    scores = f"{said(check.metric, check.candidate or 0)}, the {other} {percent(score or 0)}, of {check.n} rows"
    return f"{_capital(SUITES[check.suite or ''])} ({check.suite}): {scores}: {result}, {outcome}{_beside(check, arms)}."


def _beside(check: Check, arms: Mapping[str, Any]) -> str:
    """The means over all rows, where some are joined by conversation, user or near copy and only one of them was tested."""
    arm_name = "champion" if check.champion is not None else "base"
    ours, theirs = arms.get("candidate", {}), arms.get(arm_name, {})
    if not all(is_number(arm.get(check.metric)) for arm in (ours, theirs)) or ours.get("n", 0) <= (check.n or 0):
        return ""
    if ours["n"] != theirs.get("n"):
        return ""
    scores = f"{percent(ours[check.metric])}, the {arm_name} {percent(theirs[check.metric])}"
    return f" (over all {ours['n']} rows, of which only those that share no user or question were tested: {scores})"


def _judge_line(verdict: Verdict) -> str:
    """What an LLM judge said, and whether it is believed; it decides nothing alone."""
    agreed, preferred = verdict.check("agreement"), verdict.check("preferred")
    if agreed is None:
        return ""
    told = f"An LLM judge {'is believed' if agreed.passed else 'is not believed'}: {agreed.why.removeprefix('the judge ')}."
    return f"{told} On {preferred.why}." if preferred else told


def _slices_line(verdict: Verdict) -> str:
    check = verdict.check("slices")
    if not check:
        return ""
    shared = f"; {check.shared}" if check.shared else ""
    return f"Was any kind of question harmed? {'No' if check.passed else 'Yes'}: {check.why}{shared}."


def _serves_line(verdict: Verdict) -> str:
    check = verdict.check("serves")
    if check is None:
        return ""
    told = {True: "Yes", False: "No", None: "Could not be told"}[check.passed]
    return f"Does it serve as it was judged? {told}: {check.why}."


def _power_line(verdict: Verdict) -> str:
    """What so many audited rows can show at all, whatever came out; an untrained base differs too much to tell of that."""
    check = verdict.check("superior")
    if verdict.purpose == "first" or check is None or not check.n or check.metric != "right" or check.level is None:
        return ""
    differing = max((check.won or 0) + (check.lost or 0), 1) / check.n
    rules = {"differing": differing, "level": check.level, "power": POWER, "min_effect": check.threshold or 0.0}
    seen = {more: power.visible_gain(check.n + more, **rules) or 1.0 for more in (0, *MORE)}
    more = next((more for more in MORE if seen[more] <= 2 / 3 * seen[0]), MORE[-1])
    blind = f"with {check.n} audited rows one below {points(seen[0])} is missed in more than 1 of 5 cases"
    return f"How small a gain can be seen? {_capital(blind)}; label {more} more, and {points(seen[more])} would be seen."


def _missing_line(verdict: Verdict) -> str:
    """Rows that could not be scored, and rows that left the comparison."""
    missing = sum(round((c.candidate or 0) * (c.n or 0)) for c in verdict.checks if c.name == "measured")
    reasons = Counter[str]()
    for left_out in verdict.excluded.values():
        reasons.update(left_out)
    told = [f"{_rows(missing)} could not be scored by our own machinery and counts against the candidate"] if missing else []
    why = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    told += [f"{_rows(reasons.total())} left out for every arm ({why})"] if reasons else []
    return f"What is missing: {'; '.join(told)}." if told else ""


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _simpler_line(metrics: Metrics) -> str:
    """Would something simpler have been enough? Said on what users ask now, else on the golden rows."""
    suite = next((s for s in ("audit", "golden") if is_number(arms_of(metrics, s).get("candidate", {}).get("right"))), None)
    if suite is None:
        return ""
    arms = arms_of(metrics, suite)
    scored = {ARMS[arm]: arms[arm] for arm in SIMPLER if arm in arms and is_number(arms[arm].get("right"))}
    if not scored:
        return "Would something simpler have been enough? Nothing simpler was scored, so that is not known."
    listed = ", ".join(f"the {name} {percent(arm['right'])}" for name, arm in scored.items())
    answer = _honest(arms["candidate"], scored)
    ours = percent(arms["candidate"]["right"])
    return f"Would something simpler have been enough? {answer} Right on {suite}: the candidate {ours}, {listed}."


def _honest(ours: Mapping[str, Any], scored: Mapping[str, Mapping[str, Any]]) -> str:
    best, arm = max(scored.items(), key=lambda pair: pair[1]["right"])
    gap = arm["right"] - ours["right"]
    rows = "" if arm.get("n") == ours.get("n") else f", asked on {arm.get('n')} of the {ours.get('n')} rows,"
    if gap < -1e-9:
        return f"No: the best of what is simpler, the {best}{rows or ','} is {points(-gap)} behind the candidate."
    result = "is as good as" if gap < 1e-9 else f"is {points(gap)} better than"
    advice = "; for a closed set of answers it is often the better tool, and takes a second"
    return f"Perhaps: the {best}{rows} {result} the candidate{advice if best == ARMS['regression'] else ''}."


def _next(verdict: Verdict) -> str:
    if verdict.status == "passed":
        return "What now: it may be promoted; retrain history says what serves."
    stays = "the base model still stands alone" if verdict.purpose == "first" else "the champion goes on serving"
    if verdict.status == "not_evaluated":
        return f"What now: {stays}; do what the first line says, then run again."
    return f"What now: {stays}; the rows below, if any, show what to look at before the next try."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    """One line without markup; labels and reasons may hold anything."""
    return re.sub(r"\s+", " ", re.sub(r"[`*<>|\[\]]", "", text)).strip()
