"""How good the answers of a window were, as far as anybody knows."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pandas as pd


class Quality(BaseModel):
    """Shares in [0, 1], latency in ms; None where nothing is known (its n is 0), never a zero that looks like a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows: int
    satisfaction: float | None  # +1 among rows with feedback
    feedback: int
    accuracy: float | None  # right among audited rows
    audited: int
    accuracy_low: float | None  # Wilson, 95 %
    accuracy_high: float | None
    latency_p50: float | None
    latency_p95: float | None
    confidence: float | None
    blank: float | None  # share of blank responses


def measure(frame: "pd.DataFrame") -> Quality:
    """Quality of one window's rows (LogRecord columns)."""
    feedback = frame["feedback"].dropna()
    labels = frame.dropna(subset=["audit_label"])
    right = int((labels["response"].fillna("").str.strip() == labels["audit_label"].str.strip()).sum())
    low, high = _wilson(right, len(labels))
    latency, confidence = frame["latency_ms"].dropna(), frame["confidence"].dropna()
    return Quality(
        rows=len(frame),
        satisfaction=float((feedback > 0).mean()) if len(feedback) else None,
        feedback=len(feedback),
        accuracy=right / len(labels) if len(labels) else None,
        audited=len(labels),
        accuracy_low=low,
        accuracy_high=high,
        latency_p50=float(latency.quantile(0.5)) if len(latency) else None,
        latency_p95=float(latency.quantile(0.95)) if len(latency) else None,
        confidence=float(confidence.mean()) if len(confidence) else None,
        blank=float((frame["response"].fillna("").str.strip() == "").mean()) if len(frame) else None,
    )


def _wilson(right: int, n: int) -> tuple[float | None, float | None]:
    if not n:
        return None, None
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, method="wilson")
    return float(low), float(high)
