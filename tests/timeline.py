"""Windows and ledger lines of an adapter, by day, and the chronicle that they make."""

from datetime import timedelta
from typing import Any

import history

from monitoring import chronicle, telling
from retrain import ledger
from retrain.registry import Run


def seen(day: int, **more: Any) -> chronicle.Seen:
    told = {"version": 1, "accuracy": 0.9, "satisfaction": 0.7, "drift": {}, **more}
    record = history.record(day, **told)
    run = Run(f"run{day}", "1", int((history.FIRST + timedelta(days=day + 1, hours=1)).timestamp() * 1000), {}, {})
    return chronicle.seen(record, run, {})


def attempt(day: int, status: Any = "passed", at: str | None = None) -> ledger.Attempt:
    end = (history.FIRST + timedelta(days=day)).strftime("%Y-%m-%dT%H-%M-%SZ")
    return ledger.Attempt(
        at=at or history._at(day), adapter="support", purpose="first", end=end, commit="c" * 40, digest=f"d{day}",
        status=status,
        promote=status == "passed", dataset="data", audit=None, champion=None, why="It is better.",
    )  # fmt: skip


def promotion(day: int, version: int = 1, at: str | None = None) -> ledger.Promotion:
    return ledger.Promotion(
        at=at or history._at(day, 2), adapter="support", version=version, digest=f"d{day}", commit="c" * 40,
        tag=f"support-v{version}", replaces=None,
    )  # fmt: skip


def told(windows: list[chronicle.Seen], entries: list[ledger.Entry]) -> chronicle.Chronicle:
    return telling.chronicle("support", windows=windows, entries=entries, hours=24)
