"""What the command line, the DAGs and the demo do: retrain, admit a label, read the remote (`release` has what serves).

Each job takes the adapter's lock, works in an ephemeral clone, commits by name and pushes. Killed anywhere and run again, it
converges.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain import datachecks, edits, inputs, launch, ledger, meter, preflight, publish
from retrain import params as params_
from retrain.card import one_line
from retrain.errors import NothingToDo, ParamsError
from retrain.policies import Purpose
from retrain.process import text_at
from retrain.records import Example, file_digest, read_json, read_jsonl, stamp
from retrain.registry import Registry
from retrain.verdict import Verdict, read_verdict
from retrain.workspace import Clone, Workspace

LOCK_WAIT = 5.0  # seconds: a job that lasts minutes is not waited for, the caller tries again
ROUTER = "router"  # lock of the job that fits the router: no adapter has this name
RELEASE = "{}.release"  # lock of the jobs that change what serves; no adapter's name has a dot
FEEDBACK = "{}.feedback"  # lock of those that write what was said into MLflow
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
def job(workspace: Workspace, adapter: str, name: str, *, lock: str = "{}") -> Iterator[Clone]:
    """The adapter's lock and a clone.

    lock: what is held, with {} for the adapter. What changes the version that serves holds its own (RELEASE): a training of
    hours holds up no rollback.
    """
    workspace.params.adapter(adapter)
    with workspace.lock(lock.format(adapter), wait_seconds=LOCK_WAIT), workspace.clone(f"{name}-{adapter}") as clone:
        yield clone


@contextmanager
def alone(workspace: Workspace) -> Iterator[None]:
    """Every adapter's locks and the router's, in one order for all: no job runs meanwhile."""
    with ExitStack() as stack:
        stack.enter_context(workspace.lock(ROUTER, wait_seconds=LOCK_WAIT))
        for adapter in sorted(workspace.params.adapters):
            for name in (adapter, RELEASE.format(adapter), FEEDBACK.format(adapter)):
                stack.enter_context(workspace.lock(name, wait_seconds=LOCK_WAIT))
        yield


def write_line(clone: Clone, adapter: str, line: ledger.Entry, *, about: int | None = None) -> None:
    """Append one line to the ledger, by push; about: the version that has to serve then, else StaleError."""

    def write(clone: Clone) -> None:
        if about is not None:
            ledger.serving(ledger.read(clone.root, adapter), about)
        ledger.append(clone.root, adapter, line)
        clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: {line.told()[:100]}")

    write(clone)
    clone.publish(write, tries=TRIES)


def retrain(
    workspace: Workspace,
    adapter: str,
    *,
    end: datetime,
    purpose: Purpose = "improve",
    audited: Sequence[Example] = (),
    overrides: Sequence[str] = (),
    trial: bool = False,
    say: Say = lambda line: None,
) -> Attempted:
    """Train a candidate on all live rows, put it before the gate and record the attempt.

    The same `end` twice is one attempt; one older than the newest attempt raises ParamsError. purpose is `first` whatever is
    given, as long as nothing serves. trial: the overrides leave params.yaml again where the gate does not pass the candidate.
    """
    asked = inputs.Asked(adapter, stamp(end), purpose, tuple(audited), tuple(overrides), workspace.root, trial)
    unpushed = workspace.unpushed()
    if unpushed:
        say(f"note: {unpushed}; a retraining uses what {workspace.remote} holds: commit and push what it shall see")
    with job(workspace, adapter, "retrain") as clone:
        known = _known(clone, asked)
        if known:
            return known
        os.environ["RETRAIN_CACHE"] = str(workspace.local)
        preflight.files(clone.root, params_.load(clone.root).of(adapter), adapter)
        paths = inputs.put(clone, asked)
        preflight.check(clone.root, params_.load(clone.root).of(adapter), adapter)
        registry, run_id = publish.open_run(workspace, adapter, asked.at, say)
        try:
            with publish.published(registry, run_id, clone.root / ".retrain" / "train" / f"{adapter}.jsonl", say):
                clone.dvc("repro", f"prepare@{adapter}", on_line=say)
                docs = datachecks.check(workspace, clone.root, params_.load(clone.root).of(adapter), adapter, asked.at)
                _reproduce(workspace, clone, adapter, say)
            made = [_record(clone, asked, paths)]
            clone.publish(lambda c: made.append(_again(workspace, c, asked, say)), tries=TRIES)
        except BaseException as error:
            publish.finish(registry, run_id, "FAILED", {"why": str(error)[:500]}, {}, [], say)
            raise
        if made[-1].fresh:
            card = docs.on_card(clone.root / "out" / adapter / "card.md")
            _finish_attempt(registry, run_id, clone, card, made[-1], say)
        else:
            publish.finish(registry, run_id, "KILLED", {"why": "another job recorded this attempt first"}, {}, [], say)
        return made[-1]


def _reproduce(workspace: Workspace, clone: Clone, adapter: str, say: Say) -> None:
    """All stages up to the gate; the training where params say (`launch`)."""
    elsewhere = launch.environment(workspace, params_.load(clone.root), adapter)
    clone.dvc("repro", f"gate@{adapter}", on_line=say, env=elsewhere)


def _known(clone: Clone, asked: inputs.Asked) -> Attempted | None:
    """The attempt that the ledger already has for this end."""
    lines = ledger.read(clone.root, asked.adapter)
    known = ledger.attempt_at(lines, asked.at)
    if known:
        return Attempted(known, None, {}, fresh=False)
    newest = max((attempt.end for attempt in ledger.state(lines).attempts), default="")
    if asked.at < newest:
        raise ParamsError(f"{asked.adapter} has an attempt at {newest}, {asked.at} is before that: attempts never go back")
    return None


def _record(clone: Clone, asked: inputs.Asked, paths: Sequence[str]) -> Attempted:
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
        cost=meter.read(clone.root / ".retrain" / "train" / f"{adapter}.cost.json"),
        why=one_line(verdict),
    )
    ledger.append(clone.root, adapter, attempt)
    clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: ledger: {verdict.status}")
    if asked.trial and asked.overrides and not verdict.promote:
        clone.git("checkout", "--quiet", f"origin/{clone.branch}", "--", "params.yaml")
        clone.commit(["params.yaml"], f"{adapter}: stays as it is: {', '.join(asked.overrides)} did not pass")
    return Attempted(attempt, verdict, metrics, fresh=True)


def predictions(workspace: Workspace, adapter: str, commit: str) -> list[dict[str, Any]]:
    """What every arm answered on every row when the gate judged that commit."""
    with workspace.clone(f"read-{adapter}") as clone:
        clone.git("checkout", "--quiet", commit)
        clone.dvc("pull", "--force", f"out/{adapter}/predictions")
        return read_jsonl(clone.root / "out" / adapter / "predictions" / "predictions.jsonl")


def _again(workspace: Workspace, clone: Clone, asked: inputs.Asked, say: Say) -> Attempted:
    """The branch moved: own inputs back, reproduce (the run cache makes it seconds), commit."""
    known = _known(clone, asked)
    if known:
        return known
    paths = inputs.put(clone, asked)
    _reproduce(workspace, clone, asked.adapter, say)
    return _record(clone, asked, paths)


def _finish_attempt(
    registry: Registry | None, run_id: str, clone: Clone, card: Path, attempted: Attempted, say: Say
) -> None:  # fmt: skip
    out, attempt = clone.root / "out" / attempted.attempt.adapter, attempted.attempt
    scores = {
        f"{suite}.{arm}": score["right"]
        for suite, data in attempted.metrics["suites"].items()
        for arm, score in data["arms"].items()
    }
    scores |= {f"cost.{name}": value for name, value in attempt.cost.items()}
    tags = {"digest": attempt.digest, "verdict": attempt.status, "commit": attempt.commit, "dataset": attempt.dataset}
    files = [card, out / "verdict.json", out / "metrics.json", out / "predictions" / "scores.png"]
    publish.finish(registry, run_id, "FINISHED", {**tags, "why": attempt.why[:500]}, scores, files, say)


# --- read from the remote


def entries(workspace: Workspace, adapter: str) -> list[ledger.Entry]:
    """The ledger as the remote has it now: the person's checkout may be behind."""
    workspace.params.adapter(adapter)
    text = remote_file(workspace, f"ledger/{adapter}.jsonl")
    return ledger.parse(text, adapter) if text else []


def remote_params(workspace: Workspace) -> params_.Params:
    """params.yaml as the remote has it now: labels are admitted there."""
    text = remote_file(workspace, "params.yaml")
    return params_.parse(text, f"{workspace.remote} params.yaml") if text else workspace.params


def as_pushed(workspace: Workspace) -> Workspace:
    """The workspace with the adapters of the remote too: a checkout that is behind must hide none from what deletes."""
    if not workspace.params.workspace.remote:
        return workspace
    both = {**workspace.params.adapters, **remote_params(workspace).adapters}
    return replace(workspace, params=workspace.params.model_copy(update={"adapters": both}))


def remote_file(workspace: Workspace, path: str) -> str:
    """A file's text at the head of the remote's branch; empty where it has none."""
    return text_at(workspace.root, workspace.remote_head(), path) or ""


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
                edits.add_label(clone.root / "params.yaml", adapter, label)
                line = ledger.Label(at=now(), adapter=adapter, label=label, rows=rows.get(label, 0))
                ledger.append(clone.root, adapter, line)
            if added:
                clone.commit(["params.yaml", f"ledger/{adapter}.jsonl"], f"{adapter}: labels admitted: {', '.join(added)}")

        write(clone)
        if not added:
            raise NothingToDo(f"{adapter} already lists {', '.join(labels)}")
        clone.publish(write, tries=TRIES)
        return added
