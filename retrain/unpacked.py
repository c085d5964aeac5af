"""The base that an adapter was trained on, unpacked on this machine."""

import os
import shutil
from pathlib import Path

from retrain.records import read_json
from retrain.workspace import Workspace


def base_of(workspace: Workspace, commit: str, folder: Path) -> Path:
    """The base of the adapter in folder, which that commit made; out of the shared cache once, whole or not at all."""
    run = read_json(folder / "run.json")
    target = workspace.local / "base" / f"{run['base']}-{run['base_digest'][:12]}"
    if not target.exists():
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        with workspace.clone("base") as clone:
            clone.git("checkout", "--quiet", "--detach", commit)
            clone.dvc("pull", "--force", f"out/base/{run['base']}")
            shutil.copytree(clone.root / "out" / "base" / run["base"], scratch)
        try:
            scratch.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(scratch)
    return target
