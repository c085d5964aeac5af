"""Bytes of any version, past ones too: by commit and path from git, or from the DVC cache or else the DVC remote.

Nothing is checked out and nobody's files are touched, so that any number of readers may look at old versions at once.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from retrain import objects
from retrain.errors import DataError
from retrain.objects import GoneError
from retrain.process import environment, git, try_git
from retrain.records import parse_yaml
from retrain.workspace import Workspace

KEPT = 64  # blobs in memory: versions that follow each other share most of theirs


@dataclass(frozen=True)
class Blob:
    """One file of a version: `id` is a DVC md5, or git's name of a blob."""

    id: str
    dvc: bool


@dataclass
class Store:
    """Old versions of one workspace."""

    workspace: Workspace
    _read: dict[Blob, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def places(self) -> list[tuple[str, Any]]:
        named = self.workspace.params.workspace.dvc_remote
        return objects.stores(self.workspace.root, self.workspace.dvc_remote if named else None)

    def show(self, commit: str, path: str) -> str | None:
        """Text of a file in git at a commit; None where it has none."""
        found = try_git(self.workspace.root, "show", f"{commit}:{path}")
        return None if found.returncode else found.stdout

    def files(self, commit: str, path: str) -> dict[str, Blob]:
        """A file or folder of a commit, tracked by DVC or by git: path below it ("" for a file itself) -> blob."""
        pointer = self.show(commit, f"{path}.dvc")
        if pointer is not None:
            return self._listed(objects.pointed(pointer))
        listed = git(self.workspace.root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", path)
        entries = [entry.partition("\t") for entry in listed.split("\0") if entry]
        return {name[len(path) :].lstrip("/"): Blob(head.split()[2], dvc=False) for head, _, name in entries}

    def out(self, commit: str, stage: str, path: str) -> dict[str, Blob]:
        """What a stage made, by the dvc.lock of a commit; empty where that lock does not know it."""
        text = self.show(commit, "dvc.lock")
        stages = (parse_yaml(text) or {}).get("stages", {}) if text else {}
        outs = (stages.get(stage) or {}).get("outs", [])
        found = next((str(out["md5"]) for out in outs if out["path"] == path and "md5" in out), None)
        return self._listed(found) if found else {}

    def _listed(self, md5: str) -> dict[str, Blob]:
        return {path: Blob(found, dvc=True) for path, found in objects.listing(self.places, md5).items()}

    def read(self, blob: Blob) -> bytes:
        """The bytes of a blob; GoneError where nobody has them, IntegrityError where they are others."""
        if blob not in self._read:
            self._read[blob] = objects.read(self.places, blob.id) if blob.dvc else self._git_blob(blob.id)
            while len(self._read) > KEPT:
                del self._read[next(iter(self._read))]
        return self._read[blob]

    def _git_blob(self, name: str) -> bytes:
        command = ["git", "cat-file", "blob", name]
        found = subprocess.run(command, cwd=self.workspace.root, env=environment(), capture_output=True)
        if found.returncode:
            raise GoneError(f"git in {self.workspace.root} has no blob {name}: fetch it, or clone anew")
        return found.stdout

    def rows(self, blob: Blob) -> Iterator[dict[str, Any]]:
        """JSON objects of a JSONL file, as they are: an older or newer schema is no reason not to look at them."""
        for number, line in enumerate(self.read(blob).split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"line {number} of {blob.id} is no JSON ({error}): mend the file and commit it") from error
            if isinstance(row, dict):
                yield row
