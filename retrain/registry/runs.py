"""Runs of MLflow: windows, trainings, and traces as it keeps them."""

import functools
import itertools
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self, TypeVar

from retrain.errors import DataError, RetrainError
from retrain.params import Mlflow
from retrain.process import alive
from retrain.records import from_stamp, parse_time, read_json, stamp
from retrain.registry.local import database, quiet

P = ParamSpec("P")
T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]
BATCH = 900  # metrics of one request; MLflow refuses more than 1,000
EXPORTED = "retrain.exported"  # tag of traces that we wrote ourselves (`registry.traces`)


@dataclass(frozen=True)
class TrainingRun:
    """A training, with its evaluation; `end` is None while it runs. Status is MLflow's word."""

    id: str
    start: datetime
    end: datetime | None
    status: str
    tags: dict[str, str]
    device_seconds: float | None = None  # that were recorded of its training

    @property
    def span(self) -> tuple[datetime, datetime | None]:
        """When the device worked: what was recorded where that is known, else as long as the run lasted."""
        known = self.device_seconds is not None and self.end is not None
        return self.start, self.start + timedelta(seconds=self.device_seconds or 0.0) if known else self.end


@dataclass(frozen=True)
class Run:
    """One MLflow run as read back; `experiment` and `id` make its address, `started` is epoch milliseconds."""

    id: str
    experiment: str
    started: int
    tags: dict[str, str]
    metrics: dict[str, float]


def called(method: Callable[P, T]) -> Callable[P, T]:
    """MLflow's own errors, a dead server's among them, become one RetrainError that names the address."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            return method(*args, **kwargs)
        except (MlflowException, RequestException) as error:
            uri, words = getattr(args[0], "uri", "?"), str(error).partition("\n")[0][:500]
            raise RetrainError(f"MLflow at {uri} (params.yaml, mlflow.uri) failed in {method.__name__}: {words}") from error

    return call


@dataclass(frozen=True)
class Runs:
    """Runs at one MLflow address; artifacts is where a local one keeps files (null: the server knows)."""

    uri: str
    artifacts: Path | None
    client: Any

    @classmethod
    def open(cls, mlflow: Mlflow, root: Path) -> Self:
        """The MLflow of the workspace at root; a local one is made on first use, by one process at a time.

        A server is first asked by the first call: dead, it costs about two timeouts (mlflow.timeout, seconds) at most.
        """
        quiet(mlflow.timeout)
        from mlflow import MlflowClient

        if mlflow.uri is not None:
            return cls(mlflow.uri, None, MlflowClient(mlflow.uri, mlflow.uri))
        folder = Path(root).absolute() / ".retrain" / "mlflow"
        uri = f"sqlite:///{database(folder)}"
        return cls(uri, folder / "artifacts", MlflowClient(uri, uri))

    # --- runs

    def _find_experiment(self, adapter: str) -> str | None:
        """One experiment an adapter: its id."""
        found = self.client.get_experiment_by_name(adapter)
        return str(found.experiment_id) if found else None

    def _experiment(self, adapter: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self._find_experiment(adapter)
        if known is not None:
            return known
        place = (self.artifacts / adapter).as_uri() if self.artifacts else None
        try:
            return str(self.client.create_experiment(adapter, artifact_location=place))
        except MlflowException:
            known = self._find_experiment(adapter)  # another process was first
            if known is None:
                raise
            return known

    def _start(self, adapter: str, kind: str, name: str, tags: Mapping[str, object]) -> str:
        owner = {"kind": kind, "pid": os.getpid(), "host": socket.gethostname()}
        texts = {key: str(value) for key, value in {**tags, **owner}.items()}
        run = self.client.create_run(self._experiment(adapter), run_name=name, tags=texts)
        return str(run.info.run_id)

    def _search(self, adapter: str, filters: str, order: Sequence[str]) -> Iterable[Any]:
        experiment = self._find_experiment(adapter)
        token: str | None = None
        while experiment is not None:
            page = self.client.search_runs([experiment], filters, max_results=50, order_by=[*order], page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    @called
    def log_window(
        self, adapter: str, record: Mapping[str, Any], metrics: Mapping[str, float | None], artifacts: Iterable[Path]
    ) -> str:
        """Record one window; record holds `start` and `end` (ISO 8601 or stamps) and must be JSON-ready. The run's id.

        Only a finished run counts, so a job killed in between leaves no half window.
        """
        start, end = _stamp(record["start"]), _stamp(record["end"])
        run_id = self._start(adapter, "window", f"window {end}", {"start": start, "end": end})
        self.log_rows(run_id, [{"step": 0, "time": round(from_stamp(end).timestamp() * 1000), **metrics}])
        self._upload(run_id, artifacts)
        self.client.log_dict(run_id, dict(record), "window.json")
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    @called
    def windows(self, adapter: str, n: int) -> list[dict[str, Any]]:
        """Records of the last n windows by event time, oldest first; of a window measured twice the newest run."""
        return [self.record(run) for run in self.window_runs(adapter, n)]

    @called
    def window_runs(self, adapter: str, n: int) -> list[Run]:
        """The runs of those n windows, without their records: what is asked of MLflow once, not once a window."""
        found: dict[tuple[str, str], Run] = {}
        order = ("tags.end DESC", "attributes.start_time DESC")
        for run in self._search(adapter, "tags.kind = 'window' and attributes.status = 'FINISHED'", order):
            found.setdefault((run.data.tags["end"], run.data.tags["start"]), _run(run))
            if len(found) > n:
                break
        return [found[key] for key in reversed(sorted(found, reverse=True)[:n])]

    @called
    def record(self, run: Run) -> dict[str, Any]:
        """The record of a window's run."""
        with tempfile.TemporaryDirectory() as folder:
            return dict(read_json(Path(self.client.download_artifacts(run.id, "window.json", folder))))

    @called
    def ended_trainings(self, adapter: str) -> list[Run]:
        """All training runs that ended, oldest first."""
        found = self._search(adapter, "tags.kind = 'train' and attributes.status = 'FINISHED'", ("attributes.start_time ASC",))
        return [_run(run) for run in found]

    @called
    def artifact(self, run_id: str, name: str) -> bytes | None:
        """The bytes of one file of a run; None where the run has no such file."""
        if name not in {file.path for file in self.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, name, folder)).read_bytes()

    @called
    def start_training(self, adapter: str, tags: Mapping[str, object]) -> str:
        """A RUNNING run that carries this process's pid and host; `finish` or `close_stale` ends it."""
        return self._start(adapter, "train", f"train {tags.get('end', '')}".strip(), tags)

    @called
    def training_runs(self, adapter: str, n: int) -> list[TrainingRun]:
        """The last n trainings by their start, oldest first, failed ones too: what retraining has cost."""
        found = self._search(adapter, "tags.kind = 'train' and tags.end != ''", ("attributes.start_time DESC",))
        return [_training(run) for run in itertools.islice(found, n)][::-1]

    @called
    def log_rows(self, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of a training log: {"step", "time" (epoch ms), metric: number, ...}. A row sent again is stored once."""
        from mlflow.entities import Metric

        batch = [
            Metric(name, float(value), int(row["time"]), int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        for start in range(0, len(batch), BATCH):
            self.client.log_batch(run_id, metrics=batch[start : start + BATCH])

    @called
    def finish(
        self, run_id: str, status: Status, metrics: Mapping[str, Any], tags: Mapping[str, object], artifacts: Iterable[Path]
    ) -> None:
        """End a run; None and non-finite metrics are left out. artifacts: files and folders, kept under their names."""
        from mlflow.entities import RunTag

        numbers = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
        self.log_rows(run_id, [{**numbers, "step": 0, "time": round(time.time() * 1000)}])
        self.client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
        self._upload(run_id, artifacts)
        self.client.set_terminated(run_id, status)

    def _upload(self, run_id: str, paths: Iterable[Path]) -> None:
        for path in map(Path, paths):
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), path.name)
            else:
                self.client.log_artifact(run_id, str(path))

    @called
    def close_stale(self, adapter: str) -> list[str]:
        """End as FAILED the RUNNING runs whose process on this host is dead; their ids."""
        here = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
        stale = [run.info.run_id for run in self._search(adapter, here, ()) if not alive(run.data.tags.get("pid", ""))]
        for run_id in stale:
            self.client.set_tag(run_id, "why", "its process died")
            self.client.set_terminated(run_id, "FAILED", end_time=self._last_sign(run_id))
        return stale

    def _last_sign(self, run_id: str) -> int:
        """When a run last logged something (epoch ms): found days after it died, it has not cost days."""
        run = self.client.get_run(run_id)
        times = [m.timestamp for name in run.data.metrics for m in self.client.get_metric_history(run_id, name)[-1:]]
        return max([run.info.start_time, *times])

    @called
    def run_of(self, adapter: str, digest: str) -> str | None:
        """The training run whose candidate has this digest; None where MLflow was down when it trained."""
        found = self._search(adapter, f"tags.kind = 'train' and tags.digest = '{digest}'", ("attributes.start_time ASC",))
        return next((str(run.info.run_id) for run in found), None)

    # --- traces

    @called
    def trace_page(
        self, experiment: str, filters: str, *, bodies: bool, token: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """One page of an experiment's finished traces, oldest first, as plain rows, and the token of the next page.

        bodies: with request and response, as JSON; without, pages are light. Of the assessments the valid ones. What we
        exported is left out: it was a row of the log already.
        """
        found = self._find_experiment(experiment)
        if found is None:
            raise DataError(
                f"MLflow at {self.uri} has no experiment {experiment!r} (params.yaml, logs.uri): name one that is there"
            )
        page = self.client.search_traces(
            locations=[found],
            filter_string=" AND ".join(filter(None, ["attributes.status != 'IN_PROGRESS'", filters])),
            order_by=["attributes.timestamp_ms ASC"],
            max_results=500,
            include_spans=bodies,
            page_token=token,
        )
        return [_trace_row(trace, bodies) for trace in page if EXPORTED not in trace.info.tags], page.token or None


def _training(run: Any) -> TrainingRun:
    start, end = (
        None if ms is None else datetime.fromtimestamp(ms / 1000, UTC) for ms in (run.info.start_time, run.info.end_time)
    )
    return TrainingRun(
        run.info.run_id,
        start or datetime.now(UTC),
        end,
        run.info.status,
        dict(run.data.tags),
        run.data.metrics.get("cost.device_seconds"),
    )


def _trace_row(trace: Any, bodies: bool) -> dict[str, Any]:
    info = trace.info
    said = [one for one in info.assessments if one.valid is not False and (one.feedback or one.expectation) is not None]
    return {
        "trace_id": info.trace_id,
        "request_time": int(info.request_time),
        "execution_duration": info.execution_duration,
        "state": str(info.state),
        "trace_metadata": dict(info.trace_metadata),
        "tags": dict(info.tags),
        "assessments": [
            {
                "name": one.name,
                "value": (one.feedback or one.expectation).value,
                "human": one.source.source_type == "HUMAN",
                "at": int(one.last_update_time_ms),
            }
            for one in said
        ],
        **({"request": trace.data.request, "response": trace.data.response} if bodies else {}),
    }


def _run(run: Any) -> Run:
    info, data = run.info, run.data
    return Run(str(info.run_id), str(info.experiment_id), int(info.start_time), dict(data.tags), dict(data.metrics))


def _stamp(text: str) -> str:
    try:
        return stamp(from_stamp(text))
    except ValueError:
        return stamp(parse_time(text))
