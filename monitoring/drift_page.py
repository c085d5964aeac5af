"""Evidently's page of a window: the distributions of its sample, under the figures that `drift` has found."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitoring import page
from monitoring.counting import Kind
from monitoring.topics import DERIVED

if TYPE_CHECKING:
    from monitoring.drift import ColumnDrift, DriftReport

Pairs = Mapping[str, Any]  # column -> its usable values in the samples of reference and window, null where there is none


def write(report: "DriftReport", kinds: Mapping[str, Kind], pairs: Pairs, html: Path) -> None:
    """Evidently's page of the sample's distributions, under the figures of this report; no page where it can draw no column."""
    drawn = [column for column in _ordered(report) if column.value is not None]
    try:
        made = _snapshot(drawn, kinds, pairs)
    except Exception:  # Evidently loses a whole report to one column: what it cannot draw is left out
        drawn = [column for column in drawn if _draws(column, kinds, pairs)]
        made = _snapshot(drawn, kinds, pairs)
    made.save_html(str(html))
    html.write_text(page.packed(html.read_text("utf-8"), "Drift report", summary(report)), "utf-8")


def _draws(column: "ColumnDrift", kinds: Mapping[str, Kind], pairs: Pairs) -> bool:
    try:
        _snapshot([column], kinds, pairs)
    except Exception:  # whatever it is, the column is not drawn, and its figure stands
        return False
    return True


def _snapshot(columns: "list[ColumnDrift]", kinds: Mapping[str, Kind], pairs: Pairs) -> Any:
    """Evidently's run over the sample; each column shows the distance that is already known, and is not computed again."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    by_kind = {kind: [c.column for c in columns if kinds[c.column] == kind] for kind in ("text", "category", "number")}
    definition = DataDefinition(
        text_columns=by_kind["text"], categorical_columns=by_kind["category"], numerical_columns=by_kind["number"]
    )
    frames = [
        Dataset.from_pandas(
            pd.DataFrame({c.column: pairs[c.column][now].reset_index(drop=True) for c in columns}), data_definition=definition
        )
        for now in (1, 0)
    ]
    metrics = [ValueDrift(column=c.column, method=_known(c), threshold=c.threshold) for c in columns]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Maximum number of iteration reached")
        return Report(metrics).run(*frames)


def _known(column: "ColumnDrift") -> str:
    """Name of a method, registered with Evidently, that gives the value of this column as it was found over all rows."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    sampled = column.column in DERIVED or column.method == "abs_text_content_drift"
    words = f"{column.how}, {'of the sample' if sampled else 'of all rows'}"
    name, value, types = (
        f"retrain {column.column}",
        column.value,
        [ColumnType.Numerical, ColumnType.Categorical, ColumnType.Text],
    )
    drifted = column.status == "drift"
    register_stattest(StatTest(name, words, types, column.threshold), lambda _r, _c, _t, _limit: (value, drifted))
    return name


def _ordered(report: "DriftReport") -> "list[ColumnDrift]":
    """What drifted comes first."""
    return sorted(report.columns, key=lambda column: ("drift", "no_drift", "not_computable").index(column.status))


def _because(column: "ColumnDrift") -> str:
    return f" ({column.reason})" if column.reason else ""


def summary(report: "DriftReport") -> list[str]:
    """What stands above Evidently's charts: sentences."""
    words = report.status.replace("_", " ")
    return [
        f"{report.rows:,} rows: {words}",
        *(f"Logging broken: {alarm}" for alarm in report.broken),
        *(f"Grew: {change.words}" for change in report.changed),
        *(
            f"{c.column} ({c.how}): {c.status.replace('_', ' ')}, {c.value:.3f}, threshold {c.threshold:g}{_because(c)}"
            if c.value is not None
            else f"{c.column} ({c.method}): not computable, {c.reason}"
            for c in _ordered(report)
        ),
        "Charts are of a sample; distances of numbers and categories are of all rows.",
    ]
