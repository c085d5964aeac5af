"""A challenger beside the champion: begin, look, pause, go on, promote, roll back. Its state is the ledger's lines and the
door's log rows; `looks` decides, the door (`serving.arms`) follows.

Looks are made where the door writes its logs. Each writes at most one line, by push, and only if the ledger still says what
was looked at.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from retrain import jobs, ledger, looks, permission, release, traffic
from retrain.errors import NothingToDo, StaleError, WaitingError
from retrain.jobs import RELEASE, TRIES, job
from retrain.looks import Judged, Look
from retrain.params import load
from retrain.records import parse_time
from retrain.workspace import Clone, Workspace


@dataclass(frozen=True)
class Looked:
    """What a look found: the line of the rollout it is about, None where none runs; what was judged, where one was; the line
    that it wrote."""

    line: ledger.Rollout | None
    look: Look | None = None
    judged: Judged | None = None
    wrote: ledger.Entry | None = None
    note: str | None = None

    def told(self) -> list[str]:
        if self.line is None:
            return [self.note or "no challenger is tried"]
        found = [f"{self.line.tag} against v{self.line.against}, step {self.line.step + 1}: {self.line.share()}"]
        found += [f"  {self.look.told()}"] if self.look else []
        found += [f"  {self.judged.told()}"] if self.judged else []
        return [*found, *([f"  {self.note}"] if self.note else []), *([self.wrote.told()] if self.wrote else [])]

    def as_dict(self, adapter: str) -> dict[str, Any]:
        look = self.look
        counts = {"challenger": look.count("challenger"), "champion": look.count("champion")} if look else None
        pairs = {"labels": look.labels, "lost": look.lost, "won": look.won} if look else None
        return {
            "schema": 1, "adapter": adapter, "rollout": self.line.as_dict() if self.line else None, "requests": counts,
            "pairs": pairs, "judged": asdict(self.judged) if self.judged else None,
            "wrote": self.wrote.as_dict() if self.wrote else None, "note": self.note,
        }  # fmt: skip


# --- begin


def conclude(
    workspace: Workspace, adapter: str, answer: permission.Answer | None = None, *, about: str | None = None
) -> release.Served | ledger.Decision | ledger.Rollout:
    """Record the answer (about: the digest that it is about) where params ask for one, then promote, or begin the rollout that
    params ask for; a no is a value."""
    said = permission.decide(workspace, adapter, answer, about=about)
    if said and not said.approved:
        return said
    return _begin(workspace, adapter, about) or release.promote(workspace, adapter, about=about)


def _begin(workspace: Workspace, adapter: str, about: str | None) -> ledger.Rollout | None:
    """The line with which the newest passed candidate is tried, that of the rollout which runs already, or None where nothing
    has to be tried: no steps, no champion to compare with, what serves already, nothing that passed. Errors of `promote`."""
    with job(workspace, adapter, "rollout", lock=RELEASE) as clone:
        lines, rules = ledger.read(clone.root, adapter), load(clone.root).of(adapter).promotion
        state = ledger.state(lines)
        newest = state.attempts[-1] if state.attempts else None
        if not rules.rollout.steps or state.champion is None or newest is None or not newest.promote:
            return None
        if newest.digest in {line.digest for line in state.versions.values()} or about not in (None, newest.digest):
            return None  # `promote` says what is wrong, or that it is done
        now = looks.running(lines)
        if now and now.action != "passed":
            return now
        if now:
            return None
        if closed := permission.closed(rules, state, datetime.now(UTC)):
            raise WaitingError(f"{adapter} begins no rollout now: {closed}")
        ledger.promote_line(lines, digest=newest.digest, version=max([0, *state.taken()]) + 1, tag="-", at=jobs.now(),
                            approval=rules.approval)  # fmt: skip
        number = release.registered(workspace, clone, adapter, newest)
        first = rules.rollout.steps[0]
        line = ledger.Rollout(
            at=jobs.now(), adapter=adapter, action="begun", version=number, digest=newest.digest, commit=newest.commit,
            against=state.champion.version, step=0, weight=first.weight, hours=first.hours, why=newest.why,
        )  # fmt: skip
        _push(clone, adapter, line, None)
        return line


def _push(clone: Clone, adapter: str, line: ledger.Rollout, before: ledger.Rollout | None) -> None:
    """Write a line, by push, where the ledger still says what it follows on."""

    def write(clone: Clone) -> None:
        lines = ledger.read(clone.root, adapter)
        if looks.running(lines) != before or (before is None and ledger.state(lines).attempts[-1].digest != line.digest):
            raise StaleError(f"the ledger of {adapter} has moved: look again (`retrain rollout status {adapter}`)")
        ledger.append(clone.root, adapter, line)
        clone.commit([f"ledger/{adapter}.jsonl"], f"{adapter}: {line.told()[:100]}")

    write(clone)
    clone.publish(write, tries=TRIES)


# --- look


def look(workspace: Workspace, adapter: str, at: datetime | None = None, *, write: bool = True) -> Looked:
    """Look at the rollout that runs and do what follows: go on, stay, end it, or promote after the last step. at: now.

    write: False only says what would follow.
    """
    at = at or datetime.now(UTC)
    lines, params = jobs.entries(workspace, adapter), jobs.remote_params(workspace).of(adapter)
    line = looks.running(lines)
    if line is None or line.action == "paused":
        return Looked(line, note=_ended(lines) if line is None else f"paused: {line.why}")
    if line.action == "passed":
        return _promoted(workspace, adapter, line) if write else Looked(line, note="it waits to be promoted")
    rules = params.promotion.rollout
    found = traffic.seen(workspace, params, adapter, line, since=parse_time(looks.begun(lines, line).at), at=at)
    judged = looks.judge(found, line, rules)
    then = looks.following(line, judged, rules, jobs.now())
    if then is None or not write:
        return Looked(line, found, judged)
    _write(workspace, adapter, then, line)
    if then.action != "passed":
        return Looked(line, found, judged, then)
    last = _promoted(workspace, adapter, then)
    return Looked(line, found, judged, last.wrote or then, last.note)


def _write(workspace: Workspace, adapter: str, line: ledger.Rollout, before: ledger.Rollout) -> None:
    with job(workspace, adapter, "rollout", lock=RELEASE) as clone:
        _push(clone, adapter, line, before)


def _promoted(workspace: Workspace, adapter: str, line: ledger.Rollout) -> Looked:
    try:
        made = release.promote(workspace, adapter, about=line.digest)
    except WaitingError as waits:  # a pause, or hours at which nothing is promoted
        return Looked(line, note=str(waits))
    return Looked(line, wrote=made.line, note=None if made.line else made.told())


def _ended(lines: list[ledger.Entry]) -> str:
    """How the newest rollout ended: by its own line, or because the ledger moved."""
    at = max((n for n, entry in enumerate(lines) if isinstance(entry, ledger.Rollout)), default=None)
    if at is None:
        return "no challenger is tried"
    last = lines[at]
    if isinstance(last, ledger.Rollout) and last.action == "ended":
        return ledger.describe(last)
    moved = next(n for n in range(at, len(lines) + 1) if looks.running(lines[:n]) is None and n > at) - 1
    return f"the rollout ended when the ledger moved: {ledger.describe(lines[moved])}"


# --- what a person says


def _now_running(workspace: Workspace, adapter: str) -> ledger.Rollout:
    line = looks.running(jobs.entries(workspace, adapter))
    if line is None:
        raise NothingToDo(f"no challenger of {adapter} is tried")
    return line


def _say(workspace: Workspace, adapter: str, reason: str, before: ledger.Rollout, **change: Any) -> ledger.Rollout:
    why = ledger.reason_of(reason, "why", workspace.params.scrub)
    line = before.model_copy(update={"at": jobs.now(), "why": why, **change})
    _write(workspace, adapter, line, before)
    return line


def pause(workspace: Workspace, adapter: str, *, reason: str) -> ledger.Rollout:
    """The champion answers everybody until `resume`; the challenger stays loaded."""
    line = _now_running(workspace, adapter)
    if line.action in ("paused", "passed"):
        raise NothingToDo(f"the rollout of {line.tag} is {line.action} already")
    return _say(workspace, adapter, reason, line, action="paused")


def resume(workspace: Workspace, adapter: str, *, reason: str) -> ledger.Rollout:
    """The step begins anew."""
    line = _now_running(workspace, adapter)
    if line.action != "paused":
        raise NothingToDo(f"the rollout of {line.tag} is not paused")
    return _say(workspace, adapter, reason, line, action="resumed")


def rollback(workspace: Workspace, adapter: str, *, reason: str) -> ledger.Rollout:
    """The champion answers everybody, and the challenger is out of the running."""
    return _say(workspace, adapter, reason, _now_running(workspace, adapter), action="ended", outcome="withdrawn")


def promote(workspace: Workspace, adapter: str, *, reason: str) -> release.Served:
    """Champion now, whatever steps are left; gate, approval, pauses and hours are asked as ever."""
    line = _now_running(workspace, adapter)
    if line.action != "passed":
        line = _say(workspace, adapter, reason, line, action="passed")
    return release.promote(workspace, adapter, about=line.digest)
