"""Free space: objects that no dataset version, no version or router that served, and not the newest state of the branch names.

A dataset version is every commit that changed a .dvc file; of a version that served (and so may be rolled back to) and of
the newest attempt also what their dvc.lock names stays: suites, training rows, predictions, adapter, base. The rest is what
refused candidates and cut-off jobs left.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrain import jobs, ledger, lineage, objects, routes
from retrain.errors import RetrainError
from retrain.objects import GoneError
from retrain.process import git
from retrain.records import parse_yaml
from retrain.store import Store
from retrain.workspace import Workspace


@dataclass
class Cleaned:
    """By place: objects and bytes that were removed (or would be), and how many stay because something names them."""

    removed: dict[str, int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


def clean(workspace: Workspace, *, days: float, remote: bool, dry: bool) -> Cleaned:
    """Remove what nothing names and is older than so many days, from the cache and where asked from the DVC remote.

    What is younger may belong to a job of another machine that has not pushed yet. IntegrityError and RetrainError while the
    past cannot be read whole: then nothing is removed. BusyError while a job of an adapter runs.
    """
    workspace = jobs.as_pushed(workspace)
    with contextlib.nullcontext() if dry else jobs.alone(workspace):
        return _clean(workspace, days, remote, dry)


def _clean(workspace: Workspace, days: float, remote: bool, dry: bool) -> Cleaned:
    store, done = Store(workspace), Cleaned()
    named = _named(workspace, store)
    oldest = time.time() - days * 86400
    for name, place in store.places if remote else store.places[:1]:
        done.removed[name] = done.freed[name] = done.kept[name] = 0
        for path, oid in _objects(place):
            info = place.fs.info(path)
            if oid in named or not 0 < _changed(info) < oldest:
                done.kept[name] += 1
                continue
            if not dry:
                place.fs.rm_file(path)
            done.removed[name] += 1
            done.freed[name] += int(info.get("size") or 0)
    return done


def _objects(place: Any) -> Iterator[tuple[str, str]]:
    for path in list(place.fs.find(place.path)) if place.fs.exists(place.path) else ():
        try:
            yield str(path), str(place.path_to_oid(path))
        except ValueError:
            continue  # not one of DVC's names


def _changed(info: dict[str, Any]) -> float:
    """Seconds since 1970, 0 where the store does not tell: then the object stays."""
    when = info.get("mtime") or info.get("LastModified") or info.get("updated") or 0
    return float(when.timestamp() if hasattr(when, "timestamp") else when)


def _named(workspace: Workspace, store: Store) -> set[str]:
    """md5 of every object that must stay, those of folders with the files they list."""
    head = workspace.remote_head()
    wanted = {md5 for commit in _data_commits(workspace, head) for md5 in _pointed(workspace, commit)}
    states = [ledger.state(lineage.entries(workspace, adapter)) for adapter in workspace.params.adapters]
    served = {line.commit for state in states for line in state.versions.values()}
    newest = {state.attempts[-1].commit for state in states if state.attempts}
    for commit in {head, *served, *newest}:
        text = store.show(commit, "dvc.lock")
        if text is None and commit != head:
            raise RetrainError(f"commit {commit[:12]} of the ledger has no dvc.lock here: `git fetch --all`, then again")
        stages = (parse_yaml(text) or {}).get("stages", {}) if text else {}
        files = [file for stage in stages.values() for file in (*stage.get("outs", ()), *stage.get("deps", ()))]
        wanted |= {str(file["md5"]) for file in files if "md5" in file}
    wanted |= _routers(store, routes.lines_at(workspace, head))
    return {md5 for one in wanted for md5 in _with_files(store, one)}


def _routers(store: Store, lines: Sequence[routes.Fitted]) -> set[str]:
    """Of every router that served, and so may be gone back to."""
    locks = {line.commit: parse_yaml(store.show(line.commit, "dvc.lock") or "") or {} for line in lines if line.accepted}
    stages = [lock.get("stages", {}).get(routes.STAGE, {}) for lock in locks.values()]
    return {str(out["md5"]) for stage in stages for out in stage.get("outs", ()) if "md5" in out}


def _with_files(store: Store, md5: str) -> set[str]:
    try:
        return {md5, *objects.listing(store.places, md5).values()}
    except GoneError:  # erased, or of a repository whose bases nobody has fetched
        return {md5}


def _data_commits(workspace: Workspace, head: str) -> list[str]:
    return git(workspace.root, "log", "--format=%H", head, "--", "*.dvc").split()


def _pointed(workspace: Workspace, commit: str) -> Iterator[str]:
    for path in git(workspace.root, "ls-tree", "-r", "--name-only", "--full-tree", commit).splitlines():
        if path.endswith(".dvc"):
            yield objects.pointed(git(workspace.root, "show", f"{commit}:{path}"))
