"""A person looks at synthetic rows and lets their recipe train: params.yaml says so, the ledger records who said why.

The page comes from what the stage made: by the dvc.lock of the remote's branch, or where params name no remote from out/.
"""

import json
from dataclasses import dataclass
from typing import Any

from retrain import edits, jobs, ledger, lineage
from retrain import params as params_
from retrain.errors import DataError, NothingToDo, ParamsError
from retrain.store import Store
from retrain.workspace import Clone, Workspace


@dataclass(frozen=True)
class Shown:
    """The sample's page, the stage's report, and whether the recipe is the one that was approved."""

    page: str
    report: dict[str, Any]
    approved: bool


def show(workspace: Workspace, adapter: str) -> Shown:
    """What the newest `synthesize` made; DataError where it made nothing."""
    params = jobs.remote_params(workspace) if workspace.params.workspace.remote else workspace.params
    params.adapter(adapter)
    report = _report(workspace, adapter)
    if not report.get("recipe"):
        why = f": {report['off']}" if report.get("off") else ""
        raise DataError(f"{adapter} has no synthetic rows{why}; set synthesize.rows in params.yaml and retrain")
    return Shown(_read(workspace, adapter, "sample.md"), report, params.approved.get(adapter) == report["recipe"])


def approve(workspace: Workspace, adapter: str, recipe: str, *, reason: str) -> str:
    """Let rows of this recipe train from the next retraining on, by commit and push; returns the recipe.

    ParamsError for a blank reason or another recipe than the one that was made last (it was not the one looked at),
    NothingToDo where it is approved already.
    """
    reason = ledger.reason_of(reason, "why these rows may train", workspace.params.scrub)
    made = show(workspace, adapter).report["recipe"]
    if recipe != made:
        raise ParamsError(
            f"{adapter} has no rows of recipe {recipe!r}, the newest are of {made}: `retrain synthetic show {adapter}`"
        )
    with jobs.job(workspace, adapter, "synthetic") as clone:
        done = False

        def write(clone: Clone) -> None:
            nonlocal done
            done = params_.load(clone.root).approved.get(adapter) == made
            if done:
                return
            edits.approve(clone.root / "params.yaml", adapter, made)
            ledger.append(clone.root, adapter, ledger.Approval(at=jobs.now(), adapter=adapter, recipe=made, reason=reason))
            clone.commit(["params.yaml", f"ledger/{adapter}.jsonl"], f"{adapter}: synthetic rows approved: recipe {made}")

        write(clone)
        if done:
            raise NothingToDo(f"recipe {made} of {adapter} is approved already")
        clone.publish(write, tries=jobs.TRIES)
    return str(made)


def _report(workspace: Workspace, adapter: str) -> dict[str, Any]:
    found = json.loads(_read(workspace, adapter, "report.json"))
    if not isinstance(found, dict):
        raise DataError(f"out/{adapter}/synthetic/report.json is no JSON object: run `dvc repro synthesize@{adapter}`")
    return found


def _read(workspace: Workspace, adapter: str, name: str) -> str:
    folder = f"out/{adapter}/synthetic"
    if not workspace.params.workspace.remote:
        path = workspace.root / folder / name
        if not path.exists():
            raise DataError(f"{path} does not exist: run `dvc repro synthesize@{adapter}`")
        return path.read_text("utf-8")
    store = Store(workspace)
    files = store.out(lineage.head(workspace), f"synthesize@{adapter}", folder)
    if name not in files:
        raise DataError(f"no retraining of {adapter} has made {folder} yet: set synthesize.rows in params.yaml and retrain")
    return store.read(files[name]).decode("utf-8")
