"""Logs as others write them: OpenAI chat completions, OpenTelemetry GenAI spans, MLflow's tables; structure is kept."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.sources import LogTable, open_logs
from monitoring.windows import Window
from retrain.sections import Feedback, Logs

DAY = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
AT = 1772359200  # 2026-03-01T10:00:00Z
CALL = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": 7}'}}
PICTURE = {"type": "image_url", "image_url": {"url": "u"}}
TURNS = [
    {"role": "system", "content": "You help."},
    {"role": "user", "content": "Where is my order?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "lost"},
    {"role": "user", "content": [{"type": "text", "text": "And"}, PICTURE, {"type": "text", "text": "now?"}]},
]
FORMS = ("jsonl", "nested parquet", "json text in parquet")


def write(root: Path, rows: list[dict[str, Any]], form: str, name: str = "logs") -> str:
    """The rows in one of FORMS; the URI that names them."""
    if form == "jsonl":
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"{name}.jsonl"
    if form == "json text in parquet":
        rows = [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), root / f"{name}.parquet")
    return f"{name}.parquet"


def opened(root: Path, uri: str, preset: Any, second: Feedback | None = None, **columns: str) -> LogTable:
    logs = Logs(uri=uri, preset=preset, timezone=None, columns=columns, feedback=second)
    return open_logs(logs, root=root, adapter="support")


def only(logs: LogTable) -> pd.Series:
    assert logs.quarantined == ()
    frame = logs.rows(DAY).frame()
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.mark.parametrize("form", ["jsonl", "json text in parquet"])
def test_openai_bodies_keep_turns_and_tool_calls(tmp_path: Path, form: str) -> None:
    request = {"model": "support", "messages": TURNS, "user": "u7", "metadata": {"conversation_id": "c9", "tier": "gold"}}
    usage = {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is lost."}}
    response = {"id": "chatcmpl-1", "created": AT, "model": "support-v3", "choices": [choice], "usage": usage}
    uri = write(tmp_path, [{"request": request, "response": response, "latency_ms": 812.5}], form)
    row = only(opened(tmp_path, uri, "openai"))
    assert (row["request_id"], row["timestamp"]) == ("chatcmpl-1", pd.Timestamp(AT, unit="s", tz="UTC"))
    assert (row["adapter"], row["model_version"], row["user_id"], row["conversation_id"]) == (
        "support",
        "support-v3",
        "u7",
        "c9",
    )
    assert (row["prompt"], row["response"], row["finish_reason"]) == ("And\nnow?", "It is lost.", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"], row["latency_ms"]) == (40, 9, 812.5)
    assert json.loads(row["messages"]) == TURNS
    assert json.loads(row["metadata"])["tier"] == "gold"


def test_an_openai_answer_that_is_a_tool_call_is_kept_as_json(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    response = {"id": "x", "created": AT, "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    uri = write(tmp_path, [{"request": {"messages": TURNS[:2]}, "response": response}], "jsonl")
    row = only(opened(tmp_path, uri, "openai"))
    assert json.loads(row["response"]) == [CALL]
    assert row["prompt"] == "Where is my order?"


@pytest.mark.parametrize("form", FORMS)
def test_otel_spans_by_their_attributes_with_feedback_as_events(tmp_path: Path, form: str) -> None:
    said = [{"role": "user", "parts": [{"type": "text", "content": "Where is it?"}]}]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": "Lost."}], "finish_reason": "stop"}]
    attributes = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "support", "gen_ai.response.model": "support-v3",
        "gen_ai.response.id": "resp-1", "gen_ai.conversation.id": "c1", "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3, "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.input.messages": json.dumps(said), "gen_ai.output.messages": json.dumps(answer),
    }  # fmt: skip
    nanos = AT * 10**9
    span = {
        "name": "chat support",
        "spanId": "s1",
        "startTimeUnixNano": str(nanos),
        "endTimeUnixNano": str(nanos + 250_000_000),
        "attributes": attributes,
    }
    uri = write(tmp_path, [span], form)
    event = {"gen_ai.response.id": "resp-1", "gen_ai.evaluation.name": "thumbs", "gen_ai.evaluation.score.value": 1}
    later = {"timestamp": "2026-03-01T12:00:00Z", "attributes": event}
    feedback = Feedback(uri=write(tmp_path, [later], "jsonl", "events"), columns={})
    logs = opened(tmp_path, uri, "otel", feedback)
    row = only(logs)
    assert logs.bad_feedback == ()
    assert (row["request_id"], row["adapter"], row["model_version"]) == ("resp-1", "support", "support-v3")
    assert (row["timestamp"], row["latency_ms"]) == (pd.Timestamp(AT, unit="s", tz="UTC"), 250.0)
    assert (row["prompt"], row["response"], row["finish_reason"]) == ("Where is it?", "Lost.", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"], row["conversation_id"]) == (12, 3, "c1")
    assert json.loads(row["messages"]) == said
    assert (row["feedback"], row["feedback_at"]) == (1.0, pd.Timestamp("2026-03-01T12:00Z"))


def test_a_score_from_0_to_1_is_feedback_only_when_params_say_so(tmp_path: Path) -> None:
    rows = [{"request_id": f"r{i}", "timestamp": AT, "prompt": "q", "score": score} for i, score in enumerate((0, 1, 0.5))]
    uri = write(tmp_path, rows, "jsonl")
    logs = opened(tmp_path, uri, "ours", timestamp="timestamp as s", feedback="score as 0-1")
    assert logs.rows(DAY).frame()["feedback"].tolist() == [-1.0, 1.0]
    assert [(row.line, row.reason) for row in logs.quarantined] == [(3, "feedback is neither 0 nor 1")]


def test_the_table_of_mlflow_traces_as_mlflow_exports_it(tmp_path: Path) -> None:
    row = {
        "trace_id": "tr-1", "request_time": AT * 1000, "execution_duration": 120, "request": json.dumps({"messages": TURNS}),
        "response": json.dumps({"choices": [{"message": {"content": "It is lost."}}], "usage": {"prompt_tokens": 4}}),
        "trace_metadata": json.dumps({"mlflow.trace.user": "u1", "mlflow.trace.session": "s1"}), "tags": "{}",
    }  # fmt: skip
    found = only(opened(tmp_path, write(tmp_path, [row], "json text in parquet"), "mlflow"))
    assert (found["request_id"], found["user_id"], found["conversation_id"], found["latency_ms"]) == ("tr-1", "u1", "s1", 120.0)
    assert (found["prompt"], found["response"], found["prompt_tokens"]) == ("And\nnow?", "It is lost.", 4)


def test_a_conversation_with_a_strange_role_or_shape_is_set_aside_and_says_why(tmp_path: Path) -> None:
    bad: list[Any] = [
        [{"role": "boss", "content": "x"}],
        [{"content": "x"}],
        ["x"],
        {"role": "user"},
        "not a list",
        5,
        [{"role": "user"}],
    ]
    rows = [{"request_id": f"r{i}", "timestamp": AT, "messages": messages} for i, messages in enumerate(bad)]
    logs = opened(tmp_path, write(tmp_path, rows, "jsonl"), "ours", timestamp="timestamp as s")
    reasons = [row.reason for row in logs.quarantined]
    assert ["a role that is none of" in reason for reason in reasons[:3]] == [True] * 3
    assert reasons[3] == "messages is an object, must be a list of messages"
    assert reasons[4:] == [
        "messages is no list of messages",
        "messages is a number, must be a list of messages",
        "prompt is missing",
    ]
    assert logs.counts(DAY).quarantined == 7
