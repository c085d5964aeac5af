"""PURE: the recorded windows, the facts and the policy -> fire or hold, always with reasons.

Two roads lead to a retraining: `improve` (the newest window violates, and the policies of evidence agree) and `replace` (the
champion is older than max_age allows). Either then has to pass the policies that hold back any start, the rule that an
incident opens one retraining, and the planner: without the audited rows that could show the effect, no training is started.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from monitoring.judge import ROUNDING, Judged, judged_fall
from monitoring.planner import judgeable
from retrain import stats
from retrain.params import Trigger
from retrain.policies import Answer, Case, Facts, MaxAge, Purpose
from retrain.records import Record, from_stamp

UNTOLD = ("not_enough_data", "not_computable", "logging_broken")
Signal = Literal["accuracy", "satisfaction"]
WORDS: dict[Signal, str] = {"accuracy": "accuracy on the audit sample", "satisfaction": "satisfaction"}


class Compared(BaseModel):
    """A share of the window beside the reference's, as counts: `good` of `n` rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    signal: Signal
    good: int
    n: int
    reference_good: int
    reference_n: int


class WindowRecord(Record):
    """One measured window as MLflow keeps it; `start` and `end` are stamps, `version` the champion that served."""

    adapter: str
    start: str
    end: str
    rows: int
    counts: dict[str, int] = {}  # rows read, used, duplicates, quarantined, late, outside
    remeasured: bool = False  # a second measurement, with late rows or labels: it replaces the first
    backfill: bool = False
    drift_status: str
    drifted: list[str]
    columns: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    satisfaction: float | None = None
    feedback: int = 0
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    audited: int
    compared: list[Compared] = []  # what `violations` tested
    known: bool = True  # the labels are old enough to tell; until then quality neither violates nor clears
    estimated_accuracy: float | None = None
    judge: Judged | None = None  # what the LLM judge said; None where there is none
    judge_reference: Judged | None = None  # ... of the champion's first windows
    relevance: float | None = None
    invalid: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    confidence: float | None = None
    slices: dict[str, dict[str, int]] = {}  # "column=value" -> rows, audited, right
    data_checks: list[str] = []
    violations: list[str]
    version: int | None = None
    fire: bool
    purpose: Purpose | None = None  # of the retraining that it opened
    reasons: list[str]
    new_labels: dict[str, int] = {}  # rows since the last retraining whose correction the adapter does not list
    new_failures: int = 0
    suspected: int = 0  # corrections since the last retraining that look like an attack: they are no failures
    unread_audit: int = 0
    facts: Facts | None = None  # with these and `policy` the decision can be made again
    policy: dict[str, Any] = {}


class TriggerDecision(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    fire: bool
    purpose: Purpose | None
    reasons: list[str]


def measured_again(first: WindowRecord, again: WindowRecord) -> WindowRecord:
    """A second measurement, with late rows or labels: what was decided on the first stands, later decisions see the second."""
    decided = (
        *("version", "fire", "purpose", "reasons", "new_labels", "new_failures", "suspected", "unread_audit", "facts"),
        "policy",
    )
    return again.model_copy(update={"remeasured": True, **{name: getattr(first, name) for name in decided}})


# --- what violates


def violations(
    *,
    drift_status: str,
    drifted: Sequence[str],
    compared: Sequence[Compared],
    policy: Trigger,
    judged: tuple[Judged | None, Judged | None] = (None, None),
) -> list[str]:
    """What is wrong with a window, in words; empty where nothing is, or nothing can be told.

    A share violates when it fell by at least the policy's drop, and by more than chance explains at its level. With 150
    audited rows a window and a week of reference, a fall from 90 to 80 % violates in 93 % of windows. Broken logging
    violates nothing: what is computed from missing values tells about the logging, not about the champion. judged: what the
    LLM judge said of this window and of the reference; it counts only where the policy has a judge_drop.
    """
    if drift_status == "logging_broken":
        return []
    found = ["drift: " + ", ".join(drifted)] if drift_status == "drift" else []
    found += [fall for share in compared if (fall := _fall(share, policy))]
    told = judged_fall(*judged, least=policy.judge_drop, level=policy.level)
    return [*found, *([f"{told[0]}; chance alone would do this in {_rarely(told[1])} of windows"] if told else [])]


def _fall(share: Compared, policy: Trigger) -> str | None:
    if not share.n or not share.reference_n:
        return None
    now, before = share.good / share.n, share.reference_good / share.reference_n
    least = policy.accuracy_drop if share.signal == "accuracy" else policy.satisfaction_drop
    if before - now < least - ROUNDING:
        return None
    p = stats.fall_p(share.good, share.n, share.reference_good, share.reference_n)
    if p > policy.level:
        return None
    sides = f"from {before:.0%} of {share.reference_n} to {now:.0%} of {share.n}"
    return f"{WORDS[share.signal]} fell {sides}; chance alone would do this in {_rarely(p)} of windows"


def _rarely(p: float) -> str:
    return "less than 0.1 %" if p < 0.001 else f"{100 * p:.1f} %"


# --- fire or hold


def decide(history: Sequence[WindowRecord], *, policy: Trigger, facts: Facts) -> TriggerDecision:
    """history: in any order, the window to decide on last; a second measurement replaces the first. Raises nothing.

    Only windows up to that one which today's champion served count, and of these only what tells something: a window with
    broken logging, with too little data, or whose quality is not known yet, and no violation, neither violates nor clears.
    """
    windows = _up_to(history)
    newest = windows[-1]
    why = _never(newest, facts)
    if why:
        return _hold(why)
    served = [record for record in windows if record.version == facts.champion]
    told = [record for record in served if _tells(record)]
    case = Case(
        adapter=newest.adapter,
        end=from_stamp(newest.end),
        violating=tuple(bool(record.violations) for record in told),
        untold=len(served) - len(told),
        last=_last(windows[:-1], facts),
        facts=facts,
    )
    judged = told[-1] if told and _waits(newest) else newest  # what is not known yet hides nothing
    evidence = [item.says(case) for item in policy.policies if item.purpose == "improve"]
    if judged.violations and all(agrees for agrees, _ in evidence):
        said = [*judged.violations, *(why for _, why in evidence)]
        return _start("improve", _incident(told), served, case, policy, said)
    held = [*judged.violations, *_held(evidence)] if judged.violations else [_why_not(judged, newest), *_whys(evidence[:1])]
    for item in policy.policies:
        if isinstance(item, MaxAge) and facts.trained and item.says(case)[0]:
            reached = from_stamp(facts.trained) + timedelta(days=item.days)
            return _start("replace", reached, served, case, policy, [item.says(case)[1]])
    if facts.erased:
        why = "rows were erased that the champion has learned: it is to be replaced by one that has not"
        return _start("replace", from_stamp(facts.erased), served, case, policy, [why])
    return _hold(*held)


def _up_to(history: Sequence[WindowRecord]) -> list[WindowRecord]:
    """Each window once, oldest first; what a window's first measurement fired stays fired, but for the one to decide on."""
    newest = history[-1]
    found: dict[tuple[str, str], WindowRecord] = {}
    for record in history[:-1]:
        old = found.get((record.end, record.start), record)
        kept = old if old.remeasured and not record.remeasured else record
        found[record.end, record.start] = kept.model_copy(update={"fire": old.fire or record.fire})
    found.pop((newest.end, newest.start), None)
    return [*(found[key] for key in sorted(found) if key[0] <= newest.end), newest]


def _never(newest: WindowRecord, facts: Facts) -> str | None:
    """Why this window cannot start a retraining, whatever the policy."""
    if facts.champion is None:
        return f"no champion yet: run `retrain repro {newest.adapter}` and `retrain promote {newest.adapter}`"
    if newest.drift_status == "logging_broken":
        return "logging is broken: too many values are missing; this is no drift and trains nothing"
    if newest.version != facts.champion:
        served = "no champion" if newest.version is None else f"v{newest.version}"
        return f"the newest window was served by {served}, the champion is v{facts.champion}: it does not count"
    if facts.attempts and newest.end <= max(facts.attempts):
        return "this window ends before the last retraining: it is measured again, and never trains"
    if facts.newest and newest.end < facts.newest:
        return f"a newer window is recorded ({facts.newest}): this one is measured again, and counts in the next decision"
    if newest.backfill and not facts.asked:
        return "this window is a backfill: it is measured, and trains only when a person asks for it"
    return None


def _tells(record: WindowRecord) -> bool:
    """Whether a window is a violation or a clearance at all."""
    if record.drift_status == "logging_broken":
        return False
    return bool(record.violations) or (record.drift_status not in UNTOLD and record.known)


def _waits(record: WindowRecord) -> bool:
    """A window that only lacks labels which are still to come."""
    return not record.known and not record.violations and record.drift_status not in UNTOLD


def _last(before: Sequence[WindowRecord], facts: Facts) -> datetime | None:
    """The newest retraining that was opened: its attempt, or the window that fired."""
    return max((from_stamp(end) for end in (*facts.attempts, *(r.end for r in before if r.fire))), default=None)


def _incident(told: Sequence[WindowRecord]) -> datetime:
    """When the incident began that the newest telling window belongs to: the first of the violating windows that lead to it."""
    began = told[-1].start
    for record in reversed(told):
        if not record.violations:
            break
        began = record.start
    return from_stamp(began)


def _start(
    purpose: Purpose, since: datetime, served: Sequence[WindowRecord], case: Case, policy: Trigger, said: list[str]
) -> TriggerDecision:
    """Fire, unless a policy, an earlier retraining for the same reason, or the planner holds it back."""
    brakes = [item.says(case) for item in policy.policies if item.purpose is None]
    opened = _opened(since, served, case, policy)
    planned = judgeable(purpose, case.facts, policy)
    answers = [*brakes, *([opened] if opened else []), planned]
    if not all(agrees for agrees, _ in answers):
        return _hold(*said, *_held([answer for answer in answers if not answer[0]]))
    return TriggerDecision(fire=True, purpose=purpose, reasons=[*said, *_whys(answers)])


def _opened(since: datetime, served: Sequence[WindowRecord], case: Case, policy: Trigger) -> Answer | None:
    """What became of the retraining that the incident which began at `since` has opened; None where it opened none.

    One that came to no attempt has crashed or was never started: it is rung again, unless a training runs or the last ring
    is so fresh that nobody may have heard it (windows that were missed are decided one right after the other).
    """
    facts = case.facts
    fired = [r for r in served[:-1] if r.fire and from_stamp(r.end) > since]
    tried = [from_stamp(end) for end in facts.attempts if from_stamp(end) > since]
    if not fired and not tried:
        return None
    began = f"the incident that began at {since:%Y-%m-%d %H:%M}"
    last = max((from_stamp(r.end) for r in fired), default=None)
    if last and (not tried or last > max(tried)):
        opened = f"{began} has opened its retraining at {last:%Y-%m-%d %H:%M}"
        by_hand = f"`retrain repro {case.adapter} --end {last:%Y-%m-%dT%H:%M:%SZ}` starts it by hand"
        if facts.training:
            runs = f"a training runs since {facts.training:%Y-%m-%d %H:%M}"
            return False, f"{opened}; {runs}: if it died with its machine, {by_hand}"
        if _fresh(fired, served[-1], facts):
            return False, f"{opened}, which has not come to a verdict; {by_hand}"
        return True, f"{opened}, of which no attempt is recorded and no training runs: it is rung again"
    refused = f"{began} has had its retraining ({max(tried):%Y-%m-%d %H:%M}), which did not become champion"
    found, least = facts.new_failures, policy.min_new
    if found < least:
        return False, f"{refused}; {found} new labelled failures since, {least} are needed: label {least - found} more"
    return True, f"{refused}; {found} new labelled failures since open another"


def _fresh(fired: Sequence[WindowRecord], newest: WindowRecord, facts: Facts) -> bool:
    """Whether the last of these fires was decided, by the clock, less than half a window ago."""
    rung = max((r.facts.at for r in fired if r.facts), default=None)
    return rung is not None and facts.at - rung < (from_stamp(newest.end) - from_stamp(newest.start)) / 2


# --- words


def _why_not(judged: WindowRecord, newest: WindowRecord) -> str:
    if _tells(judged):
        which = "the newest window" if judged is newest else f"the newest window whose labels are known ({judged.end})"
        return f"{which} does not violate (no drift, no loss of quality)"
    status = judged.drift_status.replace("_", " ") if judged.drift_status in UNTOLD else "quality is not known yet"
    return f"the newest window does not violate, nor does it clear (nothing could be told: {status})"


def _whys(answers: Sequence[Answer]) -> list[str]:
    return [why for _, why in answers]


def _held(answers: Sequence[Answer]) -> list[str]:
    """What agrees as it is, what does not with a `but`."""
    return [why if agrees else f"but {why}" for agrees, why in answers]


def _hold(*reasons: str) -> TriggerDecision:
    return TriggerDecision(fire=False, purpose=None, reasons=list(reasons))
