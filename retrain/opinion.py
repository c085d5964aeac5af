"""What an LLM judge adds to a verdict (`gates.judge`): a second success metric, and whether people agree with it. PURE.

It stands beside `gates.metric`, never in its place: all checks must pass. A judge that is not shown to agree with people
tells nothing, for or against.
"""

from dataclasses import replace

from retrain import checks, stats
from retrain.case import Case
from retrain.figures import percent, rounded
from retrain.gating import Preference
from retrain.verdict import Check

LEAST = 30  # human answers that calibrate it


def opinion(case: Case) -> list[Check]:
    """It must prefer the candidate's answers to `audit` (purpose `replace`: not find them worse), and agree with people."""
    judge = case.gates.judge
    if judge is None:
        return []
    agreed = agreement(case, judge)
    if not agreed.passed:
        return [agreed]
    gates = case.gates.model_copy(update={"metric": "judge"})
    theirs = replace(case, gates=gates, rows={"audit": case.asked("audit")})
    test = checks.non_inferior if case.state.purpose == "replace" else checks.superior
    return [agreed, test(theirs, "audit").model_copy(update={"name": "preferred", "metric": "judge"})]


def agreement(case: Case, judge: Preference) -> Check:
    """How often it prefers what a person answered to what an arm answered wrongly; a tie, or no verdict, is no agreement."""
    known = [row.calibration.human for rows in case.rows.values() for row in rows if row.calibration is not None]
    n, agreed = len(known), sum(human == 1 for human in known)
    if n < LEAST:
        why = f"the judge was asked about {n} answers of people beside wrong ones, {LEAST} are needed: raise evaluate.base_rows"
        return checks.untold("agreement", "quality", None, why)
    low, high = stats.wilson(agreed, n, level=case.gates.level)
    enough, unread = low >= judge.agreement - 1e-12, sum(human is None for human in known)
    why = f"the judge prefers the answer of a person to a wrong one in {agreed} of {n} cases ({percent(agreed / n)}"
    why += f", {unread} brought no verdict)" if unread else ")"
    why += f", surely in {percent(low)}; {percent(judge.agreement)} are needed (gates.judge.agreement)"
    why += "" if enough else ": take another judge, or set gates.judge to null"
    return Check(
        name="agreement", role="quality", metric="judge", candidate=rounded(agreed / n), n=n, level=case.gates.level,
        interval=(rounded(low), rounded(high)), threshold=judge.agreement, passed=True if enough else None, why=why,
    )  # fmt: skip
