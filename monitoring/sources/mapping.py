"""Which of their columns is which of ours: `ours: place | other place as unit`, and the presets of common logs.

A place is a column, or a path with slashes into nested values (`response/choices/0/message/content`; ~1 is a slash inside a
name, as in a JSON pointer). The first place that holds a value counts. A unit says what a value means where it is not plain.
"""

import difflib
import re
from dataclasses import dataclass

from retrain.errors import ParamsError
from retrain.sections import Feedback, Logs

TIMES = ("timestamp", "feedback_at", "ended_at")
IDS = ("request_id", "adapter", "model_version", "user_id", "conversation_id")
TEXTS = ("prompt", "response", "finish_reason", "correction", "audit_label")
NUMBERS = ("latency_ms", "prompt_tokens", "completion_tokens", "confidence", "feedback")
NESTED = ("messages", "metadata")
COLUMNS = [
    *("request_id", "timestamp", "adapter", "model_version", "user_id", "conversation_id"),
    *("messages", "prompt", "response", "latency_ms", "prompt_tokens", "completion_tokens", "confidence"),
    *("finish_reason", "feedback", "correction", "audit_label", "feedback_at", "metadata"),
]
GIVEN = [*COLUMNS, "ended_at"]  # what can be mapped: ended_at gives latency_ms where that is missing
JUDGED = ("feedback", "correction", "audit_label")  # what a second table can bring, with feedback_at
UTC = "timestamp('UTC', 6)"  # a plain "timestamp" drops the offset on DuckDB
TYPES = {name: UTC if name in TIMES else "float64" if name in NUMBERS else "string" for name in COLUMNS}
REQUIRED = ("request_id", "timestamp", "prompt")

SECONDS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
UNITS = {
    **dict.fromkeys(TIMES, tuple(SECONDS)),  # since 1970
    "latency_ms": tuple(SECONDS),
    "feedback": ("0-1",),  # 0 is bad, 1 is good
    "prompt": ("messages", "json"),  # the text of the last user message; nested values as JSON text
    "response": ("messages", "json"),  # the text of the last assistant message
    "correction": ("json",),
    "audit_label": ("json",),
}

_OTEL = "attributes/gen_ai."
PRESETS: dict[str, dict[str, str]] = {
    "ours": {"prompt": "prompt | messages as messages"},
    "openai": {
        "request_id": "request_id | response/id",
        "timestamp": "timestamp | response/created as s",
        "adapter": "request/model",
        "model_version": "response/model",
        "user_id": "request/user",
        "conversation_id": "request/metadata/conversation_id",
        "messages": "request/messages",
        "prompt": "request/messages as messages",
        "response": "response/choices/0/message/content | response/choices/0/message/tool_calls as json",
        "prompt_tokens": "response/usage/prompt_tokens",
        "completion_tokens": "response/usage/completion_tokens",
        "finish_reason": "response/choices/0/finish_reason",
        "metadata": "request/metadata",
    },
    "otel": {
        "request_id": f"{_OTEL}response.id | context/span_id | span_id | spanId",
        "timestamp": "start_time | startTimeUnixNano as ns",
        "ended_at": "end_time | endTimeUnixNano as ns",
        "adapter": f"{_OTEL}request.model",
        "model_version": f"{_OTEL}response.model",
        "user_id": "attributes/user.id",
        "conversation_id": f"{_OTEL}conversation.id",
        "messages": f"{_OTEL}input.messages",
        "prompt": f"{_OTEL}input.messages as messages",
        "response": f"{_OTEL}output.messages as messages",
        "prompt_tokens": f"{_OTEL}usage.input_tokens",
        "completion_tokens": f"{_OTEL}usage.output_tokens",
        "finish_reason": f"{_OTEL}response.finish_reasons/0",
        "metadata": "resource",
    },
    "mlflow": {  # the table of mlflow.search_traces, and what sources/traces.py exports
        "request_id": "trace_id",
        "timestamp": "request_time as ms",
        "latency_ms": "execution_duration",
        "adapter": "adapter",
        "model_version": "response/model | trace_metadata/mlflow.modelId",
        "user_id": "trace_metadata/mlflow.trace.user",
        "conversation_id": "trace_metadata/mlflow.trace.session",
        "messages": "request/messages",
        "prompt": "request/messages as messages | request/prompt | request/question",
        "response": "response/choices/0/message/content | response/choices/0/message/tool_calls as json | response as json",
        "prompt_tokens": "response/usage/prompt_tokens",
        "completion_tokens": "response/usage/completion_tokens",
        "finish_reason": "response/choices/0/finish_reason",
        "feedback": "assessments/feedback | assessments/user_feedback",
        "correction": "assessments/correction | assessments/expected_response",
        "audit_label": "assessments/audit_label",
        "feedback_at": "assessed_at as ms",
        "metadata": "tags",
    },
}
FEEDBACK_PRESETS: dict[str, dict[str, str]] = {
    "otel": {  # events gen_ai.evaluation.result
        "request_id": f"{_OTEL}response.id",
        "feedback": f"{_OTEL}evaluation.score.value",
        "feedback_at": "timestamp | timeUnixNano as ns",
    },
}


@dataclass(frozen=True)
class Place:
    """Where a value stands: a column and the steps into it; unit says how to take it."""

    steps: tuple[str, ...]
    unit: str | None

    @property
    def column(self) -> str:
        return self.steps[0]

    @property
    def pointer(self) -> str:
        """As a JSON pointer from the row."""
        return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in self.steps)


Places = dict[str, tuple[Place, ...]]  # ours -> in the order in which they are tried


def of_logs(logs: Logs) -> Places:
    """Every column of ours with its places: the preset's, unless `logs.columns` says otherwise."""
    _known(logs.columns, GIVEN, "logs.columns")
    given = {**{name: name for name in COLUMNS}, **PRESETS[logs.preset], **logs.columns}
    return {name: _places(name, text, "logs.columns") for name, text in given.items()}


def of_feedback(logs: Logs, feedback: Feedback) -> Places:
    """The columns of the second table."""
    names = ("request_id", *JUDGED, "feedback_at")
    _known(feedback.columns, names, "logs.feedback.columns")
    given = {**{name: name for name in names}, **FEEDBACK_PRESETS.get(logs.preset, {}), **feedback.columns}
    return {name: _places(name, text, "logs.feedback.columns") for name, text in given.items()}


def _known(columns: dict[str, str], names: list[str] | tuple[str, ...], where: str) -> None:
    for ours in columns:
        if ours not in names:
            near = difflib.get_close_matches(ours, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"ours are {', '.join(names)}."
            raise ParamsError(f"{where}.{ours} (params.yaml) is no column of ours: {hint} It is `ours: theirs`")


def _places(name: str, text: str, where: str) -> tuple[Place, ...]:
    return tuple(_place(name, part.strip(), where) for part in text.split(" | "))


def _place(name: str, text: str, where: str) -> Place:
    path, _, unit = text.partition(" as ")
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in path.strip().split("/"))
    if not all(steps):
        raise ParamsError(f"{where}.{name} is {text!r} (params.yaml): must be a column, or a path such as request/messages")
    known = UNITS.get(name, ())
    if unit and unit.strip() not in known:
        fix = f"must be one of {', '.join(known)}" if known else f"{name} takes none"
        raise ParamsError(f"{where}.{name} has the unit {unit.strip()!r} (params.yaml): {fix}")
    return Place(steps, unit.strip() or None)


def nested(place: Place) -> bool:
    return len(place.steps) > 1


INDEX = re.compile(r"\d+")
