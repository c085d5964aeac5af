"""PURE: the last n windows and the policy -> fire or hold, always with reasons.

Fires when at least k of the last n windows violate and the newest does (the rule of databricks' mlops-stacks), and when
there is something to learn from and enough unread audited rows to judge what was learned.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retrain.params import Trigger
from retrain.records import Record


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
    """What is wrong with a window, in words; empty where nothing is, or nothing can be told."""
    found = ["drift: " + ", ".join(drifted)] if drift_status == "drift" else []
    for name, now, before, most in (
        ("satisfaction", satisfaction, reference_satisfaction, policy.satisfaction_drop),
        ("accuracy on the audit sample", accuracy, reference_accuracy, policy.accuracy_drop),
    ):
        if now is not None and before is not None and before - now > most:
            found.append(f"{name} fell from {before:.0%} to {now:.0%}, {most:.0%} allowed")
    return found


def decide(
    history: Sequence[WindowRecord], *, policy: Trigger, new_failures: int, unread_audit: int, champion: int | None
) -> TriggerDecision:
    """history: oldest first, the window to decide on last; only windows that today's champion served count."""
    newest = history[-1]
    if champion is None:
        return _hold(f"no champion yet: run `retrain repro {newest.adapter}` and `retrain promote {newest.adapter}`")
    if newest.drift_status == "logging_broken":
        return _hold("logging is broken: too many values are missing; this is no drift and trains nothing")
    last = [record for record in history if record.version == champion][-policy.windows :]
    violating = sum(1 for record in last if record.violations)
    seen = f"{violating} of the last {len(last)} windows of v{champion} violate, {policy.violations} are needed"
    told = (
        f"nothing could be told: {newest.drift_status.replace('_', ' ')}" if _untold(newest) else "no drift, no loss of quality"
    )
    if not newest.violations:
        return _hold(f"the newest window does not violate ({told})", seen)
    if violating < policy.violations:
        return _hold(*newest.violations, f"but {seen}")
    if new_failures < policy.min_failures:
        missing = policy.min_failures - new_failures
        return _hold(*newest.violations, seen, f"but only {new_failures} new labelled failures: label {missing} more")
    if unread_audit < policy.min_audit:
        missing = policy.min_audit - unread_audit
        return _hold(*newest.violations, seen, f"but only {unread_audit} unread audited rows can judge: label {missing} more")
    enough = f"{new_failures} new labelled failures, {unread_audit} unread audited rows"
    return TriggerDecision(fire=True, purpose="improve", reasons=[*newest.violations, seen, enough])


def _untold(record: WindowRecord) -> bool:
    return record.drift_status in ("not_enough_data", "not_computable")


def _hold(*reasons: str) -> TriggerDecision:
    return TriggerDecision(fire=False, purpose=None, reasons=list(reasons))
