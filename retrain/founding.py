"""A new workspace: its files, git, DVC, remotes, and the first commit and push."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrain.edits import set_values
from retrain.errors import ParamsError
from retrain.process import dvc, git
from retrain.records import write_json, write_text
from retrain.workspace import DVC_STORE, ORIGIN, Workspace, configure_dvc, identify

# no line for /champion/*/ or /data/failures/*/: DVC would skip the .dvc files beside them without a word
PRODUCTS = ("recheck/", "synthetic/", "data/", "suites/", "adapter/", "predictions/", "serves.json", "card.md", "model/")
IGNORED = ("/.retrain/", "/logs/", "/out/base/", *(f"/out/*/{out}" for out in PRODUCTS))


def init(
    directory: Path | str, *, files: Mapping[str, str], remote: str | None = None, dvc_remote: str | None = None
) -> Workspace:
    """Make a workspace in a new or empty directory and push its first commit and data.

    files: relative path -> text: params.yaml, dvc.yaml, data/prompts/..., data/seed/<adapter>.jsonl and
    data/suites/<adapter>/... (seed and suites that are missing start empty). Without addresses a bare repository and a
    DVC store inside .retrain serve. A directory that holds anything raises ParamsError.
    """
    root = Path(directory).absolute()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ParamsError(f"{root} is not an empty folder: `retrain init` makes a new workspace, give it a new or empty one")
    root.mkdir(parents=True, exist_ok=True)
    try:
        return _fill(root, files, remote or ORIGIN, dvc_remote or DVC_STORE)
    except BaseException:
        for path in root.iterdir():  # it was empty: all of it is ours
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _fill(root: Path, files: Mapping[str, str], remote: str, dvc_remote: str) -> Workspace:
    for name, text in files.items():
        write_text(root / name, text)
    set_values(root / "params.yaml", [f"workspace.remote={remote}", f"workspace.dvc_remote={dvc_remote}"])
    workspace = Workspace.open(root)
    branch = workspace.params.workspace.branch
    git(root, "init", "--quiet", "--initial-branch", branch, ".")
    identify(root)
    if remote == ORIGIN:
        git(root, "init", "--quiet", "--bare", "--initial-branch", branch, ORIGIN)
    git(root, "remote", "add", "origin", remote)  # relative where it is inside: the folder can be moved
    dvc(root, "init")
    write_text(root / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")
    configure_dvc(root, store=f"../{DVC_STORE}" if dvc_remote == DVC_STORE else workspace.dvc_remote, more="")
    write_text(root / ".gitignore", "".join(f"{line}\n" for line in IGNORED))
    tracked = [name for adapter in workspace.params.adapters for name in _start(root, adapter)]
    dvc(root, "add", *tracked)
    git(root, "add", "--all")  # a new folder, all of it from here: a job never does this
    git(root, "commit", "--quiet", "--message", "A workspace made by retrain init")
    dvc(root, "push")
    git(root, "push", "--quiet", "--set-upstream", "origin", branch)
    return workspace


def _start(root: Path, adapter: str) -> list[str]:
    """An adapter's tracked inputs, empty where there is nothing yet: a missing one would fail the stage."""
    folders = [f"champion/{adapter}", f"data/failures/{adapter}", f"data/suites/{adapter}"]
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
    seed = f"data/seed/{adapter}.jsonl"
    if not (root / seed).exists():
        write_text(root / seed, "")
    path = root / "champion" / f"{adapter}.json"
    if not path.exists():
        write_json(path, first_state(adapter))
    return [*folders, seed]


def first_state(adapter: str) -> dict[str, Any]:
    """champion/<adapter>.json before there is a champion."""
    first: dict[str, Any] = {"purpose": "first", "version": None, "digest": None, "attempts": [], "audit": None}
    return {"schema": 1, "adapter": adapter, **first}
