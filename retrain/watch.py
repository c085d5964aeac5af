"""Jobs that look at production: measure a window, decide, and say what a retraining is for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitoring import failures, judge, planner, trigger
from monitoring.selection import Selector
from monitoring.sources import Rows
from monitoring.windows import Window
from retrain import assessments, jobs, ledger, notify, policies, projections, review
from retrain.clusters import independent, joins
from retrain.contamination import Likeness
from retrain.door import Door, why_not_believed
from retrain.errors import DataError, NothingToDo, ParamsError, RetrainError
from retrain.measure import KEPT, Measured, Site, measure, window_of
from retrain.prepare import learns
from retrain.process import git, public, try_git
from retrain.records import Example, from_stamp, parse_time, stamp, unit_hash
from retrain.registry import Registry
from retrain.userids import open_logs
from retrain.workspace import Workspace

Say = Callable[[str], None]
MOST_MISSED = 60  # windows: older ones that nobody measured stay unmeasured


@dataclass(frozen=True)
class Watched:
    """One window measured: its record, the decision, and where the report lies."""

    record: trigger.WindowRecord
    decision: trigger.TriggerDecision
    report: Path


def monitor(workspace: Workspace, adapter: str, window: Window, *, backfill: bool = False, asked: bool = False) -> Watched:
    """Measure a window against the champion's reference, decide, and record both in MLflow; then tell people.

    Windows before it to which rows or labels came late are measured again first: that replaces what the trigger sees of
    them. A backfilled window never trains, unless it was asked for; nor does any where a policy says `manual`.
    """
    try:
        watched = _measured(workspace, adapter, window, backfill, asked)
    except Exception as error:
        notify.failed(workspace, adapter, end=stamp(window.end), error=error)
        raise
    after_window(workspace, watched.record)
    return watched


def after_window(workspace: Workspace, record: trigger.WindowRecord) -> None:
    """The pages, feedback for MLflow, word to people where it fired; what fails is a warning, for the window is recorded."""
    projections.refresh(workspace, record.adapter, panels=True, say=notify.warn)
    assessments.catch_up(workspace, record.adapter, say=notify.warn)
    if record.fire:
        page = projections.page_of(workspace, record.adapter)
        notify.fired(workspace, record.adapter, end=record.end, reasons=record.reasons, page=page)


def _changed_here(workspace: Workspace, path: str) -> bool:
    """Whether a file differs from what the remote once held: a checkout that is only behind has changed nothing."""
    common = git(workspace.root, "merge-base", "HEAD", workspace.remote_head())
    return bool(try_git(workspace.root, "diff", "--quiet", common, "--", path).returncode)


def _measured(workspace: Workspace, adapter: str, window: Window, backfill: bool, asked: bool) -> Watched:
    site = Site.open(workspace, adapter)
    if site.params != workspace.params.of(adapter) and _changed_here(workspace, "params.yaml"):
        notify.warn(
            f"note: params.yaml here has changes that {public(workspace.remote)} lacks, which windows are measured by: push"
        )
    site.registry.close_stale(adapter)
    again = site.again(window)
    fresh, unread = _labelled(site, window)
    known = _known(site, window, fresh, unread, bool(again))
    collection = known.collection
    for record, _ in again:
        second = measure(site, window_of(record), unbelieved=collection.unbelieved | known.suspected)
        _log(site, trigger.measured_again(record, second.record), second)
    if again:
        site = Site.open(workspace, adapter)
    late = sum(rows for _, rows in again)
    made = measure(site, window, late=late, backfill=backfill, unbelieved=collection.unbelieved)
    facts = _facts(site, asked, unread, known)
    record = made.record.model_copy(
        update={
            "new_labels": {label: rows for label, (rows, _) in collection.new_labels.items()},
            "new_failures": facts.new_failures,
            "suspected": len(collection.unbelieved),
            "unread_audit": facts.unread_audit,
            "facts": facts,
            "policy": site.params.trigger.model_dump(mode="json"),
        }
    )
    decision = trigger.decide([*site.past, record], policy=site.params.trigger, facts=facts)
    reasons = [
        *decision.reasons,
        *(f"new label: {label}, {rows} rows, {users} users" for label, (rows, users) in collection.new_labels.items()),
        *why_not_believed(collection.quarantined),
        *(f"what changed: {change['words']}" for change in record.changed if record.violations),
        *(f"data check: {line}" for line in record.data_checks),
    ]
    record = record.model_copy(update={"fire": decision.fire, "purpose": decision.purpose, "reasons": reasons})
    first = next((row for row in site.past if (row.start, row.end) == (record.start, record.end)), None)
    if first and facts.newest and record.end < facts.newest:
        record = trigger.measured_again(first, record)
    _log(site, record, made)
    return Watched(record, decision, made.report)


def _log(site: Site, record: trigger.WindowRecord, made: Measured) -> None:
    metrics = {**made.metrics, "fire": float(record.fire)}
    site.registry.log_window(site.adapter, record.as_dict(), metrics, [made.report] if made.report.exists() else [])


@dataclass(frozen=True)
class _Known:
    """Failure cases in what became known since the last retraining (what is suspected counts as none), rows that a retraining
    would learn, and requests that were suspected before."""

    collection: failures.Collection
    learned: list[Example]
    suspected: frozenset[str]


def _labelled(site: Site, window: Window) -> tuple[Rows, Rows]:
    """What became known since the last retraining, and since a verdict last read audited rows."""
    attempts = site.state.attempts
    since, judged = (tried[-1].end if tried else None for tried in (attempts, ledger.judged(attempts)))
    fresh = site.logs.known(window.end, from_stamp(since) if since else None)
    return fresh, fresh if since == judged else site.logs.known(window.end, from_stamp(judged) if judged else None)


def _known(site: Site, window: Window, fresh: Rows, unread: Rows, again: bool) -> _Known:
    """again: older windows are measured again, for which it matters what was suspected before."""
    attempts, at = site.state.attempts, stamp(window.end)
    since = from_stamp(attempts[-1].end) if attempts else None
    door = None
    labelled = fresh.where(lambda t: t.correction.notnull()).count() or unread.where(lambda t: t.audit_label.notnull()).count()
    if again or labelled:
        with site.workspace.clone(f"door-{site.adapter}") as clone:
            door = Door.of(clone, site.adapter, before=at)
    collection = failures.failure_cases(
        fresh, audit_rate=site.params.failures.audit_rate, labels=site.labels, seen=set(), collected=at, schema=site.schema,
        doubt=door, source=door.source if door else None,
        selector=Selector.of(site.params.failures, site.labels, site.schema, judge.doubted(row.judge for row in site.past)),
        reviewed=review.known(site.workspace, site.adapter, site.logs, window.end, since),
    )  # fmt: skip
    human = [*(door.seed + door.earlier if door else []), *collection.examples]
    learned = [row for row in human if learns(row, site.params.prepare)]
    return _Known(collection, learned, door.suspected if door else frozenset())


def _facts(site: Site, asked: bool, unread: Rows, known: _Known) -> trigger.Facts:
    """What a decision rests on besides the windows."""
    params, attempts = site.params, site.state.attempts
    rate = params.failures.audit_rate
    like = Likeness.of(params.prepare.near, params.adapter(site.adapter))
    runs = site.registry.training_runs(site.adapter, KEPT)
    return trigger.Facts(
        at=site.now,
        champion=site.version,
        trained=site.attempt.end if site.attempt else None,
        attempts=tuple(attempt.end for attempt in attempts)[-KEPT:],
        newest=site.past[-1].end if site.past else None,
        erased=_owed_since(site),
        new_failures=len(known.collection.examples) + len(known.collection.held),
        unread_audit=_enter_tests(_unread(site, unread), known.learned, params.prepare.audit_share, like),
        audit_wrong=failures.audit_wrong(unread, audit_rate=rate, schema=site.schema),
        cost=policies.cost([run.span for run in runs], site.now),
        training=max((run.start for run in runs if run.end is None), default=None),
        asked=asked,
        bar=planner.bar(params),
    )


def _unread(site: Site, since: Rows) -> list[Example]:
    """Audited rows that no verdict has read, as `inputs.write_audit` will take them; a question asked again is no new one."""
    rate, judged = site.params.failures.audit_rate, ledger.judged(site.state.attempts)
    found = failures.audited(since, audit_rate=rate)
    if not judged or not found:
        return found
    read = {row.id for row in failures.audited(site.logs.known(from_stamp(judged[-1].end)), audit_rate=rate)}
    return [row for row in found if row.id not in read]


def _owed_since(site: Site) -> str | None:
    """End of the attempt after which rows were erased that what serves has learned; None where none were."""
    owed = ledger.owed(jobs.entries(site.workspace, site.adapter))
    return max(line.after or "" for line in owed) or None if owed else None


def pending(workspace: Workspace, adapter: str, window: Window) -> list[Window]:
    """The windows that were missed since the last recorded one, then this one: each is processed once, in order.

    A window that is not newer than the last recorded one stands alone, and so does one that does not follow on it in whole
    steps of its own length.
    """
    past = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 1)
    if not past:
        return [window]
    last = from_stamp(past[-1]["end"])
    gap = window.start - last
    if gap <= timedelta(0) or gap % window.length:
        return [window]
    found = [window]
    while found[0].start > last and len(found) <= MOST_MISSED:
        found.insert(0, Window(found[0].start - window.length, found[0].start))
    return found


def recorded(workspace: Workspace, adapter: str, window: Window) -> trigger.WindowRecord:
    """What a run recorded of a window; NothingToDo where none did."""
    rows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 50)
    found = [row for row in rows if row["start"] == stamp(window.start) and row["end"] == stamp(window.end)]
    if not found:
        raise NothingToDo(f"{adapter}: no run has measured the window [{stamp(window.start)}, {stamp(window.end)})")
    return trigger.WindowRecord.model_validate(found[0])


def _enter_tests(audited: list[Example], learned: list[Example], share: float, like: Likeness) -> int:
    """Rows that would enter the gate's tests: one a cluster, less the share that goes to `retained`, and less the copies of
    what a retraining would learn."""
    judging = [row for row in audited if unit_hash(row.split_key, "to-retained") >= share]
    known = {row.key for row in learned}
    left = [row for row, at in zip(judging, like.copied(judging, learned), strict=True) if at < 0 and row.key not in known]
    joined = {row.id: shared for row, shared in zip(left, joins(left, like.pairs(left)), strict=True)}
    return len(independent(joined, of=lambda row_id: (row_id, joined[row_id])))


# --- collection


def due(workspace: Workspace, adapter: str, end: str | None) -> datetime:
    """What a retraining is for: the given end, else that of the newest window that fired, or showed a champion to be harmed,
    and was not yet acted on."""
    if end:
        return parse_time(end, "end")
    lines = jobs.entries(workspace, adapter)
    attempts = ledger.state(lines).attempts
    done = attempts[-1].end if attempts else ""
    windows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 50)
    fired = [row["end"] for row in windows if row["fire"] and row["end"] > done]
    fired += [line.end for line in harmed(lines)]
    if not fired and any((line.after or "") == done for line in ledger.owed(lines)):
        return datetime.now(UTC).replace(microsecond=0)
    if not fired:
        raise NothingToDo(
            f"{adapter}: no window has fired since the last attempt ({done or 'none yet'}); give an end to train anyway"
        )
    return from_stamp(max(fired))


def harmed(lines: Sequence[ledger.Entry]) -> list[ledger.Watch]:
    """Champions that were shown to be worse since the newest attempt: a retraining is due. Pure."""
    attempts = ledger.state(lines).attempts
    done = attempts[-1].end if attempts else ""
    return [line for line in lines if isinstance(line, ledger.Watch) and line.outcome == "harmed" and line.end > done]


def rebase(workspace: Workspace, adapter: str, base: str, end: datetime, *, say: Say) -> jobs.Attempted:
    """Retrain on another base with purpose `replace`; the adapter keeps its own until a candidate on the new one passes."""
    params = jobs.remote_params(workspace)
    if base not in params.bases:
        known = ", ".join(params.bases)
        raise ParamsError(f"base {base!r} is not in params.yaml, which has {known}: add it under bases and push")
    if params.adapter(adapter).base == base:
        raise NothingToDo(f"{adapter} is on base {base} already")
    return retrain(workspace, adapter, end, say=say, overrides=(f"adapters.{adapter}.base={base}",), trial=True)


def retrain(
    workspace: Workspace, adapter: str, end: datetime, *, say: Say, overrides: tuple[str, ...] = (), trial: bool = False
) -> jobs.Attempted:
    """`jobs.retrain` with the audited rows of the log store that are known before `end`; a trial of overrides replaces."""
    params, lines = jobs.remote_params(workspace).of(adapter), jobs.entries(workspace, adapter)
    done = ledger.attempt_at(lines, stamp(end))
    if done:  # before the logs, which may be gone by now
        return jobs.Attempted(done, None, {}, fresh=False)
    try:
        known = open_logs(workspace, params, adapter).known(end)
        audited = failures.audited(known, audit_rate=params.failures.audit_rate)
    except DataError:
        if ledger.state(lines).champion:
            raise
        audited = []  # before there is traffic the shipped or seed rows judge
    owed = ledger.owed(lines)
    purpose = "replace" if owed or trial else _purpose(workspace, adapter, end, say)
    if owed:
        say(f"purpose replace: {ledger.erased(owed[-1])}, and what serves has learned them")
    return jobs.retrain(
        workspace, adapter, end=end, purpose=purpose, audited=audited, overrides=overrides, trial=trial, say=say
    )


def _purpose(workspace: Workspace, adapter: str, end: datetime, say: Say) -> policies.Purpose:
    """What the window that fired at `end` opened; `improve` where none did: a person has started this one."""
    try:
        windows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 50)
    except RetrainError as error:
        say(f"warning: {error}; what fired at {stamp(end)} is not known, the candidate has to be better (improve)")
        return "improve"
    fired = [row.get("purpose") for row in windows if row["fire"] and row["end"] == stamp(end)]
    return "replace" if "replace" in fired else "improve"
