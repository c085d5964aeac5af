"""What the command line, the DAGs and the demo do: retrain, register, promote, roll back, admit a label.

Each job takes the adapter's lock, works in an ephemeral clone, commits by name and pushes; the order of outside effects is
upload, verify, record, then point. Killed anywhere and run again, it converges.
"""

import os
import tempfile
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
from retrain.policies import Purpose
from retrain.process import git
from retrain.records import Example, file_digest, read_examples, read_json, read_jsonl, stamp, write_json, write_jsonl
from retrain.registry import Registry
from retrain.verdict import Verdict, parse_verdict, read_verdict
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


@dataclass(frozen=True)
class Served:
    """What serves after a promotion or rollback; `fresh` is False where the ledger had said so before.

    `repaired`: the alias in MLflow said something else (a job died before it moved, or somebody moved it) and follows again.
    """

    promotion: ledger.Promotion
    fresh: bool
    repaired: bool


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
    purpose: Purpose = "improve",
    audited: Sequence[Example] = (),
    overrides: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Attempted:
    """Train a candidate on all live rows, put it before the gate and record the attempt.

    The same `end` twice is one attempt; one older than the newest attempt raises ParamsError. purpose is `first` whatever is
    given, as long as nothing serves.
    """
    asked = _Asked(adapter, stamp(end), purpose, tuple(audited), tuple(overrides))
    unpushed = workspace.unpushed()
    if unpushed:
        say(f"note: {unpushed}; a retraining uses what {workspace.remote} holds: commit and push what it shall see")
    with job(workspace, adapter, "retrain") as clone:
        known = _known(clone, asked)
        if known:
            return known
        os.environ["RETRAIN_CACHE"] = str(workspace.local / "answers")
        preflight.files(clone.root, params_.load(clone.root).of(adapter), adapter)
        paths = _inputs(clone, asked)
        preflight.check(clone.root, params_.load(clone.root).of(adapter), adapter)
        registry, run_id = publish.open_run(workspace, adapter, asked.at, say)
        try:
            with publish.published(registry, run_id, clone.root / ".retrain" / "train" / f"{adapter}.jsonl", say):
                clone.dvc("repro", f"gate@{adapter}", on_line=say)
            made = [_record(clone, asked, paths)]
            clone.publish(lambda c: made.append(_again(c, asked)), tries=TRIES)
        except BaseException as error:
            publish.finish(registry, run_id, "FAILED", {"why": str(error)[:500]}, {}, [], say)
            raise
        if made[-1].fresh:
            _finish_attempt(registry, run_id, clone, adapter, made[-1], say)
        else:
            publish.finish(registry, run_id, "KILLED", {"why": "another job recorded this attempt first"}, {}, [], say)
        return made[-1]


@dataclass(frozen=True)
class _Asked:
    """What a retraining was asked for; `at` is the stamp of its end."""

    adapter: str
    at: str
    purpose: Purpose
    audited: tuple[Example, ...]
    overrides: tuple[str, ...]


def _known(clone: Clone, asked: _Asked) -> Attempted | None:
    """The attempt that the ledger already has for this end."""
    attempts = ledger.state(ledger.read(clone.root, asked.adapter)).attempts
    known = next((attempt for attempt in attempts if attempt.end == asked.at), None)
    newest = max((attempt.end for attempt in attempts), default="")
    if known is None and asked.at < newest:
        raise ParamsError(f"{asked.adapter} has an attempt at {newest}, {asked.at} is before that: attempts never go back")
    return Attempted(known, None, {}, fresh=False) if known else None


def _inputs(clone: Clone, asked: _Asked) -> list[str]:
    """Put this attempt's inputs into the clone: data, champion, purpose, audit file; what git has to commit for them."""
    adapter, suites = asked.adapter, f"data/suites/{asked.adapter}"
    clone.pull([f"data/seed/{adapter}.jsonl.dvc", f"{suites}.dvc", f"data/failures/{adapter}.dvc", f"champion/{adapter}.dvc"])
    paths: list[str] = []
    if asked.overrides:
        params_.set_values(clone.root / "params.yaml", list(asked.overrides))
        paths.append("params.yaml")
    entries = ledger.read(clone.root, adapter)
    folder = clone.root / suites / "audit"
    if _audit(folder, asked, ledger.state(entries).attempts):
        paths += clone.dvc_add(suites)
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
            "purpose": asked.purpose if serving else "first",
            "version": serving.version if serving else None,
            "digest": serving.digest if serving else None,
            "attempts": ledger.tried_on(entries, audit),
            "audit": audit,
        },
    )
    return [*paths, f"champion/{adapter}.json"]


def _audit(folder: Path, asked: _Asked, attempts: Sequence[ledger.Attempt]) -> bool:
    """Write this attempt's audit file: audited rows that no verdict has read; False where nothing is new.

    A file that no verdict came of (`not_evaluated`: too few rows, mostly) has not been read: its rows move into the new one.
    """
    files = {path.stem: read_examples(path) for path in sorted(folder.glob("*.jsonl"))}
    if asked.at in files:
        return False
    tried = {attempt.audit for attempt in attempts}
    waiting = [stem for stem in files if stem in tried and stem not in {a.audit for a in ledger.judged(attempts)}]
    held = {origin.request_id for rows in files.values() for row in rows for origin in row.origins}
    new = [row for row in asked.audited if not any(origin.request_id in held for origin in row.origins)]
    if not new:
        return False
    write_jsonl(folder / f"{asked.at}.jsonl", [*(row for stem in waiting for row in files[stem]), *new])
    for stem in waiting:
        (folder / f"{stem}.jsonl").unlink()
    return True


def _record(clone: Clone, asked: _Asked, paths: Sequence[str]) -> Attempted:
    """Commit what reproduces the attempt, then its ledger line."""
    adapter, at = asked.adapter, asked.at
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


def _again(clone: Clone, asked: _Asked) -> Attempted:
    """The branch moved: own inputs back, reproduce (the run cache makes it seconds), commit."""
    known = _known(clone, asked)
    if known:
        return known
    paths = _inputs(clone, asked)
    clone.dvc("repro", f"gate@{asked.adapter}")
    return _record(clone, asked, paths)


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
            return Served(repaired, fresh=False, repaired=True)
        serving = ledger.state(ledger.read(clone.root, adapter)).champion
        if serving and serving.digest == attempt.digest:
            return Served(serving, fresh=False, repaired=repaired is not None)
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
            return Served(repaired, fresh=False, repaired=True)
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
    serving = ledger.state(ledger.read(clone.root, adapter)).champion
    if serving is None:
        raise IntegrityError(f"{adapter} was given a champion, and its ledger names none")
    return Served(serving, fresh=True, repaired=repaired is not None)


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
    head = workspace.remote_head()
    if not git(workspace.root, "ls-tree", "--name-only", head, path):
        return ""
    return git(workspace.root, "show", f"{head}:{path}")


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
