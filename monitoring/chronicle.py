"""What the pages tell, as plain values: windows as they were recorded, the events of the story, and how to say a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from retrain import ledger, stats
from retrain.records import from_stamp, parse_time, stamp
from retrain.registry import Run

OUTPUTS = ("response", "confidence", "latency_ms")  # columns that the champion makes; the others are what users send


@dataclass(frozen=True)
class Column:
    """The drift of one column in one window; value is None where it was not computable."""

    name: str
    value: float | None
    threshold: float | None
    status: str
    reason: str | None = None
    method: str | None = None

    @property
    def ratio(self) -> float | None:
        """Distance by its threshold: above 1 is drift."""
        return None if self.value is None or not self.threshold else self.value / self.threshold


@dataclass(frozen=True)
class Seen:
    """One window as its run recorded it; fields that an older record lacks are None or empty."""

    start: datetime
    end: datetime
    record: Mapping[str, Any]
    run: Run | None
    columns: tuple[Column, ...]
    interval: tuple[float, float] | None

    @property
    def key(self) -> str:
        return stamp(self.end)

    @property
    def told(self) -> bool:
        """Whether the window says anything at all: a violation, or a clearance."""
        untold = self.record["drift_status"] in ("not_enough_data", "not_computable", "logging_broken")
        return bool(self.record["violations"]) or not untold

    @property
    def accuracy(self) -> float | None:
        """On the audit sample; None also while its labels are too young."""
        return self.record.get("accuracy") if self.record.get("known", True) else None

    @property
    def satisfaction(self) -> float | None:
        return self.record.get("satisfaction") if self.record.get("known", True) else None

    @property
    def drift(self) -> float | None:
        """The largest distance by threshold of all columns."""
        return max((column.ratio for column in self.columns if column.ratio is not None), default=None)


@dataclass(frozen=True)
class Event:
    """One entry of the story. `links` are (words, address), `facts` (name, value), `card` and `commit` lie in the page."""

    at: datetime
    # fire | concern | quiet | untold | passed | failed | not_evaluated | promotion | rollback | labels | release | dataset
    kind: str
    key: str
    title: str
    lines: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    window: Seen | None = None
    digest: str | None = None  # of a candidate: its card and run are found by it
    commit: str | None = None


@dataclass(frozen=True)
class Summary:
    """How the adapter is doing: tone is good, warn, bad or unknown; headline one sentence, lead what goes with it."""

    tone: str
    headline: str
    lead: str


@dataclass(frozen=True)
class Chronicle:
    """All that a page shows of one adapter; windows and events oldest first."""

    adapter: str
    summary: Summary
    windows: tuple[Seen, ...]
    events: tuple[Event, ...]
    serving: tuple[tuple[datetime, int | None], ...]  # from when which version serves
    champion: ledger.Promotion | None
    results: Mapping[str, int] = field(default_factory=dict)  # attempts by status, promotions, rollbacks


def seen(record: Mapping[str, Any], run: Run | None, thresholds: Mapping[str, float]) -> Seen:
    """A recorded window; a record without `columns` takes its distances from the run's metrics, thresholds from params."""
    if record.get("columns"):
        fields = ("value", "threshold", "status", "reason", "method")
        columns = [Column(c["column"], *(c.get(name) for name in fields)) for c in record["columns"]]
    else:
        metrics = run.metrics if run else {}
        found = {name.removeprefix("drift."): value for name, value in metrics.items() if name.startswith("drift.")}
        over = {text.partition(" ")[0] for text in record["drifted"]}
        columns = [Column(n, v, thresholds.get(n), "drift" if n in over else "no_drift") for n, v in sorted(found.items())]
    return Seen(instant(record["start"]), instant(record["end"]), record, run, tuple(columns), _interval(record))


def instant(text: str) -> datetime:
    try:
        return from_stamp(text)
    except ValueError:
        return parse_time(text)


def _interval(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of the accuracy: as recorded, else the 95 % interval of Wilson."""
    if record.get("accuracy_low") is not None and record.get("accuracy_high") is not None:
        return record["accuracy_low"], record["accuracy_high"]
    accuracy, n = record.get("accuracy"), record.get("audited") or 0
    return None if accuracy is None or n < 1 else stats.wilson(round(accuracy * n), n, level=0.025)


# --- in words


def when(start: datetime, end: datetime) -> str:
    """A window's time in words, UTC."""
    if end - start == timedelta(days=1) and start.hour == start.minute == 0:
        return day(start)
    if start.date() == (end - timedelta(seconds=1)).date():
        return f"{day(start)}, {start:%H:%M} to {end:%H:%M}"
    return f"{day(start)} {start:%H:%M} to {day(end)} {end:%H:%M}"


def day(time: datetime) -> str:
    return f"{time.day} {time:%B %Y}"


def moment(at: datetime) -> str:
    return day(at) if at.hour == at.minute == 0 else f"{day(at)}, {at:%H:%M}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"


def count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
