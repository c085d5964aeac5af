"""The only Evidently file: a window against the champion's own traffic, by named distances with thresholds.

Evidently 0.7 loses a whole report to one column that raises, and its default test switches with the sample size: so
each column is checked before, every method is named, and the sample is fixed by the hash of the request.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from retrain import params as params_
from retrain.records import unit_hash
from retrain.text import vectors

if TYPE_CHECKING:
    import pandas as pd

INPUTS = ("prompt", "prompt_length", "novelty", "topic")  # the rest is what the champion made of them
TEXT, CATEGORY = ("prompt",), ("response", "topic")
REQUIRED = ("prompt", "response")  # their absence is broken logging
NEAREST = 3
TOPICS = 24
TOPIC_ROWS = 300  # of fewer rows, so many shares differ by chance alone: 100 quiet rows already look like drift

Status = Literal["drift", "no_drift", "not_computable"]


class ColumnDrift(BaseModel):
    """value is the distance of `method` (no unit); None with the reason where it could not be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    column: str
    method: str
    value: float | None
    threshold: float
    status: Status
    reason: str | None = None


class DriftReport(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    status: Literal["logging_broken", "not_enough_data", "not_computable", "drift", "no_drift"]
    rows: int
    missing: dict[str, float]  # share of missing or blank values, 0 to 1
    columns: list[ColumnDrift]


def measure(
    reference_inputs: "pd.DataFrame",
    reference_outputs: "pd.DataFrame | None",
    current: "pd.DataFrame",
    *,
    drift: params_.Drift,
    html: Path | None,
) -> DriftReport:
    """Compare a window's rows (LogRecord columns) with two references: `request_id, prompt` at least for the inputs."""
    missing = {column: _missing(current, column) for column in REQUIRED}
    broken = len(current) > 0 and any(share > drift.missing_max for share in missing.values())
    if len(current) < drift.min_rows and not broken:
        return DriftReport(status="not_enough_data", rows=len(current), missing=missing, columns=[])
    now, inputs = _sample(current, drift.sample), _sample(reference_inputs, drift.sample)
    outputs = None if reference_outputs is None else _sample(reference_outputs, drift.sample)
    sides = {name: (inputs if name in INPUTS else outputs, now) for name in drift.columns}
    _add_novelty(inputs, now)
    if "topic" in drift.columns:
        _add_topic(inputs, now)
    reasons = {name: _why_not(name, *sides[name], drift.min_rows) for name in drift.columns}
    values = _values([name for name, why in reasons.items() if why is None], sides, drift, html)
    columns = [_column(name, values.get(name), reasons[name], drift) for name in drift.columns]
    if broken:
        status: Any = "logging_broken"
    elif any(column.status == "drift" for column in columns):
        status = "drift"
    else:
        status = "no_drift" if any(column.status == "no_drift" for column in columns) else "not_computable"
    return DriftReport(status=status, rows=len(current), missing=missing, columns=columns)


def _missing(frame: "pd.DataFrame", column: str) -> float:
    if column not in frame or not len(frame):
        return 1.0
    return float(frame[column].map(lambda value: not isinstance(value, str) or not value.strip()).mean())


def _sample(frame: "pd.DataFrame", most: int) -> "pd.DataFrame":
    """At most so many rows, by the hash of the request, with the derived length."""
    order = sorted(range(len(frame)), key=lambda i: unit_hash(str(frame["request_id"].iloc[i]), "drift"))[:most]
    kept = frame.iloc[order].reset_index(drop=True).copy()
    kept["prompt"] = kept["prompt"].map(lambda value: value.strip() if isinstance(value, str) and value.strip() else None)
    kept["prompt_length"] = kept["prompt"].map(lambda text: float(len(text)) if text else None)
    return kept


def _add_novelty(reference: "pd.DataFrame", current: "pd.DataFrame") -> None:
    """How far each prompt is from what the champion's users asked: 1 - mean cosine of the three nearest reference prompts.

    The text classifier behind abs_text_content_drift sees little in windows of a few hundred rows; this sees more. A
    reference prompt is not its own neighbour, and copies do not count on either side.
    """
    import numpy as np

    known = vectors(sorted(set(reference["prompt"].dropna())))
    if len(known) <= NEAREST:
        return
    for frame in (reference, current):
        near = vectors(list(frame["prompt"].fillna(""))) @ known.T
        near[near > 0.9999] = -1.0
        novelty = 1.0 - np.sort(near, axis=1)[:, -NEAREST:].mean(axis=1)
        frame["novelty"] = [float(v) if text else None for v, text in zip(novelty, frame["prompt"], strict=True)]


def _add_topic(reference: "pd.DataFrame", current: "pd.DataFrame") -> None:
    """Which of 24 clusters a prompt falls in, found on both sides together: new wording gets a cluster of its own.

    Clusters of the reference alone have no place for what is new, and saw a third of the shifted windows.
    """
    import numpy as np
    from sklearn.cluster import KMeans

    sides = [vectors(list(frame["prompt"].dropna())) for frame in (reference, current)]
    if min(map(len, sides)) < TOPIC_ROWS:
        return
    both = np.vstack(sides)
    count = min(TOPICS, len(np.unique(both, axis=0)))
    found = KMeans(count, random_state=0, n_init=1).fit_predict(both)
    for frame, topics in ((reference, found[: len(sides[0])]), (current, found[len(sides[0]) :])):
        frame["topic"] = None
        frame.loc[frame["prompt"].notna(), "topic"] = [f"topic {n}" for n in topics]


def _why_not(name: str, reference: "pd.DataFrame | None", current: "pd.DataFrame", least: int) -> str | None:
    """Why a column cannot be compared; None where it can."""
    if reference is None:
        return "the champion has no window of its own yet"
    for side, frame in (("reference", reference), ("window", current)):
        if name == "topic" and name not in frame:
            return f"topics need {TOPIC_ROWS} prompts on both sides"
        usable = len(_usable(frame, name))
        if usable < least:
            return f"{usable} usable values in the {side}, {least} are needed (drift.min_rows)"
    values = {*_usable(reference, name), *_usable(current, name)}
    return "constant: one value on both sides" if len(values) == 1 else None


def _usable(frame: "pd.DataFrame", name: str) -> Any:
    """Values of a column that can be compared: numbers finite, text not blank."""
    import numpy as np
    import pandas as pd

    if name not in frame:
        return pd.Series([], dtype=object)
    if name in TEXT or name in CATEGORY:
        column = frame[name].map(lambda value: value.strip() if isinstance(value, str) and value.strip() else None)
        return column.dropna()
    return pd.to_numeric(frame[name], errors="coerce").replace([np.inf, -np.inf], np.nan).dropna().astype(float)


def _values(names: list[str], sides: dict[str, Any], drift: params_.Drift, html: Path | None) -> dict[str, float]:
    """Evidently's distance for each column, and its HTML report on the sample."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    if not names:
        return {}
    numbers = [name for name in names if name not in (*TEXT, *CATEGORY)]
    definition = DataDefinition(
        text_columns=[name for name in names if name in TEXT],
        categorical_columns=[name for name in names if name in CATEGORY],
        numerical_columns=numbers,
    )
    frames = [
        pd.DataFrame({name: _usable(sides[name][side], name).reset_index(drop=True) for name in names}) for side in (0, 1)
    ]
    rules = [drift.columns[name] for name in names]
    metrics = [ValueDrift(column=n, method=r.method, threshold=r.threshold) for n, r in zip(names, rules, strict=True)]
    reference, current = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)
    with warnings.catch_warnings():  # a text classifier that has not converged is still the distance that was asked for
        warnings.filterwarnings("ignore", message="Maximum number of iteration reached")
        snapshot = Report(metrics).run(current_data=current, reference_data=reference)
    if html is not None:
        snapshot.save_html(str(html))
    found = [metric["value"] for metric in snapshot.dict()["metrics"]]
    return dict(zip(names, map(float, found), strict=True))


def _column(name: str, value: float | None, reason: str | None, drift: params_.Drift) -> ColumnDrift:
    rule = drift.columns[name]
    status: Status = "not_computable" if value is None else "drift" if value > rule.threshold else "no_drift"
    return ColumnDrift(column=name, method=rule.method, value=value, threshold=rule.threshold, status=status, reason=reason)
