"""What serves: register a candidate, promote it, roll back, guard.

The ledger in git decides, by push; MLflow's aliases follow it. Order of outside effects: upload, verify, record, then point.
Killed anywhere and run again, each converges.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from retrain import ledger
from retrain.errors import IntegrityError, NothingToDo, RejectedError
from retrain.jobs import TRIES, entries, job, now
from retrain.process import git
from retrain.registry import Registry
from retrain.verdict import parse_verdict, read_verdict
from retrain.workspace import Clone, Workspace


@dataclass(frozen=True)
class Served:
    """What serves after a promotion or rollback, and the ledger's line that this call wrote, None where it had said so before.

    `repaired`: MLflow's alias said something else (a job died before it moved, or somebody moved it) and follows again.
    """

    promotion: ledger.Promotion
    line: ledger.Promotion | ledger.Rollback | None
    repaired: bool


def register(workspace: Workspace, adapter: str) -> int:
    """The MLflow version of the newest attempt's bytes; RejectedError where its verdict is not passed."""
    with job(workspace, adapter, "register") as clone:
        return _register(workspace, clone, adapter, _newest(clone, adapter))


def _newest(clone: Clone, adapter: str) -> ledger.Attempt:
    attempts = ledger.state(ledger.read(clone.root, adapter)).attempts
    if not attempts:
        raise NothingToDo(f"{adapter} has no attempt in its ledger: run `retrain repro {adapter}` first")
    if not attempts[-1].promote:
        raise RejectedError(f"the newest attempt of {adapter} ({attempts[-1].end}) did not pass: {attempts[-1].why}")
    return attempts[-1]


def _register(workspace: Workspace, clone: Clone, adapter: str, attempt: ledger.Attempt) -> int:
    """Fetch the attempt's bytes and verdict by commit, check that they belong together, upload, verify, record."""
    learned = ledger.erasures(ledger.read(clone.root, adapter), attempt.digest)
    if learned:
        told = f"the attempt of {adapter} at {attempt.end} learned rows that are gone"
        raise RejectedError(f"{told} ({ledger.erased(learned[-1])}): `retrain repro {adapter}` trains without them")
    branch = clone.git("rev-parse", "HEAD")
    clone.git("checkout", "--quiet", attempt.commit)
    try:
        clone.dvc("pull", "--force", f"out/{adapter}/adapter", f"out/{adapter}/card.md")
        out = clone.root / "out" / adapter
        verdict = read_verdict(out / "verdict.json")
        if not verdict.promote or verdict.bound["adapter"] != attempt.digest:
            raise RejectedError(f"verdict.json of {attempt.commit[:12]} is {verdict.status} on {verdict.bound['adapter'][:12]}")
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        known = registry.run_of(adapter, attempt.digest)  # None where MLflow was down when it trained
        run_id = known or registry.start_training(adapter, {"digest": attempt.digest})
        tags = {"verdict": verdict.status, "commit": attempt.commit, "dataset": attempt.dataset, "base": attempt.base_digest}
        card = (out / "card.md").read_text("utf-8")
        folder = out / "adapter"
        version = registry.register(adapter, folder, digest=attempt.digest, tags=tags, description=card, run_id=run_id)
        if not known:
            registry.finish(run_id, "FINISHED", {}, {"why": "only its bytes: MLflow was down when it trained"}, [])
        return version
    finally:
        clone.git("checkout", "--quiet", "-B", clone.branch, branch)


def promote(workspace: Workspace, adapter: str) -> Served:
    """Make the newest passed candidate champion: registered, ledger by push, then the alias.

    An alias that is not what the ledger says is first put right; where the newest attempt did not pass, that is all.
    """
    with job(workspace, adapter, "promote") as clone:
        repaired = _follow(workspace, clone, adapter)
        try:
            attempt = _newest(clone, adapter)
        except RejectedError:
            if repaired is None:
                raise
            return Served(repaired, None, repaired=True)
        serving = ledger.state(ledger.read(clone.root, adapter)).champion
        if serving and serving.digest == attempt.digest:
            return Served(serving, None, repaired=repaired is not None)
        version = _register(workspace, clone, adapter, attempt)
        tag = f"{adapter}-v{version}"

        def write(clone: Clone) -> None:
            entries = ledger.read(clone.root, adapter)
            line = ledger.promote_line(entries, digest=attempt.digest, version=version, tag=tag, at=now())
            ledger.append(clone.root, adapter, line)
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: v{version} is champion")
            clone.git("tag", "--force", tag, attempt.commit)

        write(clone)
        clone.publish(write, tries=TRIES, tags=(tag,))
        return _placed(workspace, clone, adapter, repaired)


def rollback(workspace: Workspace, adapter: str, *, version: int | None, reason: str) -> Served:
    """Put back the version that served before (or a given one that served): ledger by push, then the alias.

    Where MLflow's alias is not what the ledger says, as after a rollback that died half-way, it is first put right, and
    without a version that is all: run again, a rollback never undoes itself.
    """
    with job(workspace, adapter, "rollback") as clone:
        repaired = _follow(workspace, clone, adapter)
        if repaired and version in (None, repaired.version):
            return Served(repaired, None, repaired=True)
        registry = Registry.open(workspace.params.mlflow, workspace.root)

        def write(clone: Clone) -> None:
            entries = ledger.read(clone.root, adapter)
            line = ledger.rollback_line(entries, adapter=adapter, version=version, reason=reason, at=now())
            registry.holds(adapter, line.version, line.digest)
            ledger.append(clone.root, adapter, line)
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: back to v{line.version}: {reason}")

        write(clone)
        clone.publish(write, tries=TRIES)
        return _placed(workspace, clone, adapter, repaired)


def _follow(workspace: Workspace, clone: Clone, adapter: str) -> ledger.Promotion | None:
    """What serves, where MLflow's aliases had to be moved to say so; None where they agreed."""
    state = ledger.state(ledger.read(clone.root, adapter))
    moved = Registry.open(workspace.params.mlflow, workspace.root).follow(adapter, state)
    return state.champion if moved else None


def _placed(workspace: Workspace, clone: Clone, adapter: str, repaired: ledger.Promotion | None) -> Served:
    """The ledger has moved: the alias follows."""
    _follow(workspace, clone, adapter)
    lines = ledger.read(clone.root, adapter)
    serving, line = ledger.state(lines).champion, lines[-1]
    if serving is None or not isinstance(line, ledger.Promotion | ledger.Rollback):
        raise IntegrityError(f"{adapter} was given a champion, and its ledger ends in {ledger.describe(line)}")
    return Served(serving, line, repaired=repaired is not None)


def champion_folder(workspace: Workspace, adapter: str) -> tuple[ledger.Promotion, Path]:
    """The serving version and its verified bytes, fetched from the registry once."""
    serving = ledger.state(entries(workspace, adapter)).champion
    if serving is None:
        raise NothingToDo(f"{adapter} has no champion yet: run `retrain repro {adapter}` and `retrain promote {adapter}`")
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    return serving, registry.download(adapter, serving.version, workspace.local / "serving" / f"{adapter}-v{serving.version}")


def guard(workspace: Workspace, adapter: str) -> str:
    """What serves, when ledger, alias, registered bytes and verdict agree; IntegrityError that says what differs."""
    serving = ledger.state(entries(workspace, adapter)).champion
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    alias = registry.alias(adapter, "champion")
    fix = f"`retrain promote {adapter}` makes the alias follow the ledger"
    if serving is None:
        if alias is not None:
            raise IntegrityError(f"MLflow's champion of {adapter} is v{alias.version}, the ledger knows of none: {fix}")
        return f"{adapter} has no champion yet"
    if alias is None or alias.version != serving.version or alias.digest != serving.digest:
        found = f"v{alias.version} {alias.digest[:12]}" if alias else "nothing"
        raise IntegrityError(
            f"MLflow's champion of {adapter} is {found}, the ledger says v{serving.version} {serving.digest[:12]}: {fix}"
        )
    with tempfile.TemporaryDirectory() as scratch:  # MLflow's own bytes, not a copy that was made before
        registry.download(adapter, serving.version, Path(scratch) / serving.tag)
    _guard_verdict(workspace, serving)
    return f"{serving.tag} serves, its bytes and its verdict match"


def _guard_verdict(workspace: Workspace, serving: ledger.Promotion) -> None:
    workspace.remote_head()  # brings the commit here
    path = f"out/{serving.adapter}/verdict.json"
    verdict = parse_verdict(git(workspace.root, "show", f"{serving.commit}:{path}"), f"{path} of {serving.commit[:12]}")
    if not serving.forced and (not verdict.promote or verdict.bound.get("adapter") != serving.digest):
        about = str(verdict.bound.get("adapter"))[:12]
        raise IntegrityError(
            f"{serving.tag} serves {serving.digest[:12]}, its verdict ({path} of {serving.commit[:12]}) is {verdict.status} "
            f"on {about}: `retrain rollback {serving.adapter} --to VERSION` puts one back that passed"
        )
