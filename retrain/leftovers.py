"""What killed processes leave in a checkout and what stops DVC and git until it is gone: found, and taken away where no owner
lives. Jobs of ours work in clones of their own and are not stopped by any of it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from retrain.errors import DataError
from retrain.process import try_git


@dataclass(frozen=True)
class Leftover:
    """A file that stops DVC or git; owner: a process that works in this folder now and may still need it."""

    path: Path
    what: str
    owner: str | None


def find(root: Path) -> list[Leftover]:
    """Those of the checkout at root; nothing is changed."""
    rwlock, index = root / ".dvc" / "tmp" / "rwlock", _git_folder(root) / "index.lock"
    found = [(rwlock, "DVC's list of locks is cut off", "dvc")] if rwlock.exists() and not _json(rwlock) else []
    found += [(index, "a git that was killed left its lock", "git")] if index.exists() else []
    return [Leftover(path, what, _owner(root, tool)) for path, what, tool in found]


def take_away(root: Path) -> list[Leftover]:
    """Delete those that nobody owns; what it deleted."""
    gone = [leftover for leftover in find(root) if leftover.owner is None]
    for leftover in gone:
        leftover.path.unlink(missing_ok=True)
    return gone


def check_lock(root: Path) -> None:
    """DataError where dvc.lock is cut off: DVC would stop with its schema's words, or call every stage new."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    path = root / "dvc.lock"
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError:
        return
    except (yaml.YAMLError, UnicodeDecodeError, Invalid) as error:
        raise DataError(
            f"{path} is cut off or no lock of DVC ({str(error).splitlines()[0]}): restore it (`git log -- dvc.lock`, "
            "`git checkout COMMIT -- dvc.lock`), commit and push; nothing that it named is lost, the data is in the DVC remote"
        ) from error


def _git_folder(root: Path) -> Path:
    answer = try_git(root, "rev-parse", "--absolute-git-dir")
    return Path(answer.stdout.strip()) if answer.returncode == 0 else root / ".git"


def _json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    return True


def _owner(root: Path, tool: str) -> str | None:
    """A process other than this one that runs the tool in root or below it."""
    import psutil

    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        where, words = process.info["cwd"], process.info["cmdline"] or []
        inside = where is not None and (Path(where) == root.resolve() or root.resolve() in Path(where).parents)
        if inside and process.info["pid"] != os.getpid() and any(Path(word).name == tool for word in words):
            return f"pid {process.info['pid']}: {' '.join(words)[:80]}"
    return None
