"""Made-up window records, and what the shipped policy decides on them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from monitoring.planner import bar
from monitoring.trigger import Compared, TriggerDecision, WindowRecord, decide, violations
from retrain import params as params_
from retrain.policies import Facts
from retrain.records import stamp

PARAMS = params_.load(".")
POLICY = PARAMS.trigger
BAD = ["drift: topic 0.30 > 0.21"]
START = datetime(2026, 3, 1, tzinfo=UTC)


def day(n: float) -> str:
    return stamp(START + timedelta(days=n))


def window(n: int, kind: str = "quiet", **changes: Any) -> WindowRecord:
    """The window of day n, which ends where n + 1 begins; a kind that is no word here is a drift status."""
    bad = kind == "bad"
    status = {"quiet": "no_drift", "bad": "drift", "pending": "no_drift"}.get(kind, kind)
    given: dict[str, Any] = {
        "adapter": "support", "start": day(n), "end": day(n + 1), "rows": 320, "drift_status": status, "drifted": [],
        "audited": 90, "violations": BAD if bad else [], "version": 1, "fire": False, "reasons": [],
        "known": kind != "pending",
    }  # fmt: skip
    return WindowRecord(**{**given, **changes})


def windows(*kinds: str) -> list[WindowRecord]:
    return [window(n, kind) for n, kind in enumerate(kinds)]


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {
        "at": START, "champion": 1, "trained": day(0), "new_failures": 40, "unread_audit": 120, "audit_wrong": 0.25,
        "bar": bar(PARAMS),
    }  # fmt: skip
    return Facts(**{**given, **changes})


def policy(*settings: str) -> params_.Trigger:
    return PARAMS.other_trigger({}, tuple(f"trigger.{setting}" for setting in settings), "test")


def decided(*kinds: str, rules: params_.Trigger = POLICY, **changes: Any) -> TriggerDecision:
    return decide(windows(*kinds), policy=rules, facts=facts(**changes))


def said(decision: TriggerDecision) -> str:
    return "; ".join(decision.reasons)


def share(good: int, n: int, reference_good: int = 900, reference_n: int = 1000, signal: Any = "accuracy") -> Compared:
    return Compared(signal=signal, good=good, n=n, reference_good=reference_good, reference_n=reference_n)


def found(*compared: Compared, status: str = "no_drift", drifted: list[str] | None = None) -> list[str]:
    return violations(drift_status=status, drifted=drifted or [], compared=compared, policy=POLICY)
