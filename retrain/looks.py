"""PURE: a look at a challenger beside the champion -> success, failure or inconclusive, the reasons, and the line that follows.

Requests are compared in blocks of consecutive ones, whichever version answered them: what made both fail, or made both slow,
lies in the same blocks, so an ill champion, backend or machine is not held against the challenger. Quality is judged on
requests that both answered and a person labelled whatever the answers were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Literal

from retrain import ledger, stats
from retrain.records import parse_time
from retrain.sections import Rollout as Rules

BLOCK = 50  # consecutive requests that count as the same time
LAST = 0.25  # of the soak time: both versions must have answered in it, or the traffic has stopped
FAULTS = ("failed", "invalid", "slow")
WORDS = {"failed": "failed", "invalid": "gave no valid answer", "slow": "were slow"}
Arm = Literal["champion", "challenger"]


@dataclass(frozen=True)
class Request:
    """One request of the step; at: seconds since 1970; seconds: of the whole answer, None where there is none."""

    at: float
    arm: Arm
    failed: bool = False
    invalid: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Look:
    """What was seen: the step's requests; of all labelled pairs of the rollout how many, and those that only one got right.

    thumbs: (up, all) by version. broken: why the challenger could not be loaded, or is not trusted any more.
    """

    at: datetime
    requests: tuple[Request, ...] = ()
    labels: int = 0
    lost: int = 0
    won: int = 0
    thumbs: dict[Arm, tuple[int, int]] = field(default_factory=dict)
    broken: str | None = None

    def count(self, arm: Arm) -> int:
        return sum(request.arm == arm for request in self.requests)

    def told(self) -> str:
        pairs = f"{self.labels} labelled pairs, {self.lost} lost and {self.won} won"
        return f"{self.count('challenger')} requests of the challenger, {self.count('champion')} of the champion, {pairs}"


@dataclass(frozen=True)
class Judged:
    """How a look ended; expired: nothing could be told for too long. warnings change nothing."""

    outcome: Literal["success", "failure", "inconclusive"]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    expired: bool = False

    def told(self) -> str:
        return f"{self.outcome}{', expired' if self.expired else ''}: {'; '.join((*self.reasons, *self.warnings))}"


def running(entries: Iterable[ledger.Entry]) -> ledger.Rollout | None:
    """The newest line of the rollout that runs.

    None where none does, or the ledger has moved since it began: another champion, a newer candidate, a person's no, or an
    erasure of rows that the challenger learned.
    """
    now: ledger.Rollout | None = None
    for entry in entries:
        if isinstance(entry, ledger.Rollout):
            now = None if entry.action == "ended" else entry
        elif (
            isinstance(entry, ledger.Promotion | ledger.Rollback | ledger.Attempt)
            or (now and isinstance(entry, ledger.Decision) and entry.digest == now.digest and not entry.approved)
            or (now and isinstance(entry, ledger.Erasure) and now.digest in entry.candidates)
        ):
            now = None
    return now


def begun(entries: Iterable[ledger.Entry], line: ledger.Rollout) -> ledger.Rollout:
    """The line with which the rollout of this one began."""
    same = [e for e in entries if isinstance(e, ledger.Rollout) and e.digest == line.digest and e.action == "begun"]
    return same[-1]


def tried(entries: Iterable[ledger.Entry]) -> dict[int, str]:
    """Number -> digest of what was ever tried: log rows carry that name, no other bytes may."""
    return {entry.version: entry.digest for entry in entries if isinstance(entry, ledger.Rollout)}


def judge(look: Look, line: ledger.Rollout, rules: Rules) -> Judged:
    """What harms ends it at once; what is missing keeps it where it is, and ends it after rules.expire_hours."""
    warnings = tuple(_thumbs(look, rules))
    if look.broken:
        return Judged("failure", (f"it cannot serve: {look.broken}",), warnings)
    shares = {fault: _strata(look.requests, fault, rules.slow_times) for fault in FAULTS}
    worse = [why for fault in FAULTS if (why := _worse(fault, shares[fault], rules))]
    if stats.e_process_harm(look.lost, look.won, level=rules.level):
        worse.append(f"{look.lost} labelled requests lost and {look.won} won against the champion: it is shown to be worse")
    if worse:
        return Judged("failure", tuple(worse), warnings)
    missing = [*_missing(look, line, rules), *_both_ill(shares, rules)]
    if missing:
        expired = _hours(look, line) >= rules.expire_hours
        return Judged("inconclusive", tuple(missing), warnings, expired=expired)
    return Judged("success", (f"{look.told()}: no harm is shown",), warnings)


def following(line: ledger.Rollout, judged: Judged, rules: Rules, at: str) -> ledger.Rollout | None:
    """The line that a look brings; None where the step goes on."""
    why = judged.told()[: ledger.MOST_REASON]
    if judged.outcome == "failure":
        return line.model_copy(update={"at": at, "action": "ended", "outcome": "failed", "why": why})
    if judged.expired:
        return line.model_copy(update={"at": at, "action": "ended", "outcome": "expired", "why": why})
    if judged.outcome == "inconclusive":
        return None
    higher = [step for step in rules.steps if step.weight > line.weight]
    if not higher:
        return line.model_copy(update={"at": at, "action": "passed", "why": why})
    step = {"step": line.step + 1, "weight": higher[0].weight, "hours": higher[0].hours}
    return line.model_copy(update={"at": at, "action": "stepped", "why": why, **step})


# --- what harms


Stratum = tuple[int, int, int, int]  # of one block: challenger's faults, its requests, champion's faults, its requests


def _strata(requests: Sequence[Request], fault: str, slow_times: float) -> list[Stratum]:
    """The blocks in which both answered; of `slow` only requests that were answered count."""
    found, rows = [], sorted(requests, key=lambda request: request.at)
    for start in range(0, len(rows), BLOCK):
        block = [row for row in rows[start : start + BLOCK] if fault != "slow" or row.seconds is not None]
        arms: dict[str, list[Request]] = {arm: [r for r in block if r.arm == arm] for arm in ("challenger", "champion")}
        if all(arms.values()):
            limit = slow_times * median(r.seconds or 0 for r in arms["champion"])
            bad = {arm: sum(_has(r, fault, limit) for r in of) for arm, of in arms.items()}
            found.append((bad["challenger"], len(arms["challenger"]), bad["champion"], len(arms["champion"])))
    return found


def _has(request: Request, fault: str, limit: float) -> bool:
    return {"failed": request.failed, "invalid": request.invalid, "slow": (request.seconds or 0) > limit}[fault]


def _shares(strata: Sequence[Stratum]) -> tuple[float, float]:
    """(challenger's, champion's), the champion's weighted by where the challenger's requests lie."""
    n = sum(stratum[1] for stratum in strata)
    if not n:
        return 0.0, 0.0
    return sum(s[0] for s in strata) / n, sum(s[1] * s[2] / s[3] for s in strata) / n


def _worse(fault: str, strata: Sequence[Stratum], rules: Rules) -> str | None:
    ours, theirs = _shares(strata)
    if ours - theirs <= getattr(rules.faults, fault) or stats.stratified_p(strata) >= rules.fault_level:
        return None
    n = sum(stratum[1] for stratum in strata)
    return f"{ours:.1%} of its {n} requests {WORDS[fault]}, {theirs:.1%} of the champion's at the same time"


def _thumbs(look: Look, rules: Rules) -> list[str]:
    """Who cares to say so is no sample: this only warns."""
    (up, n), (other_up, other_n) = look.thumbs.get("challenger", (0, 0)), look.thumbs.get("champion", (0, 0))
    if not n or not other_n or up / n >= other_up / other_n or stats.fall_p(up, n, other_up, other_n) >= rules.level:
        return []
    return [f"warning: thumbs up on {up} of {n} answers, on {other_up} of {other_n} of the champion's"]


# --- what is missing


def _hours(look: Look, line: ledger.Rollout) -> float:
    return (look.at - parse_time(line.at)).total_seconds() / 3600


def _missing(look: Look, line: ledger.Rollout, rules: Rules) -> list[str]:
    hours, found = _hours(look, line), []
    if hours < line.hours:
        found.append(f"{hours:.1f} of {line.hours:g} hours are over")
    arms: tuple[Arm, ...] = ("challenger", "champion")
    for arm in arms:
        times = [request.at for request in look.requests if request.arm == arm]
        if len(times) < rules.min_requests:
            found.append(f"{len(times)} requests of the {arm}, {rules.min_requests} are needed")
        elif hours >= line.hours > 0 and max(times) < look.at.timestamp() - LAST * line.hours * 3600:
            found.append(f"no request of the {arm} in the last {LAST * line.hours:g} hours: the traffic has stopped")
    if look.labels < rules.min_labels:
        found.append(f"{look.labels} labelled requests that both answered, {rules.min_labels} are needed")
    return found


def _both_ill(shares: dict[str, list[Stratum]], rules: Rules) -> list[str]:
    """Where the challenger has more faults than are allowed, and so has the champion: that is not the time to go on."""
    found = []
    for fault in ("failed", "invalid"):
        ours, theirs = _shares(shares[fault])
        if ours > getattr(rules.faults, fault):
            found.append(
                f"{ours:.1%} of its requests {WORDS[fault]}, and {theirs:.1%} of the champion's: it is not blamed, and waits"
            )
    return found
