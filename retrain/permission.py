"""Whether a candidate that passed may serve now: what a person answered, in Airflow or in MLflow; pauses; hours.

An answer becomes a line of the ledger before it counts, so that the promoting job can look at it again and nobody has to
trust a tag or a task that said so before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from retrain import ledger
from retrain.errors import NothingToDo, ParamsError, StaleError, WaitingError
from retrain.jobs import RELEASE, entries, job, now, remote_params, write_line
from retrain.lines import Rebaseline
from retrain.params import Promotion, load
from retrain.records import parse_time
from retrain.registry import Registry
from retrain.workspace import Workspace

WORDS = {"approved": True, "rejected": False}  # the values of the tag `approval` that are an answer
UNANSWERED = "nobody answered"


@dataclass(frozen=True)
class Answer:
    """What was said of a candidate; `by` is who, where the place tells."""

    approved: bool
    via: Literal["airflow", "mlflow"]
    by: str | None
    reason: str


def from_airflow(told: Mapping[str, Any] | None) -> Answer | None:
    """What Airflow's approval task was answered (`chosen_options`, `responded_by_user`); None where it was not asked."""
    if told is None:
        return None
    approved, who = list(told["chosen_options"]) == ["Approve"], told["responded_by_user"]
    if who is None:
        return Answer(False, "airflow", None, f"{UNANSWERED} in time")
    return Answer(approved, "airflow", str(who["name"]), "the task approve")


def closed(rules: Promotion, state: ledger.LedgerState, at: datetime) -> str | None:
    """Why nothing is promoted at this instant; None where nothing holds it back. Pure."""
    pause = state.paused(at)
    if pause:
        until = f"until {pause.until}" if pause.until else "until `retrain resume`"
        return f"promotions are paused {until} ({pause.reason})"
    return rules.hours.closed(at) if rules.hours else None


def answered(entries: Sequence[ledger.Entry], digest: str, rules: Promotion) -> ledger.Decision | None:
    """What was said of these bytes, a yes only where it was said in the place that params ask now. Pure."""
    said = ledger.decision(entries, digest)
    return said if said and (not said.approved or rules.approval in ("auto", said.via)) else None


def decide(
    workspace: Workspace, adapter: str, answer: Answer | None = None, *, about: str | None = None
) -> ledger.Decision | None:
    """Record what a person said of the challenger; None where nobody said anything and params ask nobody, or there is none.

    answer: what Airflow's approval brought; MLflow is asked here for the version's tag `approval`. about: the digest that was
    asked about; where another candidate waits by now, StaleError: nobody has answered for that one. WaitingError while nobody
    has answered; no answer in promotion.answer_hours is a no. An answer that is recorded stays: a person's for ever, that
    nobody answered until these bytes are judged again.
    """
    with job(workspace, adapter, "decide", lock=RELEASE) as clone:
        rules = load(clone.root).of(adapter).promotion
        if rules.approval == "auto" and answer is None:
            return None
        lines = ledger.read(clone.root, adapter)
        newest, challenger = ledger.state(lines).attempts[-1:], ledger.state(lines).challenger
        asked = about or (newest[0].digest if newest else "")
        known = answered(lines, asked, rules)
        if known or challenger is None:
            return known
        if challenger.digest != asked:
            newer = f"the candidate of {adapter} at {challenger.end} waits by now"
            raise StaleError(f"{asked[:12]} was asked about, and {newer}: answer for that one")
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        number = registry.by_digest(adapter, challenger.digest)
        if answer is None and rules.approval == "mlflow":
            if number is None:
                fix = f"is not in MLflow: `retrain register {adapter}` first, then a person can answer there"
                raise WaitingError(f"the candidate of {adapter} at {challenger.end} {fix}")
            answer = _in_mlflow(registry, challenger, number, rules, datetime.now(UTC))
        if answer is None:
            raise WaitingError(f"the candidate of {adapter} at {challenger.end} {ledger.ASKS[rules.approval]}")
        line = ledger.Decision(at=now(), adapter=adapter, digest=challenger.digest, **vars(answer))
        write_line(clone, adapter, line)
        if number is not None:
            registry.tag(adapter, number, "approval", recorded(line))
        registry.follow(adapter, ledger.state(ledger.read(clone.root, adapter)))
        return line


def recorded(line: ledger.Decision) -> str:
    """The tag `approval` once the answer is in the ledger: what nobody set in MLflow is no answer there later on."""
    if line.via == "mlflow" and not line.reason.startswith(UNANSWERED):
        return "approved" if line.approved else "rejected"
    return line.told().partition(" ")[2]


def _in_mlflow(registry: Registry, asked: ledger.Attempt, number: int, rules: Promotion, at: datetime) -> Answer | None:
    """The tag `approval` of a version (and `approval_by`, `approval_reason`, where somebody gave them), or that time is up."""
    version = registry.version(asked.adapter, number)
    said = version.tags.get("approval", "").strip().lower()
    if said in WORDS:
        reason = version.tags.get("approval_reason") or f"tag approval of MLflow's version {number}"
        return Answer(WORDS[said], "mlflow", version.tags.get("approval_by"), reason)
    since = max(datetime.fromtimestamp(version.created, UTC), parse_time(asked.at))
    if at - since > timedelta(hours=rules.answer_hours):
        return Answer(False, "mlflow", None, f"{UNANSWERED} within {rules.answer_hours:g} hours")
    return None


def waits(workspace: Workspace, adapter: str) -> str | None:
    """Why the challenger cannot be promoted yet, for whoever polls; None where `decide` and `promote` may go on."""
    rules, lines = remote_params(workspace).of(adapter).promotion, entries(workspace, adapter)
    state = ledger.state(lines)
    if state.challenger is None:
        return None
    if rules.approval == "mlflow" and answered(lines, state.challenger.digest, rules) is None:
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        number = registry.by_digest(adapter, state.challenger.digest)
        if number is None or _in_mlflow(registry, state.challenger, number, rules, datetime.now(UTC)) is None:
            return "nobody has answered in MLflow"
    return closed(rules, state, datetime.now(UTC))


# --- pauses


def pause(workspace: Workspace, adapter: str, *, until: str | None, reason: str) -> ledger.Pause:
    """No promotion until a time (ISO 8601 with a zone), or until `resume`; monitoring and rollback go on."""
    reason = ledger.reason_of(reason, "why promotions wait", workspace.params.scrub)
    end = parse_time(until, "--until") if until else None
    if end and end <= datetime.now(UTC):
        raise ParamsError(f"--until {until} is over: give a time to come, or none for a pause until `retrain resume`")
    stamp = end.strftime("%Y-%m-%dT%H:%M:%SZ") if end else None
    with job(workspace, adapter, "pause", lock=RELEASE) as clone:
        line = ledger.Pause(at=now(), adapter=adapter, until=stamp, reason=reason)
        write_line(clone, adapter, line)
        return line


def resume(workspace: Workspace, adapter: str, *, reason: str) -> ledger.Resume:
    """NothingToDo where nothing is paused."""
    reason = ledger.reason_of(reason, "why they go on", workspace.params.scrub)
    with job(workspace, adapter, "resume", lock=RELEASE) as clone:
        if ledger.state(ledger.read(clone.root, adapter)).paused(datetime.now(UTC)) is None:
            raise NothingToDo(f"promotions of {adapter} are not paused")
        line = ledger.Resume(at=now(), adapter=adapter, reason=reason)
        write_line(clone, adapter, line)
        return line


# --- where losses begin to count


def rebaseline(workspace: Workspace, adapter: str, *, reason: str) -> Rebaseline:
    """Small losses add up anew from what serves now: the next retraining anchors `golden` and `retained` there.

    For a loss that was wanted, which `anchored` would hold against every later candidate. NothingToDo where nothing serves.
    """
    reason = ledger.reason_of(reason, "why the losses until now are accepted", workspace.params.scrub)
    with job(workspace, adapter, "rebaseline", lock=RELEASE) as clone:
        champion = ledger.state(ledger.read(clone.root, adapter)).champion
        if champion is None:
            raise NothingToDo(f"{adapter} has no champion: nothing is held against anything yet")
        line = Rebaseline(at=now(), adapter=adapter, version=champion.version, digest=champion.digest, reason=reason)
        write_line(clone, adapter, line, about=champion.version)
        return line
