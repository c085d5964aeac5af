"""The checks of the gate: from predictions and rules to one line each, PURE.

A check that lacks rows, or whose suite was not measured, is "not told" (passed is None), never passed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr

from retrain import params as params_
from retrain import stats
from retrain.verdict import ChampionState, Check, Harm, Role

COMPARED = {  # purpose -> (suites to be better on, suites to be no worse on)
    "first": (("audit",), ("golden",)),
    "improve": (("audit",), ("golden", "retained")),
    "replace": ((), ("audit", "golden", "retained")),
}
EXAMPLES = 10  # harmed rows shown of one suite
POWER = 0.9  # of each of two guardrails, so that both pass an equal candidate with 0.8: about 8.6 d / margin^2 rows


class Answer(BaseModel):
    """One arm's answer to a row; `right` is None where our machinery could not score it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    answer: StrictStr | None
    right: StrictBool | None
    parsed: StrictBool | None = None


class Prediction(BaseModel):
    """One row of predictions.jsonl; arms that were not asked are missing."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    suite: Literal["golden", "audit", "repair", "retained"]
    id: StrictStr
    cluster: StrictStr
    expected: StrictStr
    slice: dict[str, Any] = {}
    excluded: StrictStr | None
    question: StrictStr
    arms: dict[str, Answer]

    def right(self, arm: str) -> bool | None:
        return self.arms[arm].right if arm in self.arms else None


Pair = tuple[Prediction, bool, bool]  # row, candidate right, reference right


@dataclass(frozen=True)
class Case:
    """What every check reads: rows that count (not excluded) by suite, the rules, and whom the candidate is held against."""

    rows: dict[str, list[Prediction]]
    gates: params_.Gates
    state: ChampionState
    reference: str
    attempt: int  # which one on this audit file, from 1

    def asked(self, suite: str) -> list[Prediction]:
        """Rows to compare on: the base is asked on a part of a suite only, a champion that is missing was not measured."""
        return [row for row in self.rows[suite] if self.reference != "base" or "base" in row.arms]

    @cached_property
    def paired(self) -> dict[str, list[Pair]]:
        """By suite, one row a cluster; not measured on either side is a row lost."""
        return {suite: [_pair(row, self.reference) for row in _one_a_cluster(self.asked(suite))] for suite in self.rows}

    @cached_property
    def missing(self) -> dict[str, int]:
        """By suite, rows where the candidate, or a reference that was to be asked and is compared, was not measured."""
        return {suite: _missing(self, suite) for suite in self.rows}

    def needed(self, suite: str) -> int:
        return self.gates.repair_min_rows if suite == "repair" else self.gates.min_rows


def superior(case: Case, suite: str) -> Check:
    """Better than the reference by an exact paired test, at a level that all attempts on this audit file share."""
    attempt = case.attempt
    level = case.gates.level / (attempt * (attempt + 1))  # sums to gates.level over any number of attempts
    why_not = _why_not(case, suite, case.needed(suite))
    if why_not:
        return _untold("superior", "success", suite, why_not)
    line = _compare(case, suite, level)
    p = stats.mcnemar_p(line["won"], line["lost"])
    passed = p <= level and line["difference"] >= case.gates.min_effect - 1e-12
    why = f"{_scores(case, suite, line)}; {_gain(line, p, level, case.gates.min_effect)}"
    why += f"; attempt {attempt} on these audited rows" if attempt > 1 else ""
    numbers = {**line, "p": rounded(p), "threshold": case.gates.min_effect}
    return Check(name="superior", role="success", suite=suite, passed=passed, why=why, **numbers)


def _gain(line: dict[str, Any], p: float, level: float, least: float) -> str:
    if p > level:
        return f"this may be chance (p {p:.2g}, must be at most {level:.2g})" + _rows_to_see(line, level)
    if line["difference"] < least - 1e-12:
        return f"more than chance, but gates.min_effect asks for {points(least)}"
    return f"more than chance (p {p:.2g}, at most {level:.2g} allowed)"


def _rows_to_see(line: dict[str, Any], level: float) -> str:
    b, c, n = line["won"], line["lost"], line["n"]
    if b <= c:
        return ""
    rows = stats.rows_for_superiority(discordant=(b + c) / n, gain=(b - c) / n, level=level, power=0.8)
    return f"; if the gain is real, about {rows} rows show it in 4 of 5 cases" if rows > n else ""


def non_inferior(case: Case, suite: str) -> Check:
    """Tango's interval of the paired difference stays above minus the margin."""
    margin, level = case.gates.margin, case.gates.level
    role: Role = "success" if suite == "audit" else "guardrail"
    least = stats.rows_for_non_inferiority(discordant=0.0, margin=margin, level=level, power=POWER)
    why_not = _why_not(case, suite, max(case.needed(suite), least))
    if why_not:
        return _untold("non_inferior", role, suite, why_not)
    line = _compare(case, suite, level)
    n, b, c = line["n"], line["won"], line["lost"]
    p = stats.non_inferior(b, c, n, margin=margin)[1]
    allowed = stats.allowed_loss(b, n, margin=margin, level=level)
    passed = p < level and line["interval"][0] > -margin
    verdict = f"a loss of {points(margin)} can be ruled out" if passed else _too_much(b, c, n, case.gates, allowed)
    numbers = {**line, "p": rounded(p), "threshold": -margin, "allowed": None if allowed is None else rounded(allowed)}
    why = f"{_scores(case, suite, line)}; {verdict}"
    return Check(name="non_inferior", role=role, suite=suite, passed=passed, why=why, **numbers)


def anchored(case: Case, suite: str) -> Check | None:
    """The guardrail again, against who served when each row entered the suite, so that small losses cannot add up.

    None where it would be the same test: no row's anchor is anything but what serves now, or the suite tells nothing.
    """
    margin, level, known = case.gates.margin, case.gates.level, case.state.anchors.get(suite, {})
    if _why_not(case, suite, case.needed(suite)) or not any(row.id in known for row, _, _ in case.paired[suite]):
        return None
    then = [(ours, known.get(row.id, theirs) if _measured(case, row) else True) for row, ours, theirs in case.paired[suite]]
    n, (b, c) = len(then), stats.discordant([ours for ours, _ in then], [theirs for _, theirs in then])
    low, high = stats.tango_interval(b, c, n, level=level)
    p = stats.non_inferior(b, c, n, margin=margin)[1]
    allowed = stats.allowed_loss(b, n, margin=margin, level=level)
    passed = p < level and low > -margin
    now, before = sum(ours for ours, _ in then) / n, sum(theirs for _, theirs in then) / n
    why = f"{suite}: {percent(now)} right, those that served when its rows entered {percent(before)}: {moved((b - c) / n)}"
    ruled = f"a loss of {points(margin)} in all can be ruled out" if passed else _too_much(b, c, n, case.gates, allowed)
    return Check(
        name="anchored", role="guardrail", suite=suite, candidate=rounded(now), anchor=rounded(before), n=n, won=b, lost=c,
        difference=rounded((b - c) / n), interval=(rounded(low), rounded(high)), p=rounded(p), level=level, threshold=-margin,
        allowed=None if allowed is None else rounded(allowed), passed=passed,
        why=f"{why} ({b} rows won, {c} lost, of {n}); {ruled}",
    )  # fmt: skip


def _measured(case: Case, row: Prediction) -> bool:
    return row.right("candidate") is not None and row.right(case.reference) is not None


def _too_much(b: int, c: int, n: int, gates: params_.Gates, allowed: float | None) -> str:
    limit = "no result" if allowed is None else f"a measured change of {-100 * allowed:+.1f} points or better"
    why = f"{limit} would have ruled out a true loss of {points(gates.margin)}"
    rows = stats.rows_for_non_inferiority(discordant=(b + c) / n, margin=gates.margin, level=gates.level, power=POWER)
    return f"{why}; with so many answers changed an equal candidate needs about {rows} rows to show it" if rows > n else why


def floor(case: Case, suite: str, threshold: float, name: str, metric: str) -> Check:
    """An absolute bound on the mean over all rows; an answer that is not measured, or not parsed, is not right."""
    why_not = _why_not(case, suite, case.needed(suite))
    if why_not:
        return _untold(name, "quality", suite, why_not)
    rows = case.rows[suite]
    good = sum(getattr(row.arms["candidate"], metric) is True for row in rows if "candidate" in row.arms)
    share, n = good / len(rows), len(rows)
    low, high = stats.wilson(good, n, level=case.gates.level)
    fit = "fit the output schema" if metric == "parsed" else "are right"
    why = f"{suite}: {good} of {n} answers {fit} ({percent(share)}), at least {percent(threshold)} needed"
    return Check(
        name=name, role="quality", suite=suite, metric=metric, candidate=rounded(share), n=n,
        interval=(rounded(low), rounded(high)), level=case.gates.level, threshold=threshold,
        passed=share >= threshold - 1e-12, why=why,
    )  # fmt: skip


def measured(case: Case, suite: str, compared: bool) -> Check:
    """Rows that could not be scored count against the candidate above; too many of them, and the suite tells nothing."""
    why_not = _too_few(case, suite, case.needed(suite))
    if why_not:
        return _untold("measured", "quality", suite, why_not)
    n, missing = len(case.rows[suite]), case.missing[suite]
    share, most = missing / n, case.gates.not_measured_max
    why = f"{missing} of {n} rows of {suite} could not be scored for an arm ({percent(share)}, at most {percent(most)})"
    why += ", and count against the candidate" if missing and compared else ""
    return Check(
        name="measured", role="quality", suite=suite, metric="not measured", candidate=rounded(share), n=n, threshold=most,
        passed=True if share <= most else None, why=why if share <= most else f"{why}: see `why` in predictions.jsonl",
    )  # fmt: skip


def _untold(name: str, role: Role, suite: str, why: str) -> Check:
    return Check(name=name, role=role, suite=suite, passed=None, why=why)


def _why_not(case: Case, suite: str, needed: int) -> str | None:
    """Why a suite tells nothing, or None."""
    missing, n = case.missing[suite], len(case.rows[suite])
    if n and missing / n > case.gates.not_measured_max:
        return f"{missing} of {n} rows of {suite} could not be scored, at most {percent(case.gates.not_measured_max)} may be"
    return _too_few(case, suite, needed)


def _missing(case: Case, suite: str) -> int:
    compared = suite in {name for group in COMPARED[case.state.purpose] for name in group}
    asked = {row.id for row in case.asked(suite)} if compared else set()
    return sum(
        row.right("candidate") is None or (row.id in asked and row.right(case.reference) is None) for row in case.rows[suite]
    )


def _too_few(case: Case, suite: str, needed: int) -> str | None:
    compared = suite in {name for group in COMPARED[case.state.purpose] for name in group}
    found = len(case.paired[suite] if compared else _one_a_cluster(case.rows[suite]))
    if found >= needed:
        return None
    if compared and len(_one_a_cluster(case.rows[suite])) >= needed:
        return f"the base was asked on only {found} rows of {suite}, {needed} are needed: raise evaluate.base_rows"
    lacking = needed - found
    kind, fix = {
        "audit": ("unread audited", f"label {lacking} more"),
        "golden": ("golden", f"write {lacking} more"),
        "retained": ("retained", f"{lacking} more must be held back (prepare.retained_share)"),
        "repair": ("held-out failure", f"about {lacking} more must be held back of new corrections (prepare.repair_share)"),
    }[suite]
    return f"only {found} {kind} rows, {needed} are needed: {fix}"


# --- pairs


def _one_a_cluster(rows: Iterable[Prediction]) -> list[Prediction]:
    """The row with the lowest id of each cluster: rows of one conversation or user are no independent evidence."""
    first: dict[str, Prediction] = {}
    for row in sorted(rows, key=lambda row: row.id):
        first.setdefault(row.cluster, row)
    return list(first.values())


def _pair(row: Prediction, reference: str) -> Pair:
    ours, theirs = row.right("candidate"), row.right(reference)
    return (row, False, True) if ours is None or theirs is None else (row, ours, theirs)


def _compare(case: Case, suite: str, level: float) -> dict[str, Any]:
    """Fields of a Check that every paired test shares."""
    compared = case.paired[suite]
    n = len(compared)
    b, c = stats.discordant([ours for _, ours, _ in compared], [theirs for _, _, theirs in compared])
    low, high = stats.tango_interval(b, c, n, level=level)
    base = [row.right("base") for row, _, _ in compared if row.right("base") is not None]
    scores = {"candidate": sum(ours for _, ours, _ in compared) / n, "base": sum(map(bool, base)) / len(base) if base else None}
    scores[case.reference] = sum(theirs for _, _, theirs in compared) / n
    shares = {arm: None if share is None else rounded(share) for arm, share in scores.items()}
    tested = {
        "n": n,
        "won": b,
        "lost": c,
        "difference": rounded((b - c) / n),
        "interval": (rounded(low), rounded(high)),
        "level": rounded(level),
    }
    return {**shares, **tested}


def harm(case: Case, suite: str) -> list[Harm]:
    """Labels by rows lost, most first, with some of those rows: each label shows one before any shows its second."""
    lost: dict[str, list[Prediction]] = defaultdict(list)
    won: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row, ours, theirs in case.paired[suite]:
        label = str(row.slice.get("label", "all"))
        total[label] += 1
        won[label] += ours and not theirs
        if theirs and not ours:
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


# --- words and numbers


def rounded(value: float) -> float:
    """Six digits: the same on every machine's last bit."""
    return float(f"{value:.6g}")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    return f"{100 * share:.1f} points"


def moved(difference: float) -> str:
    if difference == 0:
        return "no difference"
    return f"it {'gained' if difference > 0 else 'lost'} {points(abs(difference))}"


def _scores(case: Case, suite: str, line: dict[str, Any]) -> str:
    scores = f"{percent(line['candidate'])} right, the {case.reference} {percent(line[case.reference])}"
    return f"{suite}: {scores}: {moved(line['difference'])} ({line['won']} rows won, {line['lost']} lost, of {line['n']})"
