"""What the command line, the DAGs and the demo do: retrain, register, promote, roll back, admit a label.

Each job takes the adapter's lock, works in an ephemeral clone, commits by name and pushes; the order of outside effects is
upload, verify, record, then point. Killed anywhere and run again, it converges.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain import ledger, preflight, publish
from retrain import params as params_
from retrain.card import one_line
from retrain.errors import IntegrityError, NothingToDo, ParamsError, RejectedError
from retrain.process import git
from retrain.records import Example, file_digest, read_folder, read_json, read_jsonl, stamp, write_json, write_jsonl
from retrain.registry import Registry
from retrain.verdict import Verdict, read_verdict
from retrain.workspace import Clone, Workspace

LOCK_WAIT = 5.0  # seconds: a job that lasts minutes is not waited for, the caller tries again
TRIES = 4  # pushes; each failed one means that somebody else landed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Attempted:
    """What a retraining came to; `fresh` is False where the ledger already had it."""

    attempt: ledger.Attempt
    verdict: Verdict | None
    metrics: dict[str, Any]
    fresh: bool


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def job(workspace: Workspace, adapter: str, name: str) -> Iterator[Clone]:
    """The adapter's lock and a clone."""
    workspace.params.adapter(adapter)
    with workspace.lock(adapter, wait_seconds=LOCK_WAIT), workspace.clone(f"{name}-{adapter}") as clone:
        yield clone


def retrain(
    workspace: Workspace,
    adapter: str,
    *,
    end: datetime,
    audited: Sequence[Example] = (),
    overrides: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Attempted:
    """Train a candidate on all live rows, put it before the gate and record the attempt; the same `end` twice is one."""
    at = stamp(end)
    with job(workspace, adapter, "retrain") as clone:
        entries = ledger.read(clone.root, adapter)
        known = next((e for e in entries if isinstance(e, ledger.Attempt) and e.end == at), None)
        if known:
            return Attempted(known, None, {}, fresh=False)
        os.environ["RETRAIN_CACHE"] = str(workspace.local / "answers")
        preflight.files(clone.root, params_.load(clone.root).of(adapter), adapter)
        paths = _inputs(clone, adapter, at, audited, overrides)
        preflight.check(clone.root, params_.load(clone.root).of(adapter), adapter)
        registry, run_id = publish.open_run(workspace, adapter, at, say)
        try:
            with publish.published(registry, run_id, clone.root / ".retrain" / "train" / f"{adapter}.jsonl", say):
                clone.dvc("repro", f"gate@{adapter}", on_line=say)
            attempted = _record(clone, adapter, at, paths)
            clone.publish(lambda c: _again(c, adapter, at, audited, overrides), tries=TRIES)
        except BaseException as error:
            publish.finish(registry, run_id, "FAILED", {"why": str(error)[:500]}, {}, [], say)
            raise
        _finish_attempt(registry, run_id, clone, adapter, attempted, say)
        return attempted


def _inputs(clone: Clone, adapter: str, at: str, audited: Sequence[Example], overrides: Sequence[str]) -> list[str]:
    """Put this attempt's inputs into the clone: data, champion, purpose, audit file; what git has to commit for them."""
    suites = f"data/suites/{adapter}"
    clone.pull([f"data/seed/{adapter}.jsonl.dvc", f"{suites}.dvc", f"data/failures/{adapter}.dvc", f"champion/{adapter}.dvc"])
    paths: list[str] = []
    if overrides:
        params_.set_values(clone.root / "params.yaml", list(overrides))
        paths.append("params.yaml")
    folder = clone.root / suites / "audit"
    unread = _unread(folder, audited)
    if unread and not (folder / f"{at}.jsonl").exists():
        write_jsonl(folder / f"{at}.jsonl", unread)
        paths += clone.dvc_add(suites)
    entries = ledger.read(clone.root, adapter)
    serving = ledger.state(entries).champion
    state_file = clone.root / "champion" / f"{adapter}.json"
    if serving and read_json(state_file)["digest"] != serving.digest:
        paths += clone.set_champion(adapter, commit=serving.commit, digest=serving.digest)
    audit = max((path.stem for path in folder.glob("*.jsonl")), default=None)
    write_json(
        state_file,
        {
            "schema": 1,
            "adapter": adapter,
            "purpose": "improve" if serving else "first",
            "version": serving.version if serving else None,
            "digest": serving.digest if serving else None,
            "attempts": ledger.attempts_on(entries, audit),
            "audit": audit,
        },
    )
    return [*paths, f"champion/{adapter}.json"]


def _unread(folder: Path, audited: Sequence[Example]) -> list[Example]:
    """Audited rows that no earlier audit file holds, by request id."""
    read = {origin.request_id for row in read_folder(folder) for origin in row.origins}
    return [row for row in audited if not any(origin.request_id in read for origin in row.origins)]


def _record(clone: Clone, adapter: str, at: str, paths: Sequence[str]) -> Attempted:
    """Commit what reproduces the attempt, then its ledger line."""
    out = clone.root / "out" / adapter
    verdict, metrics, run = (
        read_verdict(out / "verdict.json"),
        read_json(out / "metrics.json"),
        read_json(out / "adapter/run.json"),
    )
    products = [f"out/{adapter}/{name}" for name in ("metrics.json", "verdict.json")]
    clone.commit([*paths, "dvc.lock", *products], f"{adapter}: attempt at {at}: {verdict.status}")
    state = read_json(clone.root / "champion" / f"{adapter}.json")
    attempt = ledger.Attempt(
        at=now(),
        adapter=adapter,
        purpose=verdict.purpose,  # type: ignore[arg-type]  # the gate refused any other word before
        end=at,
        commit=clone.git("rev-parse", "HEAD"),
        digest=file_digest(out / "adapter" / "manifest.json"),
        status=verdict.status,
        promote=verdict.promote,
        dataset=run["dataset"],
        audit=state["audit"],
        champion=state["digest"],
        base_digest=run["base_digest"],
        why=one_line(verdict),
    )
    ledger.append(clone.root, adapter, attempt)
    clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: ledger: {verdict.status}")
    return Attempted(attempt, verdict, metrics, fresh=True)


def predictions(workspace: Workspace, adapter: str, commit: str) -> list[dict[str, Any]]:
    """What every arm answered on every row when the gate judged that commit."""
    with workspace.clone(f"read-{adapter}") as clone:
        clone.git("checkout", "--quiet", commit)
        clone.dvc("pull", "--force", f"out/{adapter}/predictions")
        return read_jsonl(clone.root / "out" / adapter / "predictions" / "predictions.jsonl")


def _again(clone: Clone, adapter: str, at: str, audited: Sequence[Example], overrides: Sequence[str]) -> None:
    """The branch moved: own inputs back, reproduce (the run cache makes it seconds), commit."""
    paths = _inputs(clone, adapter, at, audited, overrides)
    clone.dvc("repro", f"gate@{adapter}")
    _record(clone, adapter, at, paths)


def _finish_attempt(registry: Registry | None, run_id: str, clone: Clone, adapter: str, attempted: Attempted, say: Say) -> None:
    out, attempt = clone.root / "out" / adapter, attempted.attempt
    scores = {
        f"{suite}.{arm}": score["right"]
        for suite, data in attempted.metrics["suites"].items()
        for arm, score in data["arms"].items()
    }
    tags = {"digest": attempt.digest, "verdict": attempt.status, "commit": attempt.commit, "dataset": attempt.dataset}
    files = [out / "card.md", out / "verdict.json", out / "metrics.json", out / "predictions" / "scores.png"]
    publish.finish(registry, run_id, "FINISHED", {**tags, "why": attempt.why[:500]}, scores, files, say)


# --- promotion


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
    branch = clone.git("rev-parse", "HEAD")
    clone.git("checkout", "--quiet", attempt.commit)
    try:
        clone.dvc("pull", "--force", f"out/{adapter}/adapter", f"out/{adapter}/card.md")
        out = clone.root / "out" / adapter
        verdict = read_verdict(out / "verdict.json")
        if not verdict.promote or verdict.bound["adapter"] != attempt.digest:
            raise RejectedError(f"verdict.json of {attempt.commit[:12]} is {verdict.status} on {verdict.bound['adapter'][:12]}")
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        run_id = registry.run_of(adapter, attempt.digest) or registry.start_training(adapter, {"digest": attempt.digest})
        tags = {"verdict": verdict.status, "commit": attempt.commit, "dataset": attempt.dataset, "base": attempt.base_digest}
        card = (out / "card.md").read_text("utf-8")
        folder = out / "adapter"
        return registry.register(adapter, folder, digest=attempt.digest, tags=tags, description=card, run_id=run_id)
    finally:
        clone.git("checkout", "--quiet", "-B", clone.branch, branch)


def promote(workspace: Workspace, adapter: str) -> ledger.Promotion:
    """Make the newest passed candidate champion: registered, ledger by push, then the alias."""
    with job(workspace, adapter, "promote") as clone:
        attempt = _newest(clone, adapter)
        version = _register(workspace, clone, adapter, attempt)
        tag = f"{adapter}-v{version}"

        def write(clone: Clone) -> None:
            entries = ledger.read(clone.root, adapter)
            line = ledger.promote_line(entries, digest=attempt.digest, version=version, tag=tag, at=now())
            ledger.append(clone.root, adapter, line)
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: v{version} is champion")
            clone.git("tag", "--force", tag, attempt.commit)

        try:
            write(clone)
        except NothingToDo:  # the ledger has it: a run before this one may have died before the alias
            return _follow_ledger(workspace, clone, adapter)
        clone.publish(write, tries=TRIES, tags=(tag,))
        return _follow_ledger(workspace, clone, adapter)


def rollback(workspace: Workspace, adapter: str, *, version: int | None, reason: str) -> ledger.Promotion:
    """Put back the version that served before (or a given one that served): ledger by push, then the alias."""
    with job(workspace, adapter, "rollback") as clone:

        def write(clone: Clone) -> None:
            entries = ledger.read(clone.root, adapter)
            line = ledger.rollback_line(entries, adapter=adapter, version=version, reason=reason, at=now())
            ledger.append(clone.root, adapter, line)
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: back to v{line.version}: {reason}")

        write(clone)
        clone.publish(write, tries=TRIES)
        return _follow_ledger(workspace, clone, adapter)


def _follow_ledger(workspace: Workspace, clone: Clone, adapter: str) -> ledger.Promotion:
    """The alias follows what the ledger of this clone says."""
    state = ledger.state(ledger.read(clone.root, adapter))
    if state.champion is None:
        raise NothingToDo(f"{adapter} has no champion")
    Registry.open(workspace.params.mlflow, workspace.root).follow(adapter, state)
    return state.champion


def entries(workspace: Workspace, adapter: str) -> list[ledger.Entry]:
    """The ledger as the remote has it now: the person's checkout may be behind."""
    workspace.params.adapter(adapter)
    text = remote_file(workspace, f"ledger/{adapter}.jsonl")
    return ledger.parse(text, adapter) if text else []


def remote_params(workspace: Workspace) -> params_.Params:
    """params.yaml as the remote has it now: labels are admitted there."""
    text = remote_file(workspace, "params.yaml")
    return params_.parse(text, f"{workspace.remote} params.yaml") if text else workspace.params


def remote_file(workspace: Workspace, path: str) -> str:
    """A file's text at the head of the remote's branch; empty where it has none."""
    git(workspace.root, "fetch", "--quiet", workspace.remote, workspace.params.workspace.branch)
    if not git(workspace.root, "ls-tree", "--name-only", "FETCH_HEAD", path):
        return ""
    return git(workspace.root, "show", f"FETCH_HEAD:{path}")


def champion_folder(workspace: Workspace, adapter: str) -> tuple[ledger.Promotion, Path]:
    """The serving version and its verified bytes, fetched from the registry once."""
    serving = ledger.state(entries(workspace, adapter)).champion
    if serving is None:
        raise NothingToDo(f"{adapter} has no champion yet: run `retrain repro {adapter}` and `retrain promote {adapter}`")
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    return serving, registry.download(adapter, serving.version, workspace.local / "serving" / f"{adapter}-v{serving.version}")


def guard(workspace: Workspace, adapter: str) -> str:
    """What serves, when ledger, alias and registered bytes agree; IntegrityError that says what differs."""
    serving = ledger.state(entries(workspace, adapter)).champion
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    alias = registry.alias(adapter, "champion")
    if serving is None:
        if alias is not None:
            raise IntegrityError(f"MLflow's champion of {adapter} is v{alias.version}, the ledger knows of none")
        return f"{adapter} has no champion yet"
    if alias is None or alias.version != serving.version or alias.digest != serving.digest:
        found = f"v{alias.version} {alias.digest[:12]}" if alias else "nothing"
        wanted = f"v{serving.version} {serving.digest[:12]}"
        raise IntegrityError(f"MLflow's champion of {adapter} is {found}, the ledger says {wanted}")
    registry.download(adapter, serving.version, workspace.local / "serving" / serving.tag)
    return f"{serving.tag} serves, its bytes match"


# --- labels


def admit(workspace: Workspace, adapter: str, labels: Sequence[str], *, rows: dict[str, int]) -> list[str]:
    """Add labels to the adapter's list in params.yaml, comments kept, by commit and push; what was really new."""
    spec = workspace.params.adapter(adapter)
    if spec.task != "classification":
        raise ParamsError(f"{adapter} is a {spec.task} adapter: it has no labels to admit")
    with job(workspace, adapter, "labels") as clone:
        added: list[str] = []

        def write(clone: Clone) -> None:
            listed = params_.load(clone.root).adapter(adapter).labels
            added[:] = [label for label in dict.fromkeys(labels) if label not in listed]
            for label in added:
                params_.add_label(clone.root / "params.yaml", adapter, label)
                line = ledger.Label(at=now(), adapter=adapter, label=label, rows=rows.get(label, 0))
                ledger.append(clone.root, adapter, line)
            if added:
                clone.commit(["params.yaml", f"ledger/{adapter}.jsonl"], f"{adapter}: labels admitted: {', '.join(added)}")

        write(clone)
        if not added:
            raise NothingToDo(f"{adapter} already lists {', '.join(labels)}")
        clone.publish(write, tries=TRIES)
        return added
