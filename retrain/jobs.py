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

from retrain import datachecks, edits, ledger, preflight, publish, tombstones
from retrain import params as params_
from retrain.card import one_line
from retrain.errors import NothingToDo, ParamsError
from retrain.policies import Purpose
from retrain.process import git
from retrain.records import Example, file_digest, read_examples, read_json, read_jsonl, stamp, write_json, write_jsonl
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


@contextmanager
def alone(workspace: Workspace) -> Iterator[None]:
    """Every adapter's lock, in one order for all: no job of any adapter runs meanwhile."""
    with ExitStack() as stack:
        for adapter in sorted(workspace.params.adapters):
            stack.enter_context(workspace.lock(adapter, wait_seconds=LOCK_WAIT))
        yield


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
    asked = _Asked(adapter, stamp(end), purpose, tuple(audited), tuple(overrides), workspace.root)
    unpushed = workspace.unpushed()
    if unpushed:
        say(f"note: {unpushed}; a retraining uses what {workspace.remote} holds: commit and push what it shall see")
    with job(workspace, adapter, "retrain") as clone:
        known = _known(clone, asked)
        if known:
            return known
        os.environ["RETRAIN_CACHE"] = str(workspace.local)
        preflight.files(clone.root, params_.load(clone.root).of(adapter), adapter)
        paths = _inputs(clone, asked)
        preflight.check(clone.root, params_.load(clone.root).of(adapter), adapter)
        registry, run_id = publish.open_run(workspace, adapter, asked.at, say)
        try:
            with publish.published(registry, run_id, clone.root / ".retrain" / "train" / f"{adapter}.jsonl", say):
                clone.dvc("repro", f"prepare@{adapter}", on_line=say)
                docs = datachecks.check(workspace, clone.root, params_.load(clone.root).of(adapter), adapter, asked.at)
                clone.dvc("repro", f"gate@{adapter}", on_line=say)
            made = [_record(clone, asked, paths)]
            clone.publish(lambda c: made.append(_again(c, asked)), tries=TRIES)
        except BaseException as error:
            publish.finish(registry, run_id, "FAILED", {"why": str(error)[:500]}, {}, [], say)
            raise
        if made[-1].fresh:
            card = docs.on_card(clone.root / "out" / adapter / "card.md")
            _finish_attempt(registry, run_id, clone, card, made[-1], say)
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
    home: Path = Path()  # the workspace


def _known(clone: Clone, asked: _Asked) -> Attempted | None:
    """The attempt that the ledger already has for this end."""
    lines = ledger.read(clone.root, asked.adapter)
    known = ledger.attempt_at(lines, asked.at)
    if known:
        return Attempted(known, None, {}, fresh=False)
    newest = max((attempt.end for attempt in ledger.state(lines).attempts), default="")
    if asked.at < newest:
        raise ParamsError(f"{asked.adapter} has an attempt at {newest}, {asked.at} is before that: attempts never go back")
    return None


def _inputs(clone: Clone, asked: _Asked) -> list[str]:
    """Put this attempt's inputs into the clone: data, champion, purpose, audit file; what git has to commit for them."""
    adapter, suites = asked.adapter, f"data/suites/{asked.adapter}"
    clone.pull([f"data/seed/{adapter}.jsonl.dvc", f"{suites}.dvc", f"data/failures/{adapter}.dvc", f"champion/{adapter}.dvc"])
    paths: list[str] = []
    if asked.overrides:
        edits.set_values(clone.root / "params.yaml", list(asked.overrides))
        paths.append("params.yaml")
    entries = ledger.read(clone.root, adapter)
    folder = clone.root / suites / "audit"
    asked = replace(asked, audited=tuple(tombstones.read(clone.root, asked.home).without(asked.audited)))
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
            "anchors": _anchors(clone, adapter, read_json(state_file)),
            "changes": ledger.suite_changes(entries, serving.digest) if serving else 0,
        },
    )
    return [*paths, f"champion/{adapter}.json"]


def _anchors(clone: Clone, adapter: str, before: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """suite -> row -> whether the champion was right that served when the row entered; `before`: state of the last attempt.

    That is the champion's answer in the first attempt that asked it about the row: those of the last attempt's rows that have
    no anchor yet get it now. A relabelled row is another row, with an anchor of its own; a row that left loses its anchor.
    """
    known = {suite: dict(rows) for suite, rows in before.get("anchors", {}).items()}
    metrics = clone.root / "out" / adapter / "metrics.json"
    if not before["digest"] or not metrics.exists() or read_json(metrics)["champion"] != before["digest"]:
        return known  # nothing has been judged against this champion yet
    if f"out/{adapter}/predictions" not in (clone.root / "dvc.lock").read_text("utf-8"):
        return known  # an erasure took them
    clone.dvc("pull", "--force", f"out/{adapter}/predictions")
    found: dict[str, dict[str, bool]] = {}
    for row in read_jsonl(clone.root / "out" / adapter / "predictions" / "predictions.jsonl"):
        suite, right = row["suite"], row["arms"].get("champion", {}).get("right")
        anchor = known.get(suite, {}).get(row["id"], right)
        if suite in ("golden", "retained") and anchor is not None:
            found.setdefault(suite, {})[row["id"]] = anchor
    return found


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


def _finish_attempt(
    registry: Registry | None, run_id: str, clone: Clone, card: Path, attempted: Attempted, say: Say
) -> None:  # fmt: skip
    out, attempt = clone.root / "out" / attempted.attempt.adapter, attempted.attempt
    scores = {
        f"{suite}.{arm}": score["right"]
        for suite, data in attempted.metrics["suites"].items()
        for arm, score in data["arms"].items()
    }
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
    head = workspace.remote_head()
    if not git(workspace.root, "ls-tree", "--name-only", head, path):
        return ""
    return git(workspace.root, "show", f"{head}:{path}")


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
