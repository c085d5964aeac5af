"""One window of production, measured: drift against the champion's own traffic, quality at equal age, data checks.

Everything is read through `Site`: the log store, the ledger, the windows recorded so far. Nothing here decides or records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import ibis

from monitoring import drift, judge, quality, trigger
from monitoring.sources import TYPES, LogTable, Rows
from monitoring.windows import WEEK, Window, week_before
from retrain import expectations, jobs, ledger, lineage
from retrain.answers import Schema, schema_in
from retrain.errors import ParamsError
from retrain.params import Params
from retrain.process import public
from retrain.records import from_stamp, stamp
from retrain.registry import Registry
from retrain.store import Store
from retrain.userids import open_logs
from retrain.workspace import Workspace

KEPT = 200  # windows that a measurement and a decision look back on


@dataclass(frozen=True)
class Measured:
    """A window's record before anything is decided, and what goes into MLflow beside it."""

    record: trigger.WindowRecord
    metrics: dict[str, float | None]
    report: Path


@dataclass(frozen=True)
class Site:
    """What is known about one adapter now."""

    workspace: Workspace
    adapter: str
    params: Params
    logs: LogTable
    state: ledger.LedgerState
    registry: Registry
    past: list[trigger.WindowRecord]  # recorded windows, oldest first
    now: datetime

    @classmethod
    def open(cls, workspace: Workspace, adapter: str) -> "Site":
        """By the params of the remote: the checkout may be behind, or hold what nobody has pushed. Where MLflow is, it says."""
        params = jobs.remote_params(workspace).of(adapter)
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        return cls(
            workspace=workspace,
            adapter=adapter,
            params=params,
            logs=open_logs(workspace, params, adapter),
            state=ledger.state(jobs.entries(workspace, adapter)),
            registry=registry,
            past=[trigger.WindowRecord.model_validate(row) for row in registry.windows(adapter, KEPT)],
            now=datetime.now(UTC),
        )

    @cached_property
    def schema(self) -> Schema | None:
        """Of a structured answer."""
        spec = self.params.adapter(self.adapter)
        return schema_in(self.read(spec.output), spec.output) if spec.output else None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.params.adapter(self.adapter).labels

    @property
    def version(self) -> int | None:
        return self.state.champion.version if self.state.champion else None

    @property
    def attempt(self) -> ledger.Attempt | None:
        """The attempt whose candidate serves now."""
        champion = self.state.champion
        return next((a for a in reversed(self.state.attempts) if champion and a.digest == champion.digest), None)

    # --- windows that are measured again

    def again(self, window: Window) -> list[tuple[trigger.WindowRecord, int]]:
        """(record, rows that came late) of recorded windows before this one that tell something else by now.

        Rows may come window.lateness_hours after their window began; labels until quality.lag_hours after its end.
        """
        oldest = window.start - timedelta(hours=self.params.window.lateness_hours)
        found = []
        for record in self.past:
            end = from_stamp(record.end)
            if end > window.start or record.version != self.version:
                continue
            late = self.logs.rows(window_of(record)).count() - record.rows if end > oldest else 0
            if late > 0 or (not record.known and self.now >= end + self.lag):
                found.append((record, max(late, 0)))
        return found

    @property
    def lag(self) -> timedelta:
        return timedelta(hours=self.params.quality.lag_hours)

    # --- what a window is compared with

    def inputs(self, window: Window) -> Rows:
        """The traffic on which the champion was promoted: since what led to its retraining began, or the week before; where
        there is none, the rows that judged it.

        It grows to a whole week by the champion's own quiet windows: a reference of the old traffic would call the new one,
        which the champion has learned, drift again.
        """
        if self.attempt:
            end = from_stamp(self.attempt.end)
            start = self._incident(end) or end - WEEK
            rows = self.logs.rows(Window(start, max(end, min(start + WEEK, self._quiet_until(end, window)))))
            if rows.count() >= self.params.drift.min_rows:
                return rows
        return _judging_rows(self.workspace, self.adapter)

    def outputs(self, window: Window) -> Rows | None:
        """The champion's own first windows, a week of them at most; None until one has been measured before this one."""
        first = self._own(window)
        if not first:
            return None
        tag = f"{self.adapter}-v{self.version}"
        rows = self.logs.rows(_span(first)).where(lambda t: t.model_version == tag)
        return rows if rows.count() else None

    def same_time(self, window: Window) -> Window | None:
        """The window's time of the week among the champion's own first windows."""
        first = self._own(window)
        return week_before(window, _span(first)) if first else None

    def compared(self, window: Window, now: quality.Quality) -> list[trigger.Compared]:
        """The window's shares beside those of the champion's first windows, all counted at the same age of their labels."""
        first = [record for record in self._own(window) if record.known]
        shares: Sequence[tuple[trigger.Signal, int, int, list[tuple[float | None, int]]]] = (
            ("accuracy", now.right, now.audited, [(r.accuracy, r.audited) for r in first]),
            ("satisfaction", now.satisfied, now.feedback, [(r.satisfaction, r.feedback) for r in first]),
        )
        found = []
        for signal, good, n, before in shares:
            known = [(share, rows) for share, rows in before if share is not None]
            total = sum(rows for _, rows in known)
            if n and total and now.known:
                right = sum(round(share * rows) for share, rows in known)
                found.append(trigger.Compared(signal=signal, good=good, n=n, reference_good=right, reference_n=total))
        return found

    def judged(self, window: Window, rows: Rows) -> tuple[judge.Judged | None, judge.Judged | None]:
        """What the LLM judge says of the window, and what the same one said of the champion's first windows."""
        asked = self.params.quality.judge
        if asked is None:
            return None, None
        spec = self.params.adapter(self.adapter)
        found = judge.measure(
            rows,
            judge=asked,
            read=self.read,
            spec=spec,
            labels=self.labels,
            schema=self.schema,
            known_before=window.end + self.lag,
            now=self.now,
        )
        return found, judge.pool([record.judge for record in self._own(window) if record.judge], found.by)

    def read(self, path: str) -> str:
        """A text file of the workspace, as its remote has it: the checkout may be behind. ParamsError where it has none."""
        text = jobs.remote_file(self.workspace, path)
        if not text:
            raise ParamsError(f"{path} is not at {public(self.workspace.remote)}, or empty: commit and push it")
        return text

    def _own(self, window: Window) -> list[trigger.WindowRecord]:
        """The champion's first recorded windows before this one: until one violates, within a week."""
        found: list[trigger.WindowRecord] = []
        for record in self.past:
            if record.version != self.version or self.version is None or from_stamp(record.end) > window.start:
                continue
            if self.attempt and from_stamp(record.start) < from_stamp(self.attempt.end):
                continue  # measured under this champion, served by the one before
            if record.violations and found:
                break
            if found and from_stamp(record.end) > from_stamp(found[0].start) + WEEK:
                break
            found.append(record)
        return found

    def _incident(self, end: datetime) -> datetime | None:
        """When the violating windows began that led to the retraining at `end`; None where none did."""
        began = None
        for record in reversed([r for r in self.past if from_stamp(r.end) <= end]):
            if not record.violations or record.version == self.version:
                break
            began = from_stamp(record.start)
        return began

    def _quiet_until(self, end: datetime, window: Window) -> datetime:
        """Where the champion's windows end that follow `end` without drift, before this window."""
        until = end
        for record in self.past:
            start, stop = from_stamp(record.start), from_stamp(record.end)
            if start == until and stop <= window.start and record.drift_status == "no_drift":
                until = stop
        return until


def _span(records: Sequence[trigger.WindowRecord]) -> Window:
    return Window(from_stamp(records[0].start), from_stamp(records[-1].end))


def window_of(record: trigger.WindowRecord) -> Window:
    return Window(from_stamp(record.start), from_stamp(record.end))


def measure(
    site: Site, window: Window, *, late: int = 0, backfill: bool = False, unbelieved: frozenset[str] = frozenset()
) -> Measured:
    """Measure a window. `late`: rows that came to earlier windows after those were measured.

    unbelieved: requests whose corrections look like an attack; their feedback counts neither for nor against the champion.
    """
    params, spec = site.params, site.params.adapter(site.adapter)
    rows, outputs = site.logs.rows(window), site.outputs(window)
    then = site.same_time(window)
    report = site.workspace.local / "reports" / site.adapter / f"{stamp(window.end)}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    sample = rows.sample(params.drift.sample, drift.SALT)
    found = drift.measure(
        site.inputs(window),
        outputs,
        rows,
        drift=params.drift,
        html=report,
        sample=sample,
        same_time=outputs.within(then) if outputs is not None and then else None,
    )
    docs = report.parent / "data-docs"
    missing = {name: found.missing[name] for name in drift.REQUIRED}
    checked = expectations.check_logs(
        sample, rows=found.rows, min_rows=params.drift.min_rows, missing=missing, most=params.drift.missing_max, docs=docs
    )
    now = quality.measure(
        _believed(rows, unbelieved),
        known_before=window.end + site.lag,
        now=site.now,
        labels=site.labels if spec.task == "classification" else (),
        max_new_tokens=spec.max_new_tokens,
        sample=sample,
        calibration=quality.Calibration.of(outputs, site.schema) if outputs is not None else None,
        slices=params.quality.slices,
        schema=site.schema,
    )
    judged, before = site.judged(window, rows)
    drifted = [f"{c.column} {c.value:.2f} > {c.threshold:.2f} ({c.how})" for c in found.columns if c.status == "drift"]
    compared = site.compared(window, now)
    record = trigger.WindowRecord(
        adapter=site.adapter,
        start=stamp(window.start),
        end=stamp(window.end),
        rows=found.rows,
        counts=site.logs.counts(window, late).model_dump(),
        backfill=backfill,
        drift_status=found.status,
        drifted=drifted,
        columns=[column.model_dump() for column in found.columns],
        changed=[change.model_dump() for change in found.changed],
        satisfaction=now.satisfaction,
        feedback=now.feedback,
        accuracy=now.accuracy,
        accuracy_low=now.accuracy_low,
        accuracy_high=now.accuracy_high,
        audited=now.audited,
        compared=compared,
        known=now.known,
        estimated_accuracy=now.estimated_accuracy,
        judge=judged,
        judge_reference=before,
        relevance=now.relevance,
        invalid=now.invalid,
        latency_p50=now.latency_p50,
        latency_p95=now.latency_p95,
        confidence=now.confidence,
        slices=now.slices,
        data_checks=[*found.broken, *checked.failures],
        violations=trigger.violations(
            drift_status=found.status, drifted=drifted, compared=compared, policy=params.trigger, judged=(judged, before)
        ),
        version=site.version,
        fire=False,
        reasons=[],
    )
    return Measured(record, _metrics(record, now), report)


def _believed(rows: Rows, unbelieved: frozenset[str]) -> Rows:
    """The same rows, without the feedback of those requests."""
    if not unbelieved:
        return rows
    table = rows.expr
    feedback = table.request_id.isin(sorted(unbelieved)).ifelse(ibis.null(TYPES["feedback"]), table.feedback)
    return rows.like(table.mutate(feedback=feedback))


def _metrics(record: trigger.WindowRecord, now: quality.Quality) -> dict[str, Any]:
    """Numbers for MLflow's charts."""
    names = (
        "rows", "satisfaction", "accuracy", "accuracy_low", "accuracy_high", "estimated_accuracy", "relevance", "invalid",
        "latency_p50", "latency_p95", "confidence", "feedback", "audited",
    )  # fmt: skip
    found = {name: getattr(record, name) for name in names}
    if record.judge is not None:
        judged = ("share", "low", "high", "agreement", "asked", "unread")
        found |= {f"judge.{name}": getattr(record.judge, name) for name in judged}
    found |= {f"drift.{column['column']}": column["value"] for column in record.columns}
    found |= {f"rows.{name}": n for name, n in record.counts.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def _judging_rows(workspace: Workspace, adapter: str) -> Rows:
    """The questions of the golden and audit files, as the remote has them: the checkout may be behind."""
    import pandas as pd

    rows = lineage.rows_at(Store(workspace), adapter, workspace.remote_head(), parts=("suites",))
    columns = ["request_id", "prompt"]
    return Rows.of_frame(pd.DataFrame([{"request_id": row.id, "prompt": row.question} for row in rows], columns=columns))
