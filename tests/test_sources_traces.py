"""MLflow traces with their assessments, from a real tracking store: exported once, brought up to date, read as any log."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.sources import LogTable, open_logs
from monitoring.windows import Window
from retrain.errors import DataError
from retrain.params import Mlflow
from retrain.registry import Registry
from retrain.sections import Logs

AROUND = Window(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1))
ANSWER = {"model": "support-v1", "choices": [{"message": {"role": "assistant", "content": "cancel_order"}}]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "params.yaml").write_text((Path(__file__).parents[1] / "params.yaml").read_text())
    return folder


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Any]:
    registry = Registry.open(Mlflow(uri=None, timeout=5), root)
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.uri)  # a service sends its traces to the address of its process
    registry.client.create_experiment("chat")
    yield registry.client
    mlflow.set_tracking_uri(before)


def ask(client: Any, question: str, *, plain: bool = False) -> str:
    """A trace as an instrumented service leaves it."""
    experiment = client.get_experiment_by_name("chat").experiment_id
    inputs: Any = question if plain else {"messages": [{"role": "user", "content": question}]}
    span = client.start_trace("chat", inputs=inputs, experiment_id=experiment)
    client.end_trace(span.trace_id, outputs="cancel_order" if plain else ANSWER)
    return str(span.trace_id)


def say(trace: str, name: str, value: Any, kind: str = "feedback", source: str = "HUMAN") -> None:
    import mlflow
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    made = {"feedback": Feedback, "expectation": Expectation}[kind]
    source_ = AssessmentSource(source_type=source, source_id="x")
    mlflow.log_assessment(trace_id=trace, assessment=made(name=name, value=value, source=source_))


def opened(root: Path) -> LogTable:
    logs = Logs(uri="mlflow-traces:chat", preset="mlflow", timezone=None, columns={}, feedback=None)
    return open_logs(logs, root=root, adapter="support")


def test_traces_and_what_people_said_of_them_become_rows_once(root: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    with pytest.raises(DataError, match="'chat' .* has no trace that has ended"):
        opened(root)
    first = ask(client, "where is my money")
    say(first, "user_feedback", False)
    say(first, "expected_response", "refund_status", "expectation")
    say(first, "feedback", True, source="LLM_JUDGE")
    frame = opened(root).rows(AROUND).frame()
    row = frame.iloc[0]
    assert (row["request_id"], row["prompt"], row["response"]) == (first, "where is my money", "cancel_order")
    assert (row["feedback"], row["correction"]) == (-1.0, "refund_status")
    assert json.loads(row["messages"]) == [{"role": "user", "content": "where is my money"}]
    (file,) = (root / ".retrain" / "traces" / "chat").glob("*.parquet")
    before = file.stat().st_mtime_ns
    assert opened(root).counts(AROUND).used == 1
    assert file.stat().st_mtime_ns == before  # nothing was new, nothing was written

    second = ask(client, "cancel it", plain=True)
    say(first, "audit_label", "order_status")  # late, to a trace that is stored already
    frame = opened(root).rows(AROUND).frame().set_index("request_id")
    assert list(frame.index) == [first, second]
    assert (frame["audit_label"][first], frame["correction"][first], frame["response"][first]) == (
        "order_status",
        "refund_status",
        "cancel_order",
    )
    assert (frame["prompt"][second], frame["response"][second]) == ("cancel it", "cancel_order")
    assert frame["feedback_at"].notna().tolist() == [True, False]


def test_an_experiment_that_is_not_there_is_named(root: Path, client: Any) -> None:
    logs = Logs(uri="mlflow-traces:nowhere", preset="mlflow", timezone=None, columns={}, feedback=None)
    with pytest.raises(DataError, match="no experiment 'nowhere'"):
        open_logs(logs, root=root, adapter="support")
