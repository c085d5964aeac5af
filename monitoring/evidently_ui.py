"""A project for each adapter in an Evidently workspace, with panels over time, from the records of its windows.

A run of it holds the figures of one window: Evidently makes a series a field of a custom metric, so each figure is a column
of one row and its mean the figure. Ids follow from the content: writing it again adds nothing twice.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring.chronicle import OUTPUTS, Seen
from retrain.records import dumps, read_json, text_digest

DRIFTS = "threshold"  # a line in the panels of drift
ESTIMATES = UNLABELLED, BY_JUDGE = "accuracy, estimated without labels", "accuracy, by the LLM judge"
SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "retrain-loop")


def project_id(adapter: str) -> str:
    return str(uuid.uuid5(SPACE, adapter))


def add_to_workspace(folder: Path, adapter: str, windows: Sequence[Seen]) -> int:
    """Bring the adapter's project in line with these windows; how many runs were written. Runs of older windows stay."""
    from evidently.sdk.models import ProjectModel
    from evidently.ui.workspace import Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace, project = Workspace.create(str(folder)), project_id(adapter)
    workspace.add_project(ProjectModel(id=project, name=adapter, description="figures of each measured window"))
    columns = sorted({column.name for window in windows for column in window.columns})
    estimates = sorted({name for window in windows for name in _figures(window) if name in ESTIMATES})
    workspace.save_dashboard(uuid.UUID(project), _dashboard(adapter, columns, estimates))
    snapshots = folder / project / "snapshots"
    known = {path.stem for path in snapshots.glob("*.json")}
    written = 0
    for window in windows:
        run, figures = str(uuid.uuid5(SPACE, f"{adapter} {window.start} {window.end}")), _figures(window)
        told = text_digest(dumps(figures))
        if run in known and read_json(snapshots / f"{run}.json")["metadata"].get("figures") == told:
            continue
        workspace.state.write_snapshot(project, run, _snapshot(window.key, window.end, figures, told).to_snapshot_model())
        written += 1
    return written


def _figures(window: Seen) -> dict[str, float]:
    """Column -> number; what is not known is absent, so that its line has a gap."""
    record = window.record
    low, high = window.interval if window.interval and window.accuracy is not None else (None, None)
    judged = record.get("judge") or {}
    found = {
        "accuracy": window.accuracy, "accuracy, low end": low, "accuracy, high end": high,
        UNLABELLED: record.get("estimated_accuracy"), BY_JUDGE: judged.get("share"),
        "satisfaction": window.satisfaction,
        "relevance": record.get("relevance"), "messages": record["rows"], "violations": len(record["violations"]),
        "fire": record["fire"], **{f"drift of {column.name}": column.ratio for column in window.columns},
    }  # fmt: skip
    found |= {DRIFTS: 1.0} if any(column.ratio is not None for column in window.columns) else {}
    return {name: float(value) for name, value in found.items() if value is not None}


def _snapshot(name: str, end: datetime, figures: Mapping[str, float], told: str) -> Any:
    """`end` is aware: one naive time among aware ones breaks every series of a project."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import MeanValue

    frame = pd.DataFrame([dict(figures)])
    dataset = Dataset.from_pandas(frame, data_definition=DataDefinition(numerical_columns=list(figures)))
    report = Report([MeanValue(column=column) for column in figures], metadata={"figures": told})
    return report.run(dataset, None, timestamp=end, name=f"window {name}")


def _legend(name: str) -> str:
    """A figure's name beside the title of its panel: a long one takes the room of a small panel's lines."""
    return name.removeprefix("drift of ").removeprefix("accuracy, estimated ").removeprefix("accuracy, ")


def _dashboard(adapter: str, columns: Sequence[str], estimates: Sequence[str]) -> Any:
    """One tab; ids follow from the adapter, so that a rebuilt workspace is the same one."""
    from evidently.sdk.models import DashboardModel, DashboardTabModel, PanelMetric
    from evidently.sdk.panels import line_plot_panel

    def panel(title: str, names: Sequence[str], size: str) -> Any:
        values = [PanelMetric(legend=_legend(name), metric="MeanValue", metric_labels={"column": name}) for name in names]
        made = line_plot_panel(title=title, values=values, size=size)
        made.id = uuid.uuid5(SPACE, f"{adapter} {title}")
        return made

    accuracy = ["accuracy", "accuracy, low end", "accuracy, high end"]
    sent, answered = [c for c in columns if c not in OUTPUTS], [c for c in columns if c in OUTPUTS]
    panels = [
        panel("Right answers on the audit sample, with interval", accuracy, "full"),
        panel(
            "Drift of what users send, by threshold (above 1 is drift)",
            [*(f"drift of {name}" for name in sent), DRIFTS],
            "full",
        ),
        panel(
            "Drift of what it answers, by threshold (above 1 is drift)",
            [*(f"drift of {name}" for name in answered), DRIFTS],
            "full",
        ),
        panel("Satisfaction", ["satisfaction"], "half"),
        panel("Messages", ["messages"], "half"),
        panel("Fires and violations", ["fire", "violations"], "half"),
        *([panel("Accuracy, estimated", estimates, "half")] if estimates else []),
    ]
    tab = DashboardTabModel(id=uuid.uuid5(SPACE, f"{adapter} tab"), title="windows", panels=[made.id for made in panels])
    return DashboardModel(tabs=[tab], panels=panels)
