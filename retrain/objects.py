"""DVC's objects by md5, from its cache and its remote, whatever kind of remote: read, and verified after an upload."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain.errors import DataError, IntegrityError, RetrainError
from retrain.process import try_git
from retrain.records import parse_yaml

Stores = Sequence[tuple[str, Any]]  # (name, DVC object store), nearest first


class GoneError(DataError):
    """An object that neither cache nor remote holds: never uploaded, cleaned away, or erased."""


def stores(root: Path, url: str | None = None) -> list[tuple[str, Any]]:
    """The cache of the repository at root, then its DVC remote: the one at url, where given, else its own, if it has one."""
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    named = {"core": {"remote": "retrain"}, "remote": {"retrain": {"url": url}}} if url else {}
    try:
        repo = Repo(str(root), config=named)
        found = [("the DVC cache", repo.cache.local)]
        try:
            remote = repo.cloud.get_remote_odb()
        except NoRemoteError:
            return found
        return [*found, (f"the DVC remote {remote.fs.unstrip_protocol(remote.path)}", remote)]
    except DvcException as error:
        raise RetrainError(f"DVC cannot open the data of {root}: {error}") from error


def read(places: Stores, md5: str) -> bytes:
    """The bytes with this md5 (those of a folder's listing end in .dir); GoneError where no place has them."""
    for name, store in places:
        try:
            data = bytes(store.fs.cat_file(store.oid_to_path(md5)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RetrainError(f"{name} cannot be read ({error}): {md5} was asked for") from error
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
            raise IntegrityError(f"{name} holds other bytes under {md5}: remove that object, then `dvc pull`")
        return data
    where = ", ".join(name for name, _ in places)
    raise GoneError(f"no data with md5 {md5} in {where}: it was erased, cleaned away or never uploaded")


def listing(places: Stores, md5: str) -> dict[str, str]:
    """Path -> md5 of the files of a folder; a file itself is {"": md5}."""
    if not md5.endswith(".dir"):
        return {"": md5}
    return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(read(places, md5))}


def pointed(text: str) -> str:
    """The md5 that a .dvc file names."""
    return str(parse_yaml(text)["outs"][0]["md5"])


def verify_uploaded(root: Path, pointers: Sequence[str], before: str) -> int:
    """Read from the remote alone, as from an empty cache, what these .dvc files name and did not name at commit `before`.

    Returns how many objects; what is missing there or has other bytes raises IntegrityError.
    """
    places = stores(root)
    if len(places) < 2:
        return 0
    wanted: set[str] = set()
    for pointer in pointers:
        new, old = pointed((root / pointer).read_text("utf-8")), try_git(root, "show", f"{before}:{pointer}")
        wanted |= {new, *listing(places[1:], new).values()}
        if old.returncode == 0:
            wanted -= _known(places, pointed(old.stdout))
    for md5 in sorted(wanted):
        try:
            read(places[1:], md5)
        except GoneError as error:
            raise IntegrityError(
                f"{error}; it was uploaded a moment ago, so nothing is committed: look at the remote"
            ) from error
    return len(wanted)


def _known(places: Stores, md5: str) -> set[str]:
    try:
        return {md5, *listing(places, md5).values()}
    except GoneError:
        return set()
