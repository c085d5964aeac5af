"""Requests and what was said of them in a real MLflow: once each, killed anywhere, on SQLite and on a server."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import servers

from retrain.errors import RetrainError
from retrain.params import Mlflow
from retrain.registry import Registry
from retrain.registry.traces import Asked, Put, Said, erase, put

AT = 1_700_000_000_000
NO = Said("feedback", "thumbs", "user", False, AT, "no\0")
YES = Said("feedback", "thumbs", "user", True, AT)
RIGHT = Said("expectation", "correction", "user", "é\u2028\0\ud800", AT)


def asked(request: str, *said: Said, text: str = "where is my parcel") -> Asked:
    return Asked(request, AT, 5, [{"role": "user", "content": text}], "a", {"arm": "champion"}, f"u-{request}", None, said)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.open(Mlflow(uri=None, timeout=5), tmp_path_factory.mktemp("traces"))


def stored(registry: Registry, adapter: str) -> dict[str, tuple[Any, list[tuple[str, Any, str | None]]]]:
    """Request -> what it asked, and its assessments."""
    found = registry.client.search_traces(locations=[registry._find_experiment(adapter)])
    assert len({trace.info.tags["request_id"] for trace in found}) == len(found)
    return {
        trace.info.tags["request_id"]: (
            [span.inputs["messages"][0]["content"] for span in trace.data.spans],
            sorted((one.name, one.value, one.rationale) for one in trace.info.assessments),
        )
        for trace in found
    }


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["start_trace", "log_spans", "log_assessment", "delete_assessment"])
@pytest.mark.parametrize("nth", [0, 1])
def test_killed_at_any_call_and_run_again_it_says_the_same(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str, after: bool, nth: int
) -> None:
    from mlflow.tracing.client import TracingClient

    adapter = f"{name}-{after}-{nth}"
    put(registry, adapter, [asked("a", NO, RIGHT), asked("b", text="before")])
    wanted = [asked("a", YES, RIGHT), asked("b", NO, text="after"), asked("c", NO)]
    real, calls = getattr(TracingClient, name), itertools.count()

    def dies(self: Any, *args: Any, **kwargs: Any) -> Any:
        now = next(calls) == nth
        if now and not after:
            raise Killed
        made = real(self, *args, **kwargs)
        if now:
            raise Killed
        return made

    with monkeypatch.context() as patched:
        patched.setattr(TracingClient, name, dies)
        try:
            put(registry, adapter, wanted)
        except Killed:
            assert next(calls) > nth
        else:
            assert (name, nth) in {("log_spans", 1), ("delete_assessment", 1)}  # so many calls there are not
    put(registry, adapter, wanted)
    assert stored(registry, adapter) == {
        "a": (["where is my parcel"], [("correction", "é\u2028\ufffd?", None), ("thumbs", True, None)]),
        "b": (["after"], [("thumbs", False, "no\ufffd")]),
        "c": (["where is my parcel"], [("thumbs", False, "no\ufffd")]),
    }
    assert put(registry, adapter, wanted) == Put(0, 0)


def test_what_people_add_to_a_trace_in_mlflow_stays(registry: Registry) -> None:
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.tracing.client import TracingClient

    put(registry, "people", [asked("a", NO)])
    (trace,) = registry.client.search_traces(locations=[registry._find_experiment("people")])
    ines = Feedback(name="thumbs", value=False, source=AssessmentSource("HUMAN", "ines"))
    TracingClient(registry.uri).log_assessment(trace.info.trace_id, ines)
    assert put(registry, "people", [asked("a", YES)]) == Put(0, 1)
    assert stored(registry, "people")["a"][1] == [("thumbs", False, None), ("thumbs", True, None)]


def test_many_requests_are_looked_up_and_erased_in_batches_and_traces_of_others_stay(registry: Registry) -> None:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.client import TracingClient

    many = [replace(asked(f"r{i}", NO), at=AT + i % 7) for i in range(230)]
    assert put(registry, "many", many) == Put(230, 0)
    assert put(registry, "many", many) == Put(0, 0)
    place = TraceLocation.from_experiment_id(registry._find_experiment("many"))
    TracingClient(registry.uri).start_trace(TraceInfo("tr-own", place, AT, TraceState.OK, tags={"request_id": "r1"}))
    rows, token = registry.trace_page("many", "", bodies=False, token=None)
    assert ([row["trace_id"] for row in rows], token) == (["tr-own"], None)
    assert erase(registry, "many", requests={"r1", "r2"}, users={"u-r3"}) == 3
    assert erase(registry, "many", requests={one.request for one in many}, users=set()) == 227
    (left,) = registry.client.search_traces(locations=[place.mlflow_experiment.experiment_id], include_spans=False)
    assert left.info.trace_id == "tr-own"
    assert erase(registry, "nothing yet", requests={"r1"}, users=set()) == 0


def test_a_server_on_postgresql_takes_the_same_and_its_fall_is_an_error_in_time(
    tmp_path: Path, mlflow_server: servers.Server
) -> None:
    registry = Registry.open(Mlflow(uri=mlflow_server.uri, timeout=2), tmp_path)
    first = asked("a", NO, RIGHT, Said("feedback", "stars", "code", 4.5, AT), text="x\0\ud800" * 2000)
    assert put(registry, "told", [first]) == Put(1, 0)
    assert put(registry, "told", [first]) == Put(0, 0)
    second = asked("a", YES, RIGHT, text="y")
    with mlflow_server.hung():
        began = time.monotonic()
        with pytest.raises(RetrainError, match="MLflow at .* failed in put"):
            put(registry, "told", [second])
        assert time.monotonic() - began < 10
    assert stored(registry, "told")["a"][0] == ["x\0?" * 2000]
    assert put(registry, "told", [second, asked("b", NO)]) == Put(1, 1)
    assert stored(registry, "told") == {
        "a": (["y"], [("correction", "é\u2028\ufffd?", None), ("thumbs", True, None)]),
        "b": (["where is my parcel"], [("thumbs", False, "no\ufffd")]),
    }
    assert erase(registry, "told", requests={"b"}, users={"u-a"}) == 2
    assert stored(registry, "told") == {}
