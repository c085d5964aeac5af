"""MLflow traces, copied to Parquet day by day under .retrain/traces/ as far as they are new, and read from there.

A trace is immutable once it has ended, its assessments are not: those of the last 90 days are asked for again each time.
Only what a person said is feedback; a judge's or a program's assessments stand beside it, in `judged`.
"""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from monitoring.sources.mapping import JUDGED, Places
from retrain.errors import DataError
from retrain.params import load
from retrain.records import dumps
from retrain.registry import Registry

TRACES = "mlflow-traces:"
LATE = timedelta(days=1)  # a trace may reach MLflow this long after it began
JUDGEABLE = timedelta(days=90)
NUMBERS = ("request_time", "execution_duration", "assessed_at")
TEXTS = ("trace_id", "state", "request", "response", "trace_metadata", "tags", "assessments", "judged")
SCHEMA = pa.schema([*((name, pa.int64()) for name in NUMBERS), *((name, pa.string()) for name in TEXTS)])


def export(experiment: str, root: Path, places: Places) -> Path:
    """The folder with one Parquet file a day of an experiment's traces, brought up to date; one process at a time."""
    folder = Path(root) / ".retrain" / "traces" / re.sub(r"[^\w.-]+", "_", experiment)
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry.open(load(root).mlflow, root)
    with FileLock(folder / ".lock"):
        newest = _newest(folder)
        _store(folder, _fresh(registry, experiment, folder, newest))
        _store(folder, _assessed(registry, experiment, newest, _names(places)))
    if not any(folder.glob("*.parquet")):
        raise DataError(
            f"MLflow at {registry.uri}: experiment {experiment!r} (params.yaml, logs.uri) has no trace that has ended"
        )
    return folder


def _pages(registry: Registry, experiment: str, filters: str, *, bodies: bool) -> Iterator[list[dict[str, Any]]]:
    token = None
    while True:
        rows, token = registry.trace_page(experiment, filters, bodies=bodies, token=token)
        yield rows
        if token is None:
            return


def _newest(folder: Path) -> int | None:
    """The request time, in ms, of the newest trace that is stored."""
    files = sorted(folder.glob("*.parquet"))
    return max(pq.read_table(files[-1], columns=["request_time"])["request_time"].to_pylist()) if files else None


def _fresh(registry: Registry, experiment: str, folder: Path, newest: int | None) -> Iterator[list[dict[str, Any]]]:
    """Traces that are not stored yet; the light listing of the last day finds late ones without fetching bodies again."""
    since = 0
    if newest is not None:
        since = newest - _ms(LATE)
        known = {row for file in sorted(folder.glob("*.parquet"))[-3:] for row in pq.read_table(file)["trace_id"].to_pylist()}
        listed = (row for page in _pages(registry, experiment, _from(since), bodies=False) for row in page)
        missing = [row["request_time"] for row in listed if row["trace_id"] not in known]
        if not missing:
            return
        since = min(missing)
    yield from _pages(registry, experiment, _from(since), bodies=True)


def _assessed(registry: Registry, experiment: str, newest: int | None, names: list[str]) -> Iterator[list[dict[str, Any]]]:
    """What was said about traces that are stored already."""
    if newest is None:
        return
    since = _from(newest - _ms(JUDGEABLE))
    for kind in ("feedback", "expectation"):
        for name in names:
            yield from _pages(registry, experiment, f"{since} AND {kind}.`{name}` IS NOT NULL", bodies=False)


def _names(places: Places) -> list[str]:
    """The assessments that logs.columns reads."""
    steps = [place.steps for name in JUDGED for place in places[name]]
    return sorted({step[1] for step in steps if step[0] == "assessments" and len(step) > 1})


def _from(time: int) -> str:
    return f"attributes.timestamp_ms >= {time}"


def _ms(length: timedelta) -> int:
    return round(length.total_seconds() * 1000)


def _store(folder: Path, pages: Iterator[list[dict[str, Any]]]) -> None:
    for rows in pages:
        days: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            days.setdefault(f"{datetime.fromtimestamp(row['request_time'] / 1000, UTC):%Y-%m-%d}", []).append(row)
        for day, mine in sorted(days.items()):
            _merge(folder / f"{day}.parquet", [_flat(row) for row in mine])


def _merge(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows replace those of the same trace, but keep the bodies that a light page does not bring."""
    old = {row["trace_id"]: row for row in pq.read_table(path).to_pylist()} if path.exists() else {}
    new = {
        row["trace_id"]: {**old.get(row["trace_id"], {}), **row} for row in rows if "request" in row or row["trace_id"] in old
    }
    merged = {**old, **new}
    if merged == old:
        return
    ordered = sorted(merged.values(), key=lambda row: (row["request_time"], row["trace_id"]))
    temporary = path.with_name(f".{path.name}.new")
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMA), temporary)
    os.replace(temporary, path)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """As stored: what is nested as JSON text, and of each name the newest assessment."""
    said = sorted(row["assessments"], key=lambda one: one["at"])
    human = [one for one in said if one["human"]]
    bodies = {"request": _asked(row["request"]), "response": _plain(row["response"])} if "request" in row else {}
    return {
        **row,
        **bodies,
        "trace_metadata": dumps(row["trace_metadata"]),
        "tags": dumps(row["tags"]),
        "assessments": dumps({one["name"]: one["value"] for one in human}),
        "judged": dumps({one["name"]: one["value"] for one in said if not one["human"]}),
        "assessed_at": max((one["at"] for one in human), default=None),
    }


def _plain(text: str | None) -> str | None:
    """MLflow keeps bodies as JSON: a text is taken out of its quotes."""
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def _asked(text: str | None) -> str | None:
    plain = _plain(text)
    return plain if plain == text else dumps({"prompt": plain})
