"""Requests as MLflow traces, what was said of them as assessments: written, brought up to date, deleted.

One request is one trace, whose id is made from the request's; all is found again by its tags. What people add to such a trace
in MLflow itself stays as it is.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from retrain.errors import RetrainError
from retrain.records import dumps, text_digest
from retrain.registry import Registry
from retrain.registry.runs import EXPORTED, called

REQUEST, CONTENT, UNTIL = "request_id", "retrain.content", "retrain.feedback_until"
USER, SESSION = "mlflow.trace.user", "mlflow.trace.session"
WHOLE = "mlflow.trace.spansLocation"  # a tag that MLflow sets with the spans
OURS = {"exported_by": "retrain"}  # metadata of an assessment
Source = Literal["user", "reviewer", "code"]
BATCH = 100  # requests that are looked up and sent at once
PREVIEW = 1000  # characters: a column of MLflow's database


@dataclass(frozen=True)
class Said:
    """One assessment; at: epoch ms; why: its rationale."""

    kind: Literal["feedback", "expectation"]
    name: str
    by: Source
    value: bool | float | str
    at: int
    why: str | None = None


@dataclass(frozen=True)
class Asked:
    """One answered request; at: epoch ms, took: ms; messages as OpenAI has them; user and session as they may be kept."""

    request: str
    at: int
    took: int
    messages: list[dict[str, Any]]
    answer: str
    tags: dict[str, str]
    user: str | None
    session: str | None
    said: tuple[Said, ...]

    @property
    def content(self) -> str:
        """A digest of all but the assessments."""
        return text_digest(dumps({**vars(self), "said": None}))[:32]


@dataclass(frozen=True)
class Put:
    """How many traces were made, and how many others were changed."""

    new: int
    changed: int


@called
def put(registry: Registry, adapter: str, asked: Sequence[Asked]) -> Put:
    """Make the adapter's experiment hold these requests, each once, and of our assessments these alone.

    Killed anywhere and called again it converges. RetrainError where MLflow is down, or keeps no spans.
    """
    experiment, new, changed = registry._experiment(adapter), 0, 0
    ordered = sorted(asked, key=lambda one: (one.at, one.request))
    for batch in (ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)):
        known = {str(info.tags[REQUEST]): info for info in _infos(registry, experiment, (batch[0].at, batch[-1].at))}
        touched = _write(registry, adapter, experiment, batch, known)
        touched |= {one.request for one in batch if one.request in known and _say(registry, known[one.request], one.said)}
        fresh = {one.request for one in batch} - known.keys()
        new, changed = new + len(fresh), changed + len(touched - fresh)
    return Put(new, changed)


def _write(registry: Registry, adapter: str, experiment: str, batch: Sequence[Asked], known: dict[str, Any]) -> set[str]:
    """Send what is not there or not whole; the requests that it was sent for.

    The tags of a new trace come before its spans, so that it is found whatever happens; where the content is another one they
    come after them, for they say what the spans are.
    """
    fresh = [one for one in batch if one.request not in known]
    held = [(one, known[one.request].tags) for one in batch if one.request in known]
    changed = [one for one, tags in held if tags.get(CONTENT) != one.content]
    half = [one for one, tags in held if tags.get(CONTENT) == one.content and WHOLE not in tags]
    for one in fresh:
        _start(registry, adapter, experiment, one, one.said)
    _spans(registry, adapter, experiment, [*fresh, *changed, *half])
    for one in changed:
        _start(registry, adapter, experiment, one)
    return {one.request for one in (*fresh, *changed, *half)}


def _id(adapter: str, one: Asked) -> str:
    return "tr-" + text_digest(dumps({"": [adapter, one.request]}))[:32]


def _tracing(registry: Registry) -> Any:
    """MlflowClient writes traces to the address of the process, this to that of the registry."""
    from mlflow.tracing.client import TracingClient

    return TracingClient(registry.uri)


def _start(registry: Registry, adapter: str, experiment: str, one: Asked, said: Sequence[Said] = ()) -> None:
    """Write all but the spans; of a trace that is there tags and previews are replaced."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    asked = next((str(m.get("content")) for m in reversed(one.messages) if m.get("role") == "user"), "")
    who = {name: value for name, value in ((USER, one.user), (SESSION, one.session)) if value}
    tags = {**one.tags, REQUEST: one.request, EXPORTED: "feedback", CONTENT: one.content, "mlflow.traceName": adapter}
    info = TraceInfo(
        trace_id=_id(adapter, one), trace_location=TraceLocation.from_experiment_id(experiment), request_time=one.at,
        execution_duration=one.took, state=TraceState.OK, request_preview=_plain(asked)[:PREVIEW],
        response_preview=_plain(one.answer)[:PREVIEW], trace_metadata=who, tags=tags,
        assessments=[_assessment(one_said) for one_said in said],
    )  # fmt: skip
    _tracing(registry).start_trace(info)


def _spans(registry: Registry, adapter: str, experiment: str, asked: Sequence[Asked]) -> None:
    """One span each, for which an id is made too: sent again it replaces itself."""
    from mlflow.entities import Span

    made = []
    for one in asked:
        name = _id(adapter, one)
        told = {"mlflow.traceRequestId": name, "mlflow.spanType": "CHAT_MODEL"}
        told |= {"mlflow.spanInputs": {"messages": one.messages}, "mlflow.spanOutputs": one.answer}  # type: ignore[dict-item]
        raw = bytes.fromhex(name.removeprefix("tr-"))
        span = {
            "trace_id": base64.b64encode(raw).decode(), "span_id": base64.b64encode(raw[:8]).decode(), "parent_span_id": "",
            "name": adapter, "start_time_unix_nano": one.at * 10**6, "end_time_unix_nano": (one.at + one.took) * 10**6,
            "events": [], "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: _plain(json.dumps(value, ensure_ascii=False)) for key, value in told.items()},
        }  # fmt: skip
        made.append(Span.from_dict(span))
    try:
        _tracing(registry).log_spans(experiment, made)
    except NotImplementedError as error:
        raise RetrainError(
            f"MLflow at {registry.uri} takes no spans ({error}): it has to be 3.4 or newer, on a database"
        ) from error


def _say(registry: Registry, known: Any, wanted: Sequence[Said]) -> bool:
    """Add what is missing, then delete those of ours that say something else; whether there was any."""
    missing, stale = list(wanted), []
    for one in known.assessments:
        if not OURS.items() <= (one.metadata or {}).items():
            continue
        same = next((said for said in missing if _equal(one, said)), None)
        missing.remove(same) if same else stale.append(one)
    client = _tracing(registry)
    for said in missing:
        client.log_assessment(known.trace_id, _assessment(said))
    for one in stale:
        client.delete_assessment(known.trace_id, one.assessment_id)
    return bool(missing or stale)


def _assessment(said: Said) -> Any:
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    source = AssessmentSource(source_type="CODE" if said.by == "code" else "HUMAN", source_id=said.by)
    common = {"name": said.name, "source": source, "metadata": OURS, "create_time_ms": said.at, "last_update_time_ms": said.at}
    if said.kind == "expectation":
        return Expectation(value=_value(said), **common)
    return Feedback(value=_value(said), rationale=_plain(said.why) if said.why else None, **common)


def _equal(one: Any, said: Said) -> bool:
    value = (one.feedback or one.expectation).value
    kind = "feedback" if one.feedback else "expectation"
    told = (kind, one.name, one.source.source_id, one.rationale or None, isinstance(value, bool), value)
    why = _plain(said.why) if said.why else None
    return told == (said.kind, said.name, said.by, why, isinstance(said.value, bool), _value(said))


def _plain(text: str) -> str:
    """As a database and a server take it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _value(said: Said) -> bool | float | str:
    return _plain(said.value) if isinstance(said.value, str) else said.value


def _infos(registry: Registry, experiment: str, between: tuple[int, int] | None = None) -> Iterator[Any]:
    """Exported traces of requests between two times (epoch ms, both included), without their spans."""
    filters, token = f"tags.`{EXPORTED}` = 'feedback'", None
    if between:
        filters += f" AND attributes.timestamp_ms >= {between[0]} AND attributes.timestamp_ms <= {between[1]}"
    while True:
        page = registry.client.search_traces(
            locations=[experiment], filter_string=filters, include_spans=False, max_results=500, page_token=token
        )
        yield from (trace.info for trace in page)
        token = page.token
        if not token:
            return


@called
def erase(registry: Registry, adapter: str, *, requests: AbstractSet[str], users: AbstractSet[str]) -> int:
    """Delete the exported traces of these requests, and of these users (as they are kept: hashed); how many there were."""
    experiment = registry._find_experiment(adapter)
    if experiment is None:
        return 0
    doomed = [
        info.trace_id
        for info in _infos(registry, experiment)
        if info.tags.get(REQUEST) in requests or info.trace_metadata.get(USER) in users
    ]
    for start in range(0, len(doomed), BATCH):
        registry.client.delete_traces(experiment, trace_ids=doomed[start : start + BATCH])
    return len(doomed)


@called
def exported_until(registry: Registry, adapter: str) -> str | None:
    """Up to when all feedback is there (ISO 8601); None where that was never so."""
    experiment = registry._find_experiment(adapter)
    return registry.client.get_experiment(experiment).tags.get(UNTIL) if experiment else None


@called
def set_exported_until(registry: Registry, adapter: str, at: str) -> None:
    registry.client.set_experiment_tag(registry._experiment(adapter), UNTIL, at)
