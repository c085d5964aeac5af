"""The champion for whatever serves: its verdict and every byte verified before a tensor is read.

Bytes come from this machine's own copy, MLflow or the DVC remote, whichever has the right ones first, so that none of them
being down takes the service down; where a version cannot be had or trusted, the last good one before it serves.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrain import ledger
from retrain.errors import IntegrityError, NothingToDo, RetrainError
from retrain.params import Adapter
from retrain.process import text_at
from retrain.records import parse_yaml, read_json, verify_folder, write_text
from retrain.registry.versions import Registry, placed
from retrain.store import Store
from retrain.verdict import Verdict, parse_verdict
from retrain.workspace import Workspace


@dataclass(frozen=True)
class Champion:
    """A verified adapter. Key every cache by `digest`: a name can be given to other bytes, a digest cannot.

    folder: safetensors, configuration and run.json, every byte hashed. notes: what is not as it should be, each a sentence: a
    newer version that could not be had, a ledger that was not reached; a server shows them.
    """

    promotion: ledger.Promotion
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        return self.promotion.version

    @property
    def digest(self) -> str:
        return self.promotion.digest

    @property
    def name(self) -> str:
        """Such as support-v7."""
        return self.promotion.tag

    @property
    def run(self) -> dict[str, Any]:
        """run.json: base and its digest, prompt, labels, lengths."""
        return dict(read_json(self.folder / "run.json"))


def load_champion(adapter: str, workspace: Workspace | Path | str = ".") -> Champion:
    """What the ledger says serves, or the last good version before it, which `notes` then say.

    NothingToDo where there is no champion yet; IntegrityError where no version can be had and trusted.
    """
    space = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    space.params.adapter(adapter)
    entries, notes = _entries(space, adapter)
    if ledger.state(entries).champion is None:
        raise NothingToDo(f"{adapter} has no champion yet: run `retrain repro {adapter}` and `retrain promote {adapter}`")
    for promotion in ledger.good(entries):
        try:
            check_verdict(space, promotion)
            return Champion(promotion, fetch(space, entries, promotion), tuple(notes))
        except RetrainError as error:
            notes.append(f"{promotion.tag} should serve, and does not: {error}")
    raise IntegrityError(f"no version of {adapter} can be served:\n  " + "\n  ".join(notes))


def _entries(space: Workspace, adapter: str) -> tuple[list[ledger.Entry], list[str]]:
    """The ledger as the remote has it, kept here for the day when it does not answer."""
    kept = space.local / "serving" / f"{adapter}.jsonl"
    try:
        text = text_at(space.root, space.remote_head(), f"ledger/{adapter}.jsonl") or ""
        if text or not kept.exists():
            write_text(kept, text)
        return ledger.parse(text, adapter), []
    except IntegrityError:
        raise
    except RetrainError as error:
        if not kept.exists():
            raise
        return ledger.parse(kept.read_text("utf-8"), adapter), [f"what serves is as of the last look at the ledger: {error}"]


def check_verdict(space: Workspace, promotion: ledger.Promotion) -> None:
    """IntegrityError unless the verdict at the promoted commit passed these very bytes, or a person forced them past it."""
    verdict = verdict_at(space, promotion.adapter, promotion.commit)
    about = str(verdict.bound.get("adapter"))
    if promotion.forced or (verdict.promote and about == promotion.digest):
        return
    raise IntegrityError(
        f"{promotion.tag} has the bytes {promotion.digest[:12]}, its verdict (out/{promotion.adapter}/verdict.json of "
        f"{promotion.commit[:12]}) is {verdict.status} on {about[:12]}"
    )


def verdict_at(space: Workspace, adapter: str, commit: str) -> Verdict:
    """The verdict that a retraining's commit holds."""
    path = f"out/{adapter}/verdict.json"
    text = text_at(space.root, commit, path)
    if text is None:
        raise IntegrityError(f"{commit[:12]} has no {path}: it is no commit of a retraining")
    return parse_verdict(text, f"{path} of {commit[:12]}")


def length_at(space: Workspace, promotion: ledger.Promotion) -> int:
    """Tokens of an answer at most (`max_new_tokens`) as the promoted commit has it: so it was judged. Only this is read, for
    an old params.yaml may lack what a newer one needs."""
    text = text_at(space.root, promotion.commit, "params.yaml") or ""
    try:
        given = parse_yaml(text)["adapters"][promotion.adapter].get("max_new_tokens")
        return int(Adapter.model_fields["max_new_tokens"].default if given is None else given)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"params.yaml of {promotion.commit[:12]} does not say how {promotion.adapter} answers ({type(error).__name__})"
        ) from error


def fetch(space: Workspace, entries: list[ledger.Entry], promotion: ledger.Promotion) -> Path:
    """A version's folder on this machine, every byte hashed; IntegrityError that says what each place answered."""
    target = space.local / "serving" / f"{promotion.tag}-{promotion.digest[:12]}"
    if target.exists():
        try:
            verify_folder(target, promotion.digest)
            return target
        except IntegrityError:  # damaged here: fetched again
            shutil.rmtree(target)
    said = []
    for get in _places(space, entries, promotion):
        try:
            return get(target)
        except RetrainError as error:
            said.append(str(error))
    raise IntegrityError("; ".join(said))


def _places(space: Workspace, entries: list[ledger.Entry], promotion: ledger.Promotion) -> Iterator[Callable[[Path], Path]]:
    number = ledger.state(entries).number(promotion.version)

    def from_mlflow(target: Path) -> Path:
        registry = Registry.open(space.params.mlflow, space.root)
        return registry.download(promotion.adapter, number, target, digest=promotion.digest)

    yield from_mlflow
    yield lambda target: from_dvc(space, promotion.adapter, promotion.commit, target, digest=promotion.digest)


def from_dvc(space: Workspace, adapter: str, commit: str, target: Path, *, digest: str) -> Path:
    """The adapter as the retraining of that commit made it, from the DVC cache or remote, every byte hashed."""
    store = Store(space)
    files = store.out(commit, f"train@{adapter}", f"out/{adapter}/adapter")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / "adapter"
        folder.mkdir()
        for name, blob in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(store.read(blob))
        verify_folder(folder, digest)
        return placed(folder, target, digest)
