"""The checks that compare the candidate with its reference, one line each, and what a failed one lost. PURE.

Of `right` a row is right or wrong: exact McNemar and Tango's interval. Any other metric is a score: the bootstrap's interval of
the mean difference, and for a gain the sign-flip test too. A row that was not measured is the largest loss there is.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from retrain import params as params_
from retrain import power, stats
from retrain.case import Case, Pair, Prediction, mean
from retrain.figures import moved, percent, points, rounded
from retrain.metrics import said
from retrain.verdict import Check, Harm, Role

EXAMPLES = 10  # harmed rows shown of one suite
POWER = 0.9  # of each of two guardrails, so that both pass an equal candidate with 0.8: about 8.6 d / margin^2 rows


def superior(case: Case, suite: str) -> Check:
    """Better than the reference by a paired test, at a level that all attempts on this audit file share."""
    attempt = case.attempt
    level = case.gates.level / (attempt * (attempt + 1))  # sums to gates.level over any number of attempts
    why_not = case.why_not(suite, case.needed(suite))
    if why_not:
        return untold("superior", "success", suite, why_not)
    line = _compare(case, suite, level)
    exact, differences = case.metric == "right", [pair.ours - pair.theirs for pair in case.paired[suite]]
    p = stats.mcnemar_p(line["won"], line["lost"]) if exact else stats.sign_flip_p(differences)
    beyond_chance = p <= level and (exact or line["interval"][0] > 0)
    passed = beyond_chance and line["difference"] >= case.gates.min_effect - 1e-12
    why = f"{_scores(case, suite, line)}; {_gain(case, line, p, level, beyond_chance)}"
    why += f"; attempt {attempt} on these audited rows" if attempt > 1 else ""
    numbers = {**line, "p": rounded(p), "threshold": case.gates.min_effect}
    return Check(name="superior", role="success", suite=suite, metric=case.metric, passed=passed, why=why, **numbers)


def _gain(case: Case, line: dict[str, Any], p: float, level: float, beyond_chance: bool) -> str:
    if not beyond_chance:
        rows = _rows_to_see(line, level) if case.metric == "right" else f"; {_interval(line)}"
        return f"this may be chance (p {p:.2g}, must be at most {level:.2g}){rows}"
    if line["difference"] < case.gates.min_effect - 1e-12:
        return f"more than chance, but gates.min_effect asks for {points(case.gates.min_effect)}"
    return f"more than chance (p {p:.2g}, at most {level:.2g} allowed)"


def _interval(line: dict[str, Any]) -> str:
    low, high = line["interval"]
    return f"interval {100 * low:+.1f} to {100 * high:+.1f} points"


def _rows_to_see(line: dict[str, Any], level: float) -> str:
    b, c, n = line["won"], line["lost"], line["n"]
    if b <= c:
        return ""
    rows = power.rows_for_superiority(discordant=(b + c) / n, gain=(b - c) / n, level=level, power=0.8)
    return f"; if the gain is real, about {rows} rows show it in 4 of 5 cases" if rows > n else ""


def non_inferior(case: Case, suite: str) -> Check:
    """The interval of the paired difference stays above minus the margin."""
    role: Role = "success" if suite == "audit" else "guardrail"
    least = power.rows_for_non_inferiority(discordant=0.0, margin=case.gates.margin, level=case.gates.level, power=POWER)
    why_not = case.why_not(suite, max(case.needed(suite), least))
    if why_not:
        return untold("non_inferior", role, suite, why_not)
    line = _compare(case, suite, case.gates.level)
    ruling = _ruling(case, case.paired[suite], line)
    return Check(
        name="non_inferior", role=role, suite=suite, metric=case.metric, **line, **ruling,
        why=f"{_scores(case, suite, line)}; {_ruled(case.gates, line, ruling, '')}",
    )  # fmt: skip


def anchored(case: Case, suite: str) -> Check | None:
    """The guardrail again, against who served when each row entered the suite, so that small losses cannot add up.

    None where it would be the same test: no row's anchor is anything but what serves now, or the suite tells nothing.
    """
    known = case.state.anchors.get(suite, {}) if case.state.metric == case.metric else {}
    if case.why_not(suite, case.needed(suite)) or not any(pair.row.id in known for pair in case.paired[suite]):
        return None
    then = [
        Pair(row, ours, float(known.get(row.id, theirs)) if case.measured(row) else 1.0)
        for row, ours, theirs in case.paired[suite]
    ]
    line = paired(then, case.metric, case.gates.level)
    ruling = _ruling(case, then, line)
    now, before = mean([pair.ours for pair in then]), mean([pair.theirs for pair in then])
    scores = f"{said(case.metric, now)}, those that served when its rows entered {percent(before)}"
    return Check(
        name="anchored", role="guardrail", suite=suite, metric=case.metric, candidate=rounded(now), anchor=rounded(before),
        **line, **ruling, why=f"{suite}: {scores}: {_moved(line)}; {_ruled(case.gates, line, ruling, ' in all')}",
    )  # fmt: skip


def _ruling(case: Case, pairs: Sequence[Pair], line: dict[str, Any]) -> dict[str, Any]:
    """Whether a loss of the margin is ruled out: Tango's test of right and wrong, the interval alone of a score."""
    margin, level = case.gates.margin, case.gates.level
    above = line["interval"][0] > -margin
    if case.metric != "right":
        return {"passed": above, "threshold": -margin}
    n, b, c = line["n"], line["won"], line["lost"]
    p, allowed = stats.non_inferior(b, c, n, margin=margin)[1], stats.allowed_loss(b, n, margin=margin, level=level)
    told = {"p": rounded(p), "allowed": None if allowed is None else rounded(allowed)}
    return {"passed": p < level and above, "threshold": -margin, **told}


def _ruled(gates: params_.Gates, line: dict[str, Any], ruling: dict[str, Any], in_all: str) -> str:
    if ruling["passed"]:
        return f"a loss of {points(gates.margin)}{in_all} can be ruled out"
    if "allowed" not in ruling:
        return f"a loss of {points(gates.margin)}{in_all} cannot be ruled out ({_interval(line)})"
    allowed, n, differing = ruling["allowed"], line["n"], line["won"] + line["lost"]
    limit = "no result" if allowed is None else f"a measured change of {-100 * allowed:+.1f} points or better"
    why = f"{limit} would have ruled out a true loss of {points(gates.margin)}"
    rows = power.rows_for_non_inferiority(discordant=differing / n, margin=gates.margin, level=gates.level, power=POWER)
    return f"{why}; with so many answers changed an equal candidate needs about {rows} rows to show it" if rows > n else why


def untold(name: str, role: Role, suite: str | None, why: str) -> Check:
    return Check(name=name, role=role, suite=suite, passed=None, why=why)


def _compare(case: Case, suite: str, level: float) -> dict[str, Any]:
    """Fields of a Check that every test against the reference shares."""
    pairs, reference, metric = case.paired[suite], case.reference, case.metric
    base = [score for row, _, _ in pairs if (score := row.score("base", metric)) is not None]
    scores = {"candidate": mean([pair.ours for pair in pairs]), "base": mean(base) if base else None}
    scores[reference] = mean([pair.theirs for pair in pairs])
    shares = {arm: None if score is None else rounded(score) for arm, score in scores.items()}
    return {**shares, **paired(pairs, metric, level)}


def paired(pairs: Sequence[Pair], metric: str, level: float) -> dict[str, Any]:
    """Fields of a Check that say what pairs differ by, with an interval at `level` a side."""
    n, (b, c) = len(pairs), stats.discordant([pair.ours for pair in pairs], [pair.theirs for pair in pairs])
    differences = [pair.ours - pair.theirs for pair in pairs]
    low, high = (
        stats.tango_interval(b, c, n, level=level) if metric == "right" else stats.bca_interval(differences, level=level)
    )
    return {
        "n": n,
        "won": b,
        "lost": c,
        "difference": rounded(mean(differences)),
        "interval": (rounded(low), rounded(high)),
        "level": rounded(level),
    }


def harm(case: Case, suite: str) -> list[Harm]:
    """Labels by rows lost, most first, with some of those rows: each label shows one before any shows its second."""
    lost: dict[str, list[Prediction]] = defaultdict(list)
    won: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row, ours, theirs in case.paired[suite]:
        label = str(row.slice.get("label", "all"))
        total[label] += 1
        won[label] += ours > theirs
        if theirs > ours:
            lost[label].append(row)
    ranked = sorted(lost, key=lambda label: (-len(lost[label]), label))
    order = sorted((place, rank) for rank, label in enumerate(ranked) for place in range(len(lost[label])))[:EXAMPLES]
    shown = Counter(rank for _, rank in order)
    return [
        Harm(
            suite=suite, label=label, lost=len(lost[label]), won=won[label], n=total[label],
            rows=tuple(row.id for row in lost[label][: shown[rank]]),
        )
        for rank, label in enumerate(ranked)
    ]  # fmt: skip


def _scores(case: Case, suite: str, line: dict[str, Any]) -> str:
    scores = f"{said(case.metric, line['candidate'])}, the {case.reference} {percent(line[case.reference])}"
    return f"{suite}: {scores}: {_moved(line)}"


def _moved(line: dict[str, Any]) -> str:
    return f"{moved(line['difference'])} ({line['won']} rows won, {line['lost']} lost, of {line['n']})"
