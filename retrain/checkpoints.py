"""Checkpoints of a training: complete or not there, and found by what the run is, never by where it ran.  [torch]

`<folder>/<key>/step-000050/` holds weights, the optimizer's and the random state as safetensors, the training log so far, and
`complete.json` with the sha256 of both, written last. The key is a digest of all that decides the numbers: a checkpoint of
other data, another base or other parameters is not found. Resuming goes on with a run that was cut off; starting a new run from
the champion's weights would be another thing, and has no code here.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.errors import DataError
from retrain.records import file_digest, read_json, text_digest, write_json

KEPT = 2  # of a run: the newest, and one to fall back to
STALE = 14 * 86400.0  # seconds after which what another run left is swept
TENSORS, LOG, COMPLETE = "state.safetensors", "log.jsonl", "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """After `step` steps: the state by name, and the rows of the training log."""

    step: int
    tensors: dict[str, Any]
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpoints:
    """Those of one run."""

    folder: Path

    @classmethod
    def of(cls, home: Path, run: Mapping[str, Any]) -> "Checkpoints":
        """`run`: everything that decides the numbers, JSON-ready; others' that nobody came back for are swept."""
        for other in home.glob("*") if home.is_dir() else ():
            with contextlib.suppress(OSError):  # another process sweeps it too
                if time.time() - other.stat().st_mtime > STALE:
                    shutil.rmtree(other, ignore_errors=True)
        return cls(home / text_digest(json.dumps(run, sort_keys=True))[:20])

    def newest(self) -> Checkpoint | None:
        """The newest complete one; one that is damaged is passed over."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            found = _read(path)
            if found:
                return found
        return None

    def write(self, step: int, tensors: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
        """Under a temporary name, flushed, then renamed; OSError (a full disk) leaves what was there and no half."""
        from safetensors.torch import save

        target = self.folder / f"step-{step:06d}"
        scratch = self.folder / f".{target.name}.{os.getpid()}"
        try:
            scratch.mkdir(parents=True)
            _write(scratch / TENSORS, save(dict(tensors)))
            _write(scratch / LOG, "".join(json.dumps(row) + "\n" for row in log).encode())
            write_json(
                scratch / COMPLETE, {"schema": 1, "step": step, "files": {n: file_digest(scratch / n) for n in (TENSORS, LOG)}}
            )
            shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been resumed from
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def drop(self) -> None:
        """The run has come to its end."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> Checkpoint | None:
    from safetensors.torch import load

    try:
        told = read_json(path / COMPLETE)
        if any(file_digest(path / name) != sha for name, sha in told["files"].items()):
            return None
        log = [json.loads(line) for line in (path / LOG).read_text("utf-8").splitlines()]
        return Checkpoint(told["step"], load((path / TENSORS).read_bytes()), log)
    except (OSError, DataError, KeyError, TypeError, ValueError):  # cut off or edited: as if it were not there
        return None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
