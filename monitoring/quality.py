"""How good the answers of a window were, as far as anybody knows: counted in the log store's engine.

Only labels that were known `lag` after the window's end count, for window and reference alike, so that an old window with
time to collect complaints is never compared with a young one without.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from retrain import answers

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.sources import Rows
    from monitoring.sources.engines import Engine

BETWEEN = "\x1f"  # of an answer and its label where both are one text


class Quality(BaseModel):
    """Shares in [0, 1], latency in ms; None where nothing is known (its n is 0), never a zero that looks like a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows: int
    known: bool  # False: labels may still come that count for this window
    satisfied: int  # +1 ...
    feedback: int  # ... among rows with feedback
    right: int  # ... among audited rows
    audited: int
    accuracy_low: float | None  # Wilson, 95 %
    accuracy_high: float | None
    latency_p50: float | None
    latency_p95: float | None
    confidence: float | None
    blank: float | None  # share of blank responses
    invalid: float | None  # share of responses that break the form: no listed label, or cut off at the length limit
    relevance: float | None  # mean cosine of prompt and response on the sample (static sentence vectors)
    estimated_accuracy: float | None  # without labels, from confidence; see `Calibration`
    slices: dict[str, dict[str, int]] = {}  # "column=value" -> right, audited, rows

    @property
    def satisfaction(self) -> float | None:
        return self.satisfied / self.feedback if self.feedback else None

    @property
    def accuracy(self) -> float | None:
        return self.right / self.audited if self.audited else None


class Calibration:
    """Confidence -> probability of being right: isotonic regression on the reference's audited rows.

    The mean over a window estimates its accuracy without labels (confidence-based performance estimation, as NannyML's
    CBPE; it assumes that what a confidence means has not changed, so drift itself can fool it: it is shown, with how far
    it was off, and violates nothing).
    """

    LEAST = 60  # audited reference rows with a confidence

    def __init__(self, confidence: Sequence[float], right: Sequence[bool]) -> None:
        from sklearn.isotonic import IsotonicRegression

        self.model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(confidence, [float(r) for r in right])

    @classmethod
    def of(cls, reference: "Rows", schema: answers.Schema | None = None) -> "Calibration | None":
        """From the reference's audited rows; None where they are too few."""
        judged = reference.where(lambda t: t.audit_label.notnull() & t.confidence.notnull())
        frame = judged.frame(["confidence", "response", "audit_label"])
        pairs = zip(frame["response"].fillna(""), frame["audit_label"], strict=True)
        told = [answers.right(answer, label, schema) for answer, label in pairs]
        frame = frame[[right is not None for right in told]]
        if len(frame) < cls.LEAST:
            return None
        return cls(frame["confidence"].to_numpy(), [right for right in told if right is not None])

    def estimate(self, sample: "pd.DataFrame") -> float | None:
        """Estimated share of right answers among sampled rows (LogRecord columns)."""
        known = sample["confidence"].dropna()
        return float(self.model.predict(known.to_numpy(dtype=float)).mean()) if len(known) else None


def measure(
    rows: "Rows",
    *,
    known_before: datetime,
    now: datetime,
    labels: Sequence[str] = (),
    max_new_tokens: int | None = None,
    sample: "pd.DataFrame | None" = None,
    calibration: Calibration | None = None,
    slices: Sequence[str] = (),
    schema: answers.Schema | None = None,
) -> Quality:
    """Quality of one window. `known_before`: the window's end plus quality.lag; `now` says whether that has passed.

    `labels` of a closed set, `schema` of a structured answer; `sample` (rows of the window) is what relevance and the
    estimate are taken from.
    """
    table = _judged(rows, known_before, labels, max_new_tokens, schema)
    found = _totals(table, rows.engine)
    low, high = _wilson(found["right"], found["audited"])
    n = found["rows"]
    return Quality(
        rows=n,
        known=now >= known_before,
        satisfied=found["satisfied"],
        feedback=found["feedback"],
        right=found["right"],
        audited=found["audited"],
        accuracy_low=low,
        accuracy_high=high,
        latency_p50=found["latency_p50"],
        latency_p95=found["latency_p95"],
        confidence=found["confidence"],
        blank=found["blank"] / n if n else None,
        invalid=found["invalid"] / n if n else None,
        relevance=None if sample is None else relevance(sample),
        estimated_accuracy=calibration.estimate(sample) if calibration and sample is not None else None,
        slices={key: value for column in slices for key, value in _slices(table, column, rows).items()},
    )


def relevance(sample: "pd.DataFrame") -> float | None:
    """Mean cosine of prompt and response; a label's underscores are spaces. None where nothing can be compared."""
    import numpy as np

    from retrain.text import vectors

    both = sample.dropna(subset=["prompt", "response"])
    if both.empty:
        return None
    asked = vectors(both["prompt"].tolist())
    said = vectors(both["response"].str.replace("_", " ").tolist())
    return float(np.einsum("ij,ij->i", asked, said).mean())


def audited_right(rows: "Rows", schema: answers.Schema | None) -> Any:
    """Column of bool, null where nothing can be told: whether an answer is what its audit label says, judged as the gate does.

    With a schema the values count, not their spelling: the distinct pairs of answer and label come here to be compared.
    """
    import ibis

    table = rows.expr
    answer, label = table.response.fill_null(""), table.audit_label
    if schema is None:
        return answer.strip() == label.strip()
    pairs = rows.engine.run(table.filter(label.notnull()).select(answer=answer, label=label).distinct())
    texts = list(zip(pairs["answer"], pairs["label"], strict=True))
    told = {said + BETWEEN + expected: answers.right(said, expected, schema) for said, expected in texts}
    right, unknown = ([both for both, verdict in told.items() if verdict is wanted] for wanted in (True, None))
    both = answer + BETWEEN + label
    never = ""  # no pair is blank: of an empty list Ibis makes no column
    return ibis.cases((both.isin([never, *right]), True), (both.isin([never, *unknown]), ibis.null("bool")), else_=False)


def _judged(
    rows: "Rows", known_before: datetime, labels: Sequence[str], max_new_tokens: int | None, schema: answers.Schema | None
) -> Any:
    """The rows with what is counted of each, as 0 or 1."""
    import ibis
    from ibis import _

    known = (_.feedback_at < known_before).fill_null(False)
    answer = _.response.fill_null("").strip()
    invalid = answer == ""
    if labels:
        invalid = invalid | ~answer.isin(list(labels))
    if max_new_tokens is not None and not labels:
        invalid = invalid | (_.completion_tokens >= max_new_tokens).fill_null(False)
    feedback = known & _.feedback.notnull()
    audited = known & _.audit_label.notnull() & _.is_right.notnull()
    return rows.expr.mutate(is_right=audited_right(rows, schema)).mutate(
        n_feedback=ibis.ifelse(feedback, 1, 0),
        n_satisfied=ibis.ifelse(feedback & (_.feedback > 0), 1, 0),
        n_audited=ibis.ifelse(audited, 1, 0),
        n_right=ibis.ifelse(audited & _.is_right, 1, 0),
        n_blank=ibis.ifelse(answer == "", 1, 0),
        n_invalid=ibis.ifelse(invalid, 1, 0),
    )


def _totals(table: Any, engine: "Engine") -> dict[str, Any]:
    from ibis import _

    counts = {name: _[f"n_{name}"].sum() for name in ("feedback", "satisfied", "audited", "right", "blank", "invalid")}
    numbers = {
        "latency_p50": _.latency_ms.quantile(0.5),
        "latency_p95": _.latency_ms.quantile(0.95),
        "confidence": _.confidence.mean(),
    }
    row = engine.run(table.aggregate(rows=_.count(), **counts, **numbers)).iloc[0]
    whole = {name: int(row[name]) if row[name] == row[name] and row[name] is not None else 0 for name in ("rows", *counts)}
    return whole | {name: float(row[name]) if row[name] is not None and row[name] == row[name] else None for name in numbers}


def _slices(table: Any, column: str, rows: "Rows") -> dict[str, dict[str, int]]:
    """Counts for each value of a column, as it may be kept: values that only differ in what may not are one."""
    from ibis import _

    by_value = table.group_by(value=_[column].cast("string"))
    counted = by_value.aggregate(rows=_.count(), audited=_.n_audited.sum(), right=_.n_right.sum())
    found = rows.engine.run(counted.order_by(_.rows.desc(), "value").limit(50)).to_dict("records")
    slices: dict[str, Counter[str]] = {}
    for row, value in zip(found, rows.private([str(row["value"]) for row in found]), strict=True):
        if value is not None:
            told = {name: int(row[name]) for name in ("rows", "audited", "right")}
            slices.setdefault(f"{column}={value}", Counter()).update(told)
    return {key: dict(told) for key, told in slices.items()}


def _wilson(right: int, n: int) -> tuple[float | None, float | None]:
    if not n:
        return None, None
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right, n, method="wilson")
    return float(low), float(high)
