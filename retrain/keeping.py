"""Bases as they lie in memory, kept on disk: to round one to NF4 on a CPU takes ten times as long as to read what it gives."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from retrain import process
from retrain.errors import RetrainError
from retrain.records import file_digest, read_json, write_json

MANIFEST = "kept.json"


def find(name: str, key: Mapping[str, str]) -> Path | None:
    """The folder that was kept under this name with this very key, each file of the sha256 that it had; else None."""
    folder = process.cache("bases") / name
    try:
        record = read_json(folder / MANIFEST)
        whole = record["key"] == dict(key) and all(file_digest(folder / file) == sha for file, sha in record["files"].items())
    except (RetrainError, OSError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole else None


def keep(name: str, key: Mapping[str, str], write: Callable[[Path], object]) -> None:
    """Have `write` fill a folder, in the place of what was kept under this name; where it cannot (OSError), nothing is lost but
    time."""
    folder = process.cache("bases") / name
    scratch = folder.with_name(f".{name}.{os.getpid()}")
    for left in folder.parent.glob(f".{name}.*"):
        if not Path("/proc", left.suffix[1:]).exists():  # whoever wrote it was killed
            shutil.rmtree(left, ignore_errors=True)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        write(scratch)
        files = {path.name: file_digest(path) for path in sorted(scratch.iterdir())}
        write_json(scratch / MANIFEST, {"schema": 1, "key": dict(key), "files": files})
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except OSError as error:  # a full disk, or another process that was first
        print(f"warning: {folder} was not kept ({error.strerror or error}): the base is rounded again next time")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
