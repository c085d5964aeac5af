"""What serves: register a candidate, promote it, roll back (`guard` watches over it, `permission` says who may).

The ledger in git decides, by push; MLflow's aliases follow it. Order of outside effects: upload, verify, record, then point.
Killed anywhere and run again, each converges.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrain import ledger, looks, permission, routes
from retrain.errors import IntegrityError, NothingToDo, RejectedError, StaleError, WaitingError
from retrain.jobs import RELEASE, TRIES, entries, job, now, remote_params, write_line
from retrain.markdown import linked
from retrain.params import load
from retrain.process import public
from retrain.registry import Registry
from retrain.registry.champion import from_dvc, verdict_at
from retrain.restore import card_of, restored, tags_of
from retrain.workspace import Clone, Workspace

# variables with the addresses at which people see them, for links in what they are asked; `retrain up` sets both
MLFLOW, PAGES = "RETRAIN_MLFLOW", "RETRAIN_PAGES"


@dataclass(frozen=True)
class Served:
    """What serves after a promotion or rollback, and the ledger's line that this call wrote, None where it had said so before.

    `repaired`: MLflow's alias said something else (a job died before it moved, or somebody moved it) and follows again.
    """

    promotion: ledger.Promotion
    line: ledger.Promotion | ledger.Rollback | None
    repaired: bool

    def told(self) -> str:
        return f"{self.promotion.tag} is champion"

    def as_dict(self) -> dict[str, Any]:
        return self.promotion.as_dict()


def register(workspace: Workspace, adapter: str) -> int:
    """The MLflow version of the newest attempt's bytes, which is `challenger` from now on; RejectedError where its verdict is
    not passed."""
    with job(workspace, adapter, "register", lock=RELEASE) as clone:
        number = registered(workspace, clone, adapter, _newest(clone, adapter, forced=None))
        _follow(workspace, clone, adapter)
        return number


def _newest(clone: Clone, adapter: str, *, forced: str | None) -> ledger.Attempt:
    attempts = ledger.state(ledger.read(clone.root, adapter)).attempts
    if not attempts:
        raise NothingToDo(f"{adapter} has no attempt in its ledger: run `retrain repro {adapter}` first")
    if not attempts[-1].promote and forced is None:
        raise RejectedError(f"the newest attempt of {adapter} ({attempts[-1].end}) did not pass: {attempts[-1].why}")
    return attempts[-1]


def registered(workspace: Workspace, clone: Clone, adapter: str, attempt: ledger.Attempt, forced: str | None = None) -> int:
    """MLflow's number of an attempt (hold RELEASE): bytes and verdict by commit, which belong together, uploaded, verified."""
    lines = ledger.read(clone.root, adapter)
    _unerased(lines, attempt)
    workspace.remote_head()  # brings the commit here
    verdict = verdict_at(workspace, adapter, attempt.commit)
    if verdict.bound["adapter"] != attempt.digest or not (verdict.promote or forced):
        raise RejectedError(f"verdict.json of {attempt.commit[:12]} is {verdict.status} on {verdict.bound['adapter'][:12]}")
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    known = registry.run_of(adapter, attempt.digest)  # None where MLflow was down when it trained
    run_id = known or registry.start_training(adapter, {"digest": attempt.digest})
    card = card_of(workspace, adapter, attempt.commit)
    with tempfile.TemporaryDirectory() as scratch:
        folder = from_dvc(workspace, adapter, attempt.commit, Path(scratch) / "adapter", digest=attempt.digest)
        number = registry.register(
            adapter, folder, digest=attempt.digest, tags=tags_of(attempt, forced), description=card, run_id=run_id,
            taken={**looks.tried(lines), **ledger.state(lines).taken()},
        )  # fmt: skip
    if not known:
        registry.finish(run_id, "FINISHED", {}, {"why": "only its bytes: MLflow was down when it trained"}, [])
    return number


def _unerased(lines: Sequence[ledger.Entry], attempt: ledger.Attempt) -> None:
    """RejectedError where it learned rows that are gone."""
    learned = ledger.erasures(lines, attempt.digest)
    if learned:
        told = f"the attempt of {attempt.adapter} at {attempt.end} learned rows that are gone"
        raise RejectedError(f"{told} ({ledger.erased(learned[-1])}): `retrain repro {attempt.adapter}` trains without them")


def _open(clone: Clone, adapter: str) -> None:
    """WaitingError where a pause or the hours hold promotions back."""
    rules, state = load(clone.root).of(adapter).promotion, ledger.state(ledger.read(clone.root, adapter))
    closed = permission.closed(rules, state, datetime.now(UTC))
    if closed:
        raise WaitingError(f"{adapter} is not promoted now: {closed}")


@dataclass(frozen=True)
class Challenged:
    """A registered candidate: who lets it serve (auto, airflow, mlflow), a line on it and its card, for whoever answers."""

    adapter: str
    number: int
    asks: str
    subject: str
    card: str


def challenge(workspace: Workspace, adapter: str) -> Challenged:
    """`register`, and what a person has to know who is asked."""
    number = register(workspace, adapter)
    lines, rules = entries(workspace, adapter), remote_params(workspace).of(adapter).promotion
    attempt, asks = ledger.state(lines).attempts[-1], rules.approval
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    tag, known = registry.version(adapter, number).tags.get("approval", ""), permission.answered(lines, attempt.digest, rules)
    if asks == "mlflow" and known is None and tag.strip().lower() not in permission.WORDS:
        registry.tag(adapter, number, "approval", "waiting")
    subject = f"Shall {adapter}-v{number} serve? {attempt.why}"
    card = _shown(workspace, registry, adapter, number, card_of(workspace, adapter, attempt.commit))
    return Challenged(adapter, number, asks, subject, card)


def _shown(workspace: Workspace, registry: Registry, adapter: str, number: int, card: str) -> str:
    """The card with links to what its reader may want to see, where their addresses are known here."""
    named, pages = workspace.params.mlflow.uri or "", os.environ.get(PAGES)
    server = public(named).rstrip("/") if named.startswith("http") else os.environ.get(MLFLOW)
    links, picture = [], None
    if server:
        found = registry.addresses(registry.version(adapter, number).run)
        links = [
            (f"{adapter} version {number} in MLflow", f"{server}/#/models/{adapter}/versions/{number}"),
            ("its run", f"{server}/{found['run']}"),
        ]
        picture = f"{server}/{found['picture']}" if "picture" in found else None
    links += [(f"the story of {adapter}", f"{pages}/{adapter}.html")] if pages else []
    return linked(card, links, picture)


def waits(workspace: Workspace, adapter: str) -> str | None:
    """Why the challenger cannot be promoted yet, for whoever polls; one that MLflow has lost is registered again, for a person
    to answer there."""
    challenger = ledger.state(entries(workspace, adapter)).challenger
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    asks = challenger and remote_params(workspace).of(adapter).promotion.approval
    if challenger and asks == "mlflow" and registry.by_digest(adapter, challenger.digest) is None:
        challenge(workspace, adapter)
    return permission.waits(workspace, adapter)


def promote(workspace: Workspace, adapter: str, *, about: str | None = None, forced: str | None = None) -> Served:
    """Make the newest passed candidate champion: registered, ledger by push, then the alias.

    Verdict and approval are looked at again here, whoever looked before. An alias that is not what the ledger says is first
    put right; where the newest attempt did not pass, that is all. about: the digest that is meant; StaleError where a newer
    attempt has come. forced: the reason for which the newest attempt becomes
    champion whatever gate, people, hours and pauses say; it stays in the ledger and on the version for ever. Then the router is
    fitted again, if there is one; where that fails the promotion stands.
    """
    served = _promote(workspace, adapter, about, forced)
    routes.follow(workspace)
    return served


def _promote(workspace: Workspace, adapter: str, about: str | None, forced: str | None) -> Served:
    forced = ledger.reason_of(forced, "why the gate is overruled", workspace.params.scrub) if forced is not None else None
    with job(workspace, adapter, "promote", lock=RELEASE) as clone:
        repaired = _follow(workspace, clone, adapter)
        state = ledger.state(ledger.read(clone.root, adapter))
        try:
            attempt = _meant(clone, state, adapter, about, forced)
        except RejectedError:
            if repaired is None:
                raise
            return Served(repaired, None, repaired=True)
        if state.champion and state.champion.digest == attempt.digest:
            return Served(state.champion, None, repaired=repaired is not None)
        if forced is None:
            _open(clone, adapter)
        number = registered(workspace, clone, adapter, attempt, forced)
        _record(clone, attempt, number, forced)
        return _placed(workspace, clone, adapter, repaired)


def _meant(clone: Clone, state: ledger.LedgerState, adapter: str, about: str | None, forced: str | None) -> ledger.Attempt:
    """The attempt that is to be promoted: the newest, and that of `about`, or what serves already."""
    if state.champion and state.champion.digest == about:
        return next(attempt for attempt in reversed(state.attempts) if attempt.digest == about)
    attempt = _newest(clone, adapter, forced=forced)
    if about not in (None, attempt.digest):
        raise StaleError(f"{about[:12]} is not the newest attempt of {adapter} any more: {attempt.digest[:12]} is")
    return attempt


def _record(clone: Clone, attempt: ledger.Attempt, number: int, forced: str | None) -> None:
    """The promotion's line and tag, by push; a push that was refused looks at verdict, answer, champion, pauses, hours and
    erasures again."""
    adapter, tag = attempt.adapter, f"{attempt.adapter}-v{number}"

    def write(clone: Clone) -> None:
        entries, asks = ledger.read(clone.root, adapter), load(clone.root).of(adapter).promotion.approval
        line = ledger.promote_line(
            entries, digest=attempt.digest, version=number, tag=tag, at=now(), approval=asks, forced=forced
        )
        _unerased(entries, attempt)
        if forced is None:
            _open(clone, adapter)
        ledger.append(clone.root, adapter, line)
        clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: v{number} is champion{', FORCED' if forced else ''}")
        clone.git("tag", "--force", tag, attempt.commit)

    write(clone)
    clone.publish(write, tries=TRIES, tags=(tag,))


def rollback(
    workspace: Workspace, adapter: str, *, version: int | None, reason: str, also: Sequence[ledger.Entry] = (),
    expected: int | None = None,
) -> Served:  # fmt: skip
    """Put back the version that served before (or a given one that served): ledger by push, then the alias.

    Where MLflow's alias is not what the ledger says, as after a rollback that died half-way, it is first put right, and
    without a version that is all: run again, a rollback never undoes itself. A version that MLflow has lost is registered
    again first. also: lines that belong to it, written in the same commit. expected: the version that it is about;
    StaleError where another one serves, then or by the time of the push.
    """
    with job(workspace, adapter, "rollback", lock=RELEASE) as clone:
        try:
            repaired = _follow(workspace, clone, adapter)
        except IntegrityError:  # MLflow has lost what serves: all the more reason to go back
            repaired = None
        if repaired and version in (None, repaired.version):
            return Served(repaired, None, repaired=True)
        lines = ledger.read(clone.root, adapter)
        target = ledger.rollback_line(lines, adapter=adapter, version=version, reason=reason, at=now(), expected=expected)
        _, again = restored(workspace, clone, ledger.state(lines).versions[target.version])

        def write(clone: Clone) -> None:
            entries = ledger.read(clone.root, adapter)
            line = ledger.rollback_line(
                entries, adapter=adapter, version=target.version, reason=reason, at=now(), expected=target.from_version
            )
            for entry in (*also, *([again] if again else []), line):
                ledger.append(clone.root, adapter, entry)
            clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: back to v{line.version}: {reason}")

        write(clone)
        clone.publish(write, tries=TRIES)
        return _placed(workspace, clone, adapter, repaired)


def note(workspace: Workspace, adapter: str, line: ledger.Entry, *, about: int) -> None:
    """Write one line about the version that serves to the ledger, by push; StaleError where another one serves by then."""
    with job(workspace, adapter, "note", lock=RELEASE) as clone:
        write_line(clone, adapter, line, about=about)


def _follow(workspace: Workspace, clone: Clone, adapter: str) -> ledger.Promotion | None:
    """What serves, where MLflow's aliases had to be moved to say so; None where they agreed."""
    state = ledger.state(ledger.read(clone.root, adapter))
    moves = Registry.open(workspace.params.mlflow, workspace.root).follow(adapter, state)
    return state.champion if any(move.alias != "challenger" for move in moves) else None


def _placed(workspace: Workspace, clone: Clone, adapter: str, repaired: ledger.Promotion | None) -> Served:
    """The ledger has moved: the alias follows."""
    _follow(workspace, clone, adapter)
    lines = ledger.read(clone.root, adapter)
    serving, line = ledger.state(lines).champion, lines[-1]
    if serving is None or not isinstance(line, ledger.Promotion | ledger.Rollback):
        raise IntegrityError(f"{adapter} was given a champion, and its ledger ends in {ledger.describe(line)}")
    return Served(serving, line, repaired=repaired is not None)
