"""The only MLflow package: runs, windows, versions, aliases.

MLflow is a projection: which version serves is in the ledger (`follow` makes the aliases say the same), and a version is
found by the digest of its bytes, never by its name. Order of every registration: upload, fetch and hash, record.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.errors import IntegrityError
from retrain.ledger import LedgerState
from retrain.records import verify_folder
from retrain.registry.runs import Run, Runs, called

__all__ = ["Registry", "Run", "Version"]


@dataclass(frozen=True)
class Version:
    """A registered adapter; digest is the sha256 of its manifest.json."""

    version: int
    digest: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Registry(Runs):
    """Runs and versions at one MLflow address."""

    @called
    def register(
        self, adapter: str, folder: Path, *, digest: str, tags: Mapping[str, object], description: str, run_id: str
    ) -> int:
        """The version of these bytes: the lowest that carries the digest, else a new one. Call it under the job's lock.

        digest: sha256 of folder/manifest.json. Nothing is recorded before every uploaded byte was fetched and hashed;
        bytes that disagree raise IntegrityError. MLflow itself is not atomic here: four calls at once make four versions.
        """
        verify_folder(folder, digest)
        known = self._by_digest(adapter, digest)
        if known is not None:
            return known
        self.client.log_artifacts(run_id, str(folder), "adapter")
        with tempfile.TemporaryDirectory() as copy:
            verify_folder(Path(self.client.download_artifacts(run_id, "adapter", copy)), digest)
        if not self.client.search_registered_models(f"name = '{adapter}'"):
            self.client.create_registered_model(adapter)
        texts = {key: str(value) for key, value in {**tags, "digest": digest, "adapter": adapter}.items()}
        self.client.create_model_version(adapter, f"runs:/{run_id}/adapter", run_id, texts, description=description)
        known = self._by_digest(adapter, digest)
        if known is None:
            raise IntegrityError(f"MLflow at {self.uri} made a version of {adapter} and does not find its digest {digest[:12]}")
        return known

    def _by_digest(self, adapter: str, digest: str) -> int | None:
        found = self.client.search_model_versions(f"name = '{adapter}' and tags.digest = '{digest}'")
        return min((int(version.version) for version in found), default=None)

    @called
    def versions(self, adapter: str) -> list[Version]:
        """All versions, lowest first; none for an adapter that was never registered."""
        found = self.client.search_model_versions(f"name = '{adapter}'")
        return sorted((_version(version) for version in found), key=lambda version: version.version)

    @called
    def version(self, adapter: str, n: int) -> Version:
        found = next((version for version in self.versions(adapter) if version.version == n), None)
        if found is None:
            raise IntegrityError(f"MLflow at {self.uri} has no version {n} of {adapter}: it was deleted, or never registered")
        return found

    @called
    def alias(self, adapter: str, name: str) -> Version | None:
        """The version that an alias points at; None where it points nowhere."""
        found = self._aliases(adapter).get(name)
        return None if found is None else self.version(adapter, found)

    def _aliases(self, adapter: str) -> dict[str, int]:
        for model in self.client.search_registered_models(f"name = '{adapter}'"):
            return {name: int(version) for name, version in self.client.get_registered_model(model.name).aliases.items()}
        return {}

    @called
    def set_alias(self, adapter: str, name: str, version: int) -> None:
        self.client.set_registered_model_alias(adapter, name, str(version))

    @called
    def holds(self, adapter: str, version: int, digest: str) -> None:
        """IntegrityError unless the version is there and its digest is this one."""
        found = self.version(adapter, version).digest
        if found != digest:
            raise IntegrityError(f"MLflow's version {version} of {adapter} has the bytes {found[:12]}, not {digest[:12]}")

    @called
    def follow(self, adapter: str, state: LedgerState) -> bool:
        """Point `champion` and `previous` at what the ledger says, and read them back; IntegrityError where they differ.

        False where they said so already. A version whose bytes are not the ledger's is never pointed at.
        """
        wanted = {"champion": state.champion, "previous": state.previous}
        aliases = self._aliases(adapter)
        if all(aliases.get(name) == (line.version if line else None) for name, line in wanted.items()):
            return False
        for line in filter(None, wanted.values()):
            self.holds(adapter, line.version, line.digest)
        for name, promotion in wanted.items():
            if promotion is not None:
                self.set_alias(adapter, name, promotion.version)
            elif name in self._aliases(adapter):
                self.client.delete_registered_model_alias(adapter, name)
        said = {name: line.version for name, line in wanted.items() if line is not None}
        found = {name: number for name, number in self._aliases(adapter).items() if name in wanted}
        if found != said:
            raise IntegrityError(f"MLflow's aliases of {adapter} are {found} after being set to {said}: somebody moves them")
        return True

    @called
    def download(self, adapter: str, version: int, dst: Path) -> Path:
        """The folder of a version at dst, every byte hashed; dst appears whole or not at all, and is kept if it is right."""
        digest = self.version(adapter, version).digest
        if dst.exists():
            verify_folder(dst, digest)
            return dst
        dst.parent.mkdir(parents=True, exist_ok=True)
        run_id = self.client.get_model_version(adapter, str(version)).run_id
        with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f".{dst.name}.") as copy:
            folder = Path(self.client.download_artifacts(run_id, "adapter", copy))
            verify_folder(folder, digest)
            shutil.move(folder, dst)
        return dst


def _version(version: Any) -> Version:
    return Version(int(version.version), version.tags.get("digest", ""), dict(version.tags))
