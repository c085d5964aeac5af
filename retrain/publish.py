"""A training's run in MLflow, beside the training: its log while it grows, its scores and card at the end.

An MLflow server that is down costs a warning, never a training.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrain.errors import RetrainError
from retrain.process import beside
from retrain.registry import Registry
from retrain.workspace import Workspace

Say = Callable[[str], None]
LOOKS, SENDS = 0.5, 5.0  # seconds: each sending is a commit of MLflow's database, on the cores that train


def open_run(workspace: Workspace, adapter: str, at: str, say: Say) -> tuple[Registry | None, str]:
    try:
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        registry.close_stale(adapter)
        return registry, registry.start_training(adapter, {"end": at})
    except RetrainError as error:
        say(f"warning: the training log is not published: {error}")
        return None, ""


@contextmanager
def published(registry: Registry | None, run_id: str, log: Path, say: Say) -> Iterator[None]:
    """Send the training log to MLflow while it grows: whole lines only, the last read after the end."""
    with beside(lambda done: _follow(registry, run_id, log, done, say)):
        yield


def _follow(registry: Registry | None, run_id: str, log: Path, done: threading.Event, say: Say) -> None:
    from tqdm import tqdm

    waiting: list[dict[str, Any]] = []
    seen, bar, sent = 0, None, 0.0
    while True:
        last = done.wait(LOOKS)
        rows = _whole_rows(log)[seen:]
        if rows and bar is None:
            bar = tqdm(total=rows[0]["of"], desc="train", unit="step", disable=None)
        if rows and bar is not None:
            bar.update(len(rows))
            seen += len(rows)
            waiting += rows
        if waiting and (last or time.monotonic() - sent >= SENDS):
            registry, waiting, sent = _send(registry, run_id, waiting, say), [], time.monotonic()
        if last:
            if bar is not None:
                bar.close()
            return


def _send(registry: Registry | None, run_id: str, rows: list[dict[str, Any]], say: Say) -> Registry | None:
    if registry is None:
        return None
    try:
        registry.log_rows(run_id, rows)
        return registry
    except RetrainError as error:
        say(f"warning: the training log is no longer published: {error}")
        return None


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file that is being written: a last line without its end is left for the next read."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line]


def finish(
    registry: Registry | None,
    run_id: str,
    status: Any,
    tags: dict[str, str],
    metrics: dict[str, float],
    files: list[Path],
    say: Say,
) -> None:
    if registry is None:
        return
    try:
        registry.finish(run_id, status, metrics, tags, files)
    except RetrainError as error:
        say(f"warning: the MLflow run is not closed: {error}")
