"""Versions and aliases of MLflow's model registry.

MLflow is a projection: which version serves is in the ledger (`follow` makes the aliases say the same), and a version is
found by the digest of its bytes, never by its name. Order of every registration: upload, fetch and hash, record.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.errors import IntegrityError, RetrainError
from retrain.ledger import LedgerState, Promotion
from retrain.markdown import linked, spaced
from retrain.records import verify_folder
from retrain.registry.runs import Runs, called

MOST_DESCRIBED = 5_000  # characters: model_versions.description is VARCHAR(5000), which SQLite does not mind
LOST = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Version:
    """A registered adapter; digest is the sha256 of its manifest.json, created epoch seconds, run the id of its MLflow run."""

    version: int
    digest: str
    tags: dict[str, str]
    created: float = 0.0
    run: str = ""


@dataclass(frozen=True)
class Move:
    """An alias that was moved: from MLflow's version to another, None where it pointed or points nowhere."""

    alias: str
    before: int | None
    after: int | None

    def __str__(self) -> str:
        names = [f"v{number}" if number else "nothing" for number in (self.before, self.after)]
        return f"alias {self.alias}: from {names[0]} to {names[1]}"


@dataclass(frozen=True)
class Registry(Runs):
    """Runs and versions at one MLflow address."""

    # --- versions

    @called
    def register(
        self, adapter: str, folder: Path, *, digest: str, tags: Mapping[str, object], description: str, run_id: str,
        taken: Mapping[int, str],
    ) -> int:  # fmt: skip
        """The version of these bytes: the lowest that carries the digest, which gets tags and description anew, else a new one.
        Call it under the job's lock.

        digest: sha256 of folder/manifest.json. taken: numbers that the ledger gave to digests; a registry that counts anew,
        such as a new database, skips those of other bytes. Nothing is recorded before every uploaded byte was fetched and
        hashed; bytes that disagree raise IntegrityError. MLflow itself is not atomic here: four calls at once make four
        versions.
        """
        verify_folder(folder, digest)
        known = self.by_digest(adapter, digest)
        if known is None:
            return self._upload_new(adapter, folder, digest, tags, description, run_id, taken)
        for name, value in tags.items():
            self.tag(adapter, known, name, str(value))
        self.client.update_model_version(adapter, str(known), self._described(description, run_id))
        return known

    @called
    def register_again(
        self, adapter: str, folder: Path, *, digest: str, tags: Mapping[str, object], description: str, taken: Mapping[int, str]
    ) -> int:
        """A new version of bytes that MLflow lost, in a run of their own; what still claims the digest is marked as damaged."""
        verify_folder(folder, digest)
        for version in self.versions(adapter):
            if version.digest == digest:
                self.client.set_model_version_tag(adapter, str(version.version), "digest", f"damaged {digest}")
        run_id = self._start(adapter, "restore", f"restore {digest[:12]}", {})
        number = self._upload_new(adapter, folder, digest, tags, description, run_id, taken)
        self.finish(run_id, "FINISHED", {}, {"why": "registered again: MLflow had lost the bytes"}, [])
        return number

    def _upload_new(
        self, adapter: str, folder: Path, digest: str, tags: Mapping[str, object], description: str, run_id: str,
        taken: Mapping[int, str],
    ) -> int:  # fmt: skip
        self.client.log_artifacts(run_id, str(folder), "adapter")
        with tempfile.TemporaryDirectory() as copy:
            verify_folder(Path(self.client.download_artifacts(run_id, "adapter", copy)), digest)
        self._make_model(adapter)
        number = self._record(adapter, digest, tags, description, run_id)
        while taken.get(number, digest) != digest:
            self.client.delete_model_version(adapter, str(number))
            number = self._record(adapter, digest, tags, description, run_id)
        return number

    def _make_model(self, adapter: str) -> None:
        from mlflow.exceptions import MlflowException

        if self.client.search_registered_models(f"name = '{adapter}'"):
            return
        try:
            self.client.create_registered_model(adapter)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was first
                raise

    def _record(self, adapter: str, digest: str, tags: Mapping[str, object], description: str, run_id: str) -> int:
        texts = {key: str(value) for key, value in {**tags, "digest": digest, "adapter": adapter}.items()}
        shown = self._described(description, run_id)
        self.client.create_model_version(adapter, f"runs:/{run_id}/adapter", run_id, texts, description=shown)
        known = self.by_digest(adapter, digest)
        if known is None:
            raise IntegrityError(f"MLflow at {self.uri} made a version of {adapter} and does not find its digest {digest[:12]}")
        return known

    def _described(self, card: str, run_id: str) -> str:
        """A card as the page of a version shows it, whose run has the whole of it."""
        if not card:
            return ""
        found = self.addresses(run_id)
        if "card" not in found:
            self.client.log_text(run_id, card, "card.md")
            found = self.addresses(run_id)
        links = [("the run", found["run"]), ("the whole card", found["card"])]
        return shortened(linked(spaced(card), links, found.get("picture")))

    @called
    def addresses(self, run_id: str) -> dict[str, str]:
        """Where MLflow shows a run, and its card and picture where it has them, relative to the server's own address."""
        run = f"#/experiments/{self.client.get_run(run_id).info.experiment_id}/runs/{run_id}"
        shown = {
            "card.md": ("card", f"{run}/artifacts/card.md"),
            "scores.png": ("picture", f"get-artifact?path=scores.png&run_uuid={run_id}"),
        }
        return {"run": run, **dict(shown[file.path] for file in self.client.list_artifacts(run_id) if file.path in shown)}

    @called
    def by_digest(self, adapter: str, digest: str) -> int | None:
        """The lowest version that carries this digest."""
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
            raise IntegrityError(
                f"MLflow at {self.uri} has no version {n} of {adapter}: it was deleted, or never registered: "
                f"`retrain reconcile {adapter}` registers what serves again"
            )
        return found

    @called
    def tag(self, adapter: str, version: int, name: str, text: str) -> None:
        """A tag of a version, as people see it on its page."""
        self.client.set_model_version_tag(adapter, str(version), name, text)

    @called
    def drop(self, adapter: str, version: int) -> None:
        """Delete a version and the adapter's bytes in its run, unless another version lies there too; the run with its card and
        figures stays."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        run = self.client.get_run(self.client.get_model_version(adapter, str(version)).run_id)
        self.client.delete_model_version(adapter, str(version))
        if all(other.run_id != run.info.run_id for other in self.client.search_model_versions(f"name = '{adapter}'")):
            get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri).delete_artifacts("adapter")

    @called
    def holds(self, adapter: str, version: int, digest: str) -> None:
        """IntegrityError unless the version is there and its digest is this one."""
        found = self.version(adapter, version).digest
        if found != digest:
            raise IntegrityError(f"MLflow's version {version} of {adapter} has the bytes {found[:12]}, not {digest[:12]}")

    @called
    def lost(self, adapter: str, version: int, digest: str) -> str | None:
        """Why the bytes with this digest cannot be had from that version, None where every one of them can.

        A server or store that does not answer has lost nothing: RetrainError.
        """
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as scratch:
            try:
                self.download(adapter, version, Path(scratch) / "adapter", digest=digest)
            except IntegrityError as error:
                return str(error)
            except RetrainError as error:
                cause = error.__cause__
                if isinstance(cause, MlflowException) and cause.error_code == LOST:
                    return str(error)
                raise
        return None

    @called
    def download(self, adapter: str, version: int, dst: Path, *, digest: str) -> Path:
        """The folder of a version at dst, every byte hashed; dst appears whole or not at all, and is kept if it is right."""
        if dst.exists():
            verify_folder(dst, digest)
            return dst
        self.holds(adapter, version, digest)
        dst.parent.mkdir(parents=True, exist_ok=True)
        run_id = self.client.get_model_version(adapter, str(version)).run_id
        if not self.client.list_artifacts(run_id, "adapter"):
            raise IntegrityError(f"MLflow's version {version} of {adapter} holds no files: they were deleted in its store")
        with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f".{dst.name}.") as copy:
            folder = Path(self.client.download_artifacts(run_id, "adapter", copy))
            verify_folder(folder, digest)
            return placed(folder, dst, digest)

    # --- aliases

    @called
    def alias(self, adapter: str, name: str) -> Version | None:
        """The version that an alias points at; None where it points nowhere."""
        found = self.aliases(adapter).get(name)
        return None if found is None else self.version(adapter, found)

    @called
    def aliases(self, adapter: str) -> dict[str, int]:
        """All aliases of an adapter, those that others set too."""
        for model in self.client.search_registered_models(f"name = '{adapter}'"):
            return {name: int(version) for name, version in self.client.get_registered_model(model.name).aliases.items()}
        return {}

    @called
    def set_alias(self, adapter: str, name: str, version: int) -> None:
        self.client.set_registered_model_alias(adapter, name, str(version))

    @called
    def astray(self, adapter: str, state: LedgerState) -> tuple[Move, ...]:
        """The aliases that do not say what the ledger says, as the moves that would put them right.

        A version whose bytes MLflow does not hold is pointed at by none, but for the champion, which has to be there.
        """
        challenger = self.by_digest(adapter, state.challenger.digest) if state.challenger else None
        champion = state.number(state.champion.version) if state.champion else None
        previous = state.number(state.previous.version) if state.previous and self.has(adapter, state, state.previous) else None
        wanted = {"champion": champion, "previous": previous, "challenger": challenger}
        found = self.aliases(adapter)
        return tuple(Move(name, found.get(name), number) for name, number in wanted.items() if found.get(name) != number)

    def has(self, adapter: str, state: LedgerState, line: Promotion) -> bool:
        """Whether MLflow has a version that claims these bytes, under its number."""
        found = self.versions(adapter)
        return any((v.version, v.digest) == (state.number(line.version), line.digest) for v in found)

    @called
    def follow(self, adapter: str, state: LedgerState) -> tuple[Move, ...]:
        """Point `champion`, `previous` and `challenger` at what the ledger says, read them back, and say which moved.

        A champion whose bytes are not the ledger's is never pointed at: IntegrityError.
        """
        if state.champion:
            self.holds(adapter, state.number(state.champion.version), state.champion.digest)
        moves = self.astray(adapter, state)
        for move in moves:
            if move.after is not None:
                self.set_alias(adapter, move.alias, move.after)
            else:
                self.client.delete_registered_model_alias(adapter, move.alias)
        if moves and (again := self.astray(adapter, state)):
            told = ", ".join(str(move) for move in again)
            raise IntegrityError(f"MLflow's aliases of {adapter} are astray after they were set ({told}): somebody moves them")
        return moves

    # --- when the guard last looked

    @called
    def last_check(self, adapter: str) -> str | None:
        """When the guard last found all well (ISO 8601); None where it never did."""
        for model in self.client.search_registered_models(f"name = '{adapter}'"):
            return model.tags.get("guarded")
        return None

    @called
    def checked(self, adapter: str, at: str) -> None:
        if self.client.search_registered_models(f"name = '{adapter}'"):
            self.client.set_registered_model_tag(adapter, "guarded", at)


def _version(version: Any) -> Version:
    tags = dict(version.tags)
    return Version(
        int(version.version), tags.get("digest", ""), tags, version.creation_timestamp / 1000, str(version.run_id or "")
    )


def placed(folder: Path, dst: Path, digest: str) -> Path:
    """A verified folder moved to dst beside it, whole; where another process was first, that one's, verified too."""
    try:
        os.rename(folder, dst)
    except OSError:
        if not dst.is_dir():
            raise
        verify_folder(dst, digest)
    return dst


def shortened(text: str) -> str:
    """Whole lines of a card, as many as MLflow's column holds on a server's database, and where the rest is."""
    if len(text) <= MOST_DESCRIBED:
        return text
    rest = "\n\nThe rest is in card.md, an artifact of this version's run."
    return text[: MOST_DESCRIBED - len(rest)].rpartition("\n")[0] + rest
