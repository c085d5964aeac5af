"""Jobs that look at production: measure a window and decide, collect failure cases into the next dataset version."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring import drift, failures, quality, trigger
from monitoring.sources import LogTable, read_logs
from monitoring.windows import Window
from retrain import expectations, jobs, ledger, notify, projections
from retrain.errors import DataError, NothingToDo, ParamsError
from retrain.params import load
from retrain.records import Example, from_stamp, parse_time, read_examples, read_folder, stamp, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Clone, Workspace

Say = Callable[[str], None]


@dataclass(frozen=True)
class Watched:
    """One window measured: its record, the decision, and where the report lies."""

    record: trigger.WindowRecord
    decision: trigger.TriggerDecision
    report: Path


def monitor(workspace: Workspace, adapter: str, window: Window) -> Watched:
    """Measure a window against the champion's reference, decide, and record both in MLflow; then tell people."""
    try:
        watched = _measured(workspace, adapter, window)
    except Exception as error:
        notify.failed(workspace, adapter, end=stamp(window.end), error=error)
        raise
    after_window(workspace, watched.record)
    return watched


def after_window(workspace: Workspace, record: trigger.WindowRecord) -> None:
    """The pages, and word to people where it fired; what fails here is a warning, for the window is recorded."""
    projections.refresh(workspace, record.adapter, panels=True, say=notify.warn)
    if record.fire:
        page = projections.page_of(workspace, record.adapter)
        notify.fired(workspace, record.adapter, end=record.end, reasons=record.reasons, page=page)


def _measured(workspace: Workspace, adapter: str, window: Window) -> Watched:
    params = workspace.params.of(adapter)
    logs = read_logs(params.logs, root=workspace.root, adapter=adapter)
    entries = jobs.entries(workspace, adapter)
    state = ledger.state(entries)
    serving = state.champion
    frame = logs.between(window.start, window.end)
    checked = expectations.check_logs(frame, min_rows=params.drift.min_rows)
    outputs = _outputs(logs, state, window)
    report = workspace.local / "reports" / adapter / f"{stamp(window.end)}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    found = drift.measure(_inputs(workspace, logs, state, adapter), outputs, frame, drift=params.drift, html=report)
    now, before = quality.measure(frame), None if outputs is None else quality.measure(outputs)
    drifted = [f"{c.column} {c.value:.2f} > {c.threshold:.2f} ({c.method})" for c in found.columns if c.status == "drift"]
    violations = trigger.violations(
        drift_status=found.status,
        drifted=drifted,
        satisfaction=now.satisfaction,
        accuracy=now.accuracy,
        reference_satisfaction=before.satisfaction if before else None,
        reference_accuracy=before.accuracy if before else None,
        policy=params.trigger,
    )
    registry = Registry.open(params.mlflow, workspace.root)
    record = trigger.WindowRecord(
        adapter=adapter,
        start=stamp(window.start),
        end=stamp(window.end),
        rows=len(frame),
        drift_status=found.status,
        drifted=drifted,
        satisfaction=now.satisfaction,
        accuracy=now.accuracy,
        audited=now.audited,
        violations=violations,
        version=serving.version if serving else None,
        fire=False,
        reasons=[],
    )
    since = _last_end(state)
    labels = jobs.remote_params(workspace).adapter(adapter).labels
    rate = params.failures.audit_rate
    known = logs.known_before(window.end)
    fresh = known if since is None else known[known["feedback_at"] >= since]
    collection = failures.failure_cases(fresh, audit_rate=rate, labels=labels, seen=set(), collected=record.end)
    decision = trigger.decide(
        [*_past(registry, adapter, params.trigger.windows, record), record],
        policy=params.trigger,
        new_failures=len(collection.examples) + len(collection.held),
        unread_audit=_enter_tests(failures.audited(fresh, audit_rate=rate), params.prepare.audit_share),
        champion=serving.version if serving else None,
    )
    reasons = [
        *decision.reasons,
        *(f"new label: {label}, {rows} rows, {users} users" for label, (rows, users) in collection.new_labels.items()),
        *(f"data check: {line}" for line in checked.failures),
    ]
    if serving and from_stamp(record.end) <= (since or from_stamp(record.end) - timedelta(1)):
        decision = decision.model_copy(update={"fire": False})
        reasons.insert(0, "this window ends before the last retraining: it is measured again, and never trains")
    new = {label: rows for label, (rows, _) in collection.new_labels.items()}
    record = record.model_copy(update={"fire": decision.fire, "reasons": reasons, "new_labels": new})
    metrics = {f"drift.{c.column}": c.value for c in found.columns}
    metrics |= {"rows": len(frame), "satisfaction": now.satisfaction, "accuracy": now.accuracy, "fire": float(decision.fire)}
    registry.log_window(adapter, record.as_dict(), metrics, [report] if report.exists() else [])
    return Watched(record, decision, report)


def recorded(workspace: Workspace, adapter: str, window: Window) -> trigger.WindowRecord:
    """What a run recorded of a window; NothingToDo where none did."""
    rows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 50)
    found = [row for row in rows if row["start"] == stamp(window.start) and row["end"] == stamp(window.end)]
    if not found:
        raise NothingToDo(f"{adapter}: no run has measured the window [{stamp(window.start)}, {stamp(window.end)})")
    return trigger.WindowRecord.model_validate(found[0])


def _past(registry: Registry, adapter: str, n: int, record: trigger.WindowRecord) -> list[trigger.WindowRecord]:
    """The windows before this one, oldest first; a later one does not count when an older is measured again."""
    rows = [trigger.WindowRecord.model_validate(row) for row in registry.windows(adapter, n * 10)]
    return [row for row in rows if row.end < record.end]


def _last_end(state: ledger.LedgerState) -> datetime | None:
    return from_stamp(state.attempts[-1].end) if state.attempts else None


def _enter_tests(audited: list[Example], share: float) -> int:
    """Rows that would enter the gate's tests: one a question, less the share that goes to `retained`."""
    from retrain.records import unit_hash

    return sum(1 for key in {row.split_key for row in audited} if unit_hash(key, "to-retained") >= share)


def _inputs(workspace: Workspace, logs: LogTable, state: ledger.LedgerState, adapter: str) -> Any:
    """The traffic on which the champion was promoted: the windows before its retraining, else the rows that judged it."""
    import pandas as pd

    champion = state.champion
    attempt = next((a for a in state.attempts if champion and a.digest == champion.digest), None)
    if attempt:
        end = from_stamp(attempt.end)
        length = timedelta(hours=workspace.params.window.hours)
        frame = logs.between(end - 2 * length, end)
        if len(frame) >= workspace.params.of(adapter).drift.min_rows:
            return frame
    suites = workspace.root / "data" / "suites" / adapter
    rows = [
        *read_folder(suites / "audit"),
        *(read_examples(suites / "golden.jsonl") if (suites / "golden.jsonl").exists() else []),
    ]
    return pd.DataFrame([{"request_id": row.id, "prompt": row.question} for row in rows], columns=["request_id", "prompt"])


def _outputs(logs: LogTable, state: ledger.LedgerState, window: Window) -> Any:
    """The champion's own first windows; None until one has ended before this one began."""
    champion = state.champion
    attempt = next((a for a in state.attempts if champion and a.digest == champion.digest), None)
    if champion is None or attempt is None:
        return None
    first = from_stamp(attempt.end)
    frame = logs.between(first, min(window.start, first + window.length)) if first < window.start else None
    if frame is None:
        return None
    frame = frame[frame["model_version"] == f"{champion.adapter}-v{champion.version}"]
    return None if frame.empty else frame


# --- collection


@dataclass(frozen=True)
class Collected:
    """What a collection brought; `file` is relative to the workspace."""

    end: str
    file: str
    rows: int
    new_labels: dict[str, tuple[int, int]]  # label -> (rows, users)
    waiting: int
    quarantined: int


def collect(workspace: Workspace, adapter: str, end: datetime) -> Collected:
    """Labelled failure cases known before `end` that no earlier file holds become one immutable file, pushed."""
    params = workspace.params.of(adapter)
    at = stamp(end)
    name = f"data/failures/{adapter}/{at}.jsonl"
    with jobs.job(workspace, adapter, "collect") as clone:
        folder = clone.root / "data" / "failures" / adapter
        clone.pull([f"data/failures/{adapter}.dvc"])
        files = sorted(folder.glob("*.jsonl"))
        if files and files[-1].stem > at:
            raise ParamsError(f"{adapter} was collected up to {files[-1].stem}, {at} is before that: collections never go back")
        frame = read_logs(params.logs, root=workspace.root, adapter=adapter).known_before(end)
        earlier = [row for path in files if path.stem < at for row in read_examples(path)]
        seen = {(origin.request_id, row.answer) for row in earlier for origin in row.origins}
        labels = load(clone.root).adapter(adapter).labels  # as the remote has them: the checkout may be behind
        rate = params.failures.audit_rate
        made = failures.failure_cases(frame, audit_rate=rate, labels=labels, seen=seen, collected=at)
        rows = sorted([*made.examples, *made.held], key=lambda row: row.id)
        result = Collected(at, name, len(rows), dict(made.new_labels), made.waiting, len(made.quarantined))
        if (folder / f"{at}.jsonl").exists():
            old = read_examples(folder / f"{at}.jsonl")
            return Collected(at, name, len(old), result.new_labels, result.waiting, result.quarantined)
        if not rows:
            raise NothingToDo(f"{adapter}: no new labelled failure case is known before {at} ({made.waiting} wait for a label)")
        _check(rows, labels)
        clone.publish(_writer(clone, adapter, at, rows), tries=jobs.TRIES)
        return result


def _check(rows: list[Example], labels: tuple[str, ...]) -> None:
    checked = expectations.check_examples(rows, labels=tuple({*labels, *(row.answer for row in rows)}) if labels else ())
    if not checked.passed:
        raise DataError("the collection does not pass its expectations: " + "; ".join(checked.failures))


def _writer(clone: Clone, adapter: str, at: str, rows: list[Example]) -> Callable[[Clone], None]:
    """Writes and commits the file now, and is what a refused push does again."""

    def write(clone: Clone) -> None:
        path = clone.root / "data" / "failures" / adapter / f"{at}.jsonl"
        if not path.exists():
            write_jsonl(path, rows)
        clone.commit(clone.dvc_add(f"data/failures/{adapter}"), f"{adapter}: {len(rows)} failure cases known before {at}")

    write(clone)
    return write


def new_labels(workspace: Workspace, adapter: str) -> dict[str, tuple[int, int]]:
    """Label -> (rows, users) of all corrections so far whose label the adapter does not list."""
    params = workspace.params.of(adapter)
    labels = jobs.remote_params(workspace).adapter(adapter).labels
    if not labels:
        raise ParamsError(f"{adapter} is a {params.adapter(adapter).task} adapter: it has no labels")
    frame = read_logs(params.logs, root=workspace.root, adapter=adapter).known_before(datetime.now(UTC))
    rate = params.failures.audit_rate
    return failures.failure_cases(frame, audit_rate=rate, labels=labels, seen=set(), collected="").new_labels


def collect_what_there_is(workspace: Workspace, adapter: str, end: datetime) -> str:
    """`collect` for a retraining, which goes on without new failure cases; what it came to, as a sentence."""
    try:
        made = collect(workspace, adapter, end)
    except NothingToDo as nothing:
        return str(nothing)
    except DataError as error:
        if ledger.state(jobs.entries(workspace, adapter)).champion:
            raise
        return f"before there is a champion nothing has to be collected ({error})"
    return f"{made.rows} failure cases in {made.file}, {made.waiting} wait for a label, {made.quarantined} quarantined"


def due(workspace: Workspace, adapter: str, end: str | None) -> datetime:
    """What a retraining is for: the given end, else the end of the newest window that fired and was not yet acted on."""
    if end:
        return parse_time(end, "end")
    attempts = ledger.state(jobs.entries(workspace, adapter)).attempts
    done = attempts[-1].end if attempts else ""
    windows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, 50)
    fired = [row["end"] for row in windows if row["fire"] and row["end"] > done]
    if not fired:
        raise NothingToDo(
            f"{adapter}: no window has fired since the last attempt ({done or 'none yet'}); give an end to train anyway"
        )
    return from_stamp(max(fired))


def retrain(workspace: Workspace, adapter: str, end: datetime, *, say: Say, overrides: tuple[str, ...] = ()) -> jobs.Attempted:
    """`jobs.retrain` with the audited rows of the log store that are known before `end`."""
    params = workspace.params.of(adapter)
    try:
        frame = read_logs(params.logs, root=workspace.root, adapter=adapter).known_before(end)
        audited = failures.audited(frame, audit_rate=params.failures.audit_rate)
    except DataError:
        if ledger.state(jobs.entries(workspace, adapter)).champion:
            raise
        audited = []  # before there is traffic the shipped or seed rows judge
    return jobs.retrain(workspace, adapter, end=end, audited=audited, overrides=overrides, say=say)
