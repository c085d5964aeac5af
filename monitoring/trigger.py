"""PURE: the last n windows and the policy -> fire or hold, always with reasons.

Fires when at least k of the last n windows violate and the newest does (the rule of databricks' mlops-stacks), and when
there is something to learn from and enough unread audited rows to judge what was learned.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retrain.params import Trigger
from retrain.records import Record

ROUNDING = 1e-9  # 0.8 - 0.7 is a little more than 0.1


class WindowRecord(Record):
    """One measured window as MLflow keeps it; `start` and `end` are stamps, `version` the champion that served."""

    adapter: str
    start: str
    end: str
    rows: int
    drift_status: str
    drifted: list[str]
    satisfaction: float | None = None
    accuracy: float | None = None
    audited: int
    violations: list[str]
    version: int | None = None
    fire: bool
    reasons: list[str]
    new_labels: dict[str, int] = {}  # rows since the last retraining whose correction the adapter does not list


class TriggerDecision(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    fire: bool
    purpose: Literal["improve"] | None
    reasons: list[str]


def violations(
    *,
    drift_status: str,
    drifted: Sequence[str],
    satisfaction: float | None,
    accuracy: float | None,
    reference_satisfaction: float | None,
    reference_accuracy: float | None,
    policy: Trigger,
) -> list[str]:
    """What is wrong with a window, in words; empty where nothing is, or nothing can be told.

    Broken logging violates nothing: what is computed from missing values tells about the logging, not about the champion.
    """
    if drift_status == "logging_broken":
        return []
    found = ["drift: " + ", ".join(drifted)] if drift_status == "drift" else []
    for name, now, before, most in (
        ("satisfaction", satisfaction, reference_satisfaction, policy.satisfaction_drop),
        ("accuracy on the audit sample", accuracy, reference_accuracy, policy.accuracy_drop),
    ):
        if now is not None and before is not None and before - now > most + ROUNDING:
            found.append(f"{name} fell from {before:.0%} to {now:.0%}, {most:.0%} allowed")
    return found


def decide(
    history: Sequence[WindowRecord], *, policy: Trigger, new_failures: int, unread_audit: int, champion: int | None
) -> TriggerDecision:
    """history: oldest first, the window to decide on last; counts are rows. Pure, raises nothing.

    Only windows that today's champion served count, and of these only what tells something: a window with broken logging,
    or with too little data and no violation, is passed over, so that it neither fires nor pushes a violation out of the last n.
    """
    newest = history[-1]
    if champion is None:
        return _hold(f"no champion yet: run `retrain repro {newest.adapter}` and `retrain promote {newest.adapter}`")
    if newest.drift_status == "logging_broken":
        return _hold("logging is broken: too many values are missing; this is no drift and trains nothing")
    if newest.version != champion:
        return _hold(
            f"the newest window was served by {_named(newest.version)}, the champion is v{champion}: it does not count"
        )
    served = [record for record in history if record.version == champion]
    last = [record for record in served if _tells(record)][-policy.windows :]
    violating = sum(1 for record in last if record.violations)
    seen = _seen(violating, len(last), len(served) - sum(map(_tells, served)), policy, champion)
    if not newest.violations:
        return _hold(_why_not(newest), seen)
    if violating < policy.violations:
        return _hold(*newest.violations, f"but {seen}")
    return _with_rows(newest, seen, policy, new_failures, unread_audit)


def _with_rows(newest: WindowRecord, seen: str, policy: Trigger, new_failures: int, unread_audit: int) -> TriggerDecision:
    """Fire if there are rows to learn from and rows to judge by; otherwise how many to label of each."""
    short = []
    if new_failures < policy.min_failures:
        missing = policy.min_failures - new_failures
        short.append(f"but only {new_failures} new labelled failures: label {missing} more")
    if unread_audit < policy.min_audit:
        missing = policy.min_audit - unread_audit
        short.append(f"but only {unread_audit} unread audited rows can judge: label {missing} more")
    if short:
        return _hold(*newest.violations, seen, *short)
    enough = f"{new_failures} new labelled failures, {unread_audit} unread audited rows"
    return TriggerDecision(fire=True, purpose="improve", reasons=[*newest.violations, seen, enough])


def _tells(record: WindowRecord) -> bool:
    """Whether a window is a violation or a clearance at all."""
    if record.drift_status == "logging_broken":
        return False
    return bool(record.violations) or record.drift_status not in ("not_enough_data", "not_computable")


def _why_not(newest: WindowRecord) -> str:
    if _tells(newest):
        return "the newest window does not violate (no drift, no loss of quality)"
    status = newest.drift_status.replace("_", " ")
    return f"the newest window does not violate, nor does it clear (nothing could be told: {status})"


def _seen(violating: int, told: int, untold: int, policy: Trigger, champion: int) -> str:
    windows, verb = "window" if told == 1 else "windows", "violates" if violating == 1 else "violate"
    needed = f"{policy.violations} {'is' if policy.violations == 1 else 'are'} needed"
    passed = f" ({untold} more could not be told and {'does' if untold == 1 else 'do'} not count)" if untold else ""
    return f"{violating} of the last {told} {windows} of v{champion} {verb}, {needed}{passed}"


def _named(version: int | None) -> str:
    return "no champion" if version is None else f"v{version}"


def _hold(*reasons: str) -> TriggerDecision:
    return TriggerDecision(fire=False, purpose=None, reasons=list(reasons))
