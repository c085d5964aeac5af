"""Texts that MLflow keeps about an adapter, with what is to be erased taken out of them."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrain.registry import Registry
from retrain.registry.runs import called

Change = Callable[[str], str]
LARGEST = 64 * 2**20  # bytes of an artifact that is looked into: reports are a few MB
ADAPTER = "adapter"  # bytes that are verified when they are loaded: weights, and hashes of what trained them


@called
def redact(registry: Registry, adapter: str, change: Change) -> int:
    """Apply change to tags, descriptions and, on a server, text artifacts of all runs; how many of them it changed."""
    changed = 0
    for run in registry._search(adapter, "", ()):
        run_id = str(run.info.run_id)
        for name, value in run.data.tags.items():
            if change(value) != value:
                registry.client.set_tag(run_id, name, change(value))
                changed += 1
        if registry.artifacts is None:  # else they are files of this machine
            changed += sum(_artifact(registry, run_id, path, change) for path in _texts(registry, run_id, ""))
    for version in registry.client.search_model_versions(f"name = '{adapter}'"):
        text = version.description or ""
        if change(text) != text:
            registry.client.update_model_version(adapter, version.version, change(text))
            changed += 1
    return changed


def _texts(registry: Registry, run_id: str, folder: str) -> Iterator[str]:
    for file in registry.client.list_artifacts(run_id, folder or None):
        if file.is_dir and file.path != ADAPTER:
            yield from _texts(registry, run_id, file.path)
        elif not file.is_dir and (file.file_size or 0) <= LARGEST:
            yield file.path


def _artifact(registry: Registry, run_id: str, path: str, change: Change) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(registry.client.download_artifacts(run_id, path, scratch))
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            return False
        if change(text) == text:
            return False
        file.write_text(change(text), "utf-8")
        registry.client.log_artifact(run_id, str(file), str(Path(path).parent) if "/" in path else None)
        return True


def compact(database: Path) -> bool:
    """Give back the pages of a SQLite file that hold what was deleted; False where another process uses it now."""
    connection: Any = sqlite3.connect(database, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            return False
    return True
