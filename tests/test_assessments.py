"""What the door was told, as assessments in a real MLflow: once, without what is personal, and gone with who is erased."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import deciding
import doors
import pytest
from calling import call

from monitoring import sources
from monitoring.failures import drawn
from monitoring.windows import of_interval
from retrain import assessments, jobs, params, redact, sweep, tombstones, watch
from retrain.errors import BusyError, DataError, ParamsError, RetrainError
from retrain.params import Mlflow
from retrain.records import write_jsonl
from retrain.registry import Registry, traces
from retrain.scrub import Scrubbed, Scrubber
from retrain.serving import feedback
from retrain.serving.engine import Answered
from retrain.serving.logs import Call, Logs
from retrain.serving.protocol import Asked, request_id, time_of_id
from retrain.serving.versions import Version
from retrain.tombstones import Tombstone, Tombstones
from retrain.userids import UserIds
from retrain.workspace import Workspace

AT = 1_700_000_000_000


class Talk:
    """Users of a door, without its HTTP: what they ask is answered `order_status` by v7."""

    def __init__(self, space: Workspace) -> None:
        self.logs = Logs(space)
        self.feedback = feedback.Feedback(space, self.logs)
        self.rate = space.params.of("support").failures.audit_rate
        self.version = Version("support", 7, doors.digest(7), space.root, 0, "c", 8)

    def ask(self, *texts: str, judged: bool = False, **more: Any) -> str:
        """The id of a request, which is drawn for the audit or not."""
        request = next(one for one in iter(request_id, "") if drawn(one, self.rate) == judged)
        asked = Asked(model="support", messages=[{"role": "user", "content": text} for text in texts], **more)  # type: ignore[list-item]
        self.logs.answered(
            Call(request, time.time(), asked, self.version, "champion"), Answered("order_status", 0.9, False, 7, 3)
        )
        return request

    def say(self, request: str, value: Any, source: Any = "user", **more: Any) -> None:
        self.feedback.take(
            feedback.Given(**{"request_id": request, "name": "thumbs", "value": value, "source": source, **more})
        )


@contextmanager
def talking(space: Workspace) -> Iterator[Talk]:
    """What was said is on disk at the end."""
    talk = Talk(space)
    yield talk
    talk.logs.journal.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace without a remote, with its MLflow."""
    root = tmp_path_factory.mktemp("assessments")
    shutil.copy(Path(__file__).parents[1] / "params.yaml", root)
    Registry.open(Mlflow(uri=None, timeout=5), root)
    return root


@pytest.fixture
def space(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("RETRAIN_USER_KEY", "a key of these tests")
    return Workspace.open(shutil.copytree(template, tmp_path / "ws"))


def stored(space: Workspace) -> dict[str, Any]:
    """Request -> its trace."""
    registry = Registry.open(space.params.mlflow, space.root)
    experiment = registry._find_experiment("support")
    found = registry.client.search_traces(locations=[experiment]) if experiment else []
    assert len({trace.info.tags["request_id"] for trace in found}) == len(found)
    return {trace.info.tags["request_id"]: trace for trace in found}


def said(trace: Any) -> dict[tuple[str, str, str], Any]:
    """(name, source type, source id) -> value and rationale, by kind."""
    return {
        (one.name, one.source.source_type, one.source.source_id): (type(one).__name__, one.value, one.rationale)
        for one in trace.info.assessments
    }


def test_a_request_becomes_a_trace_and_what_was_said_of_it_assessments(space: Workspace) -> None:
    with talking(space) as talk:
        wrong = talk.ask("hello", "where is my parcel", user="anna", metadata={"conversation_id": "c-1"})
        right, audited = talk.ask("thanks"), talk.ask("cancel it", judged=True)
        silent = talk.ask("nobody says anything of this")
        talk.say(wrong, False, correction="refund_status", comment="not my question")
        talk.say(wrong, 4, name="stars")
        talk.say(wrong, "slow", "code", name="latency", correction="ignored")
        talk.say(right, True)
        talk.say(audited, -1, "reviewer", correction="cancel_order")
    assert assessments.export(space, "support") == assessments.Exported(3, 3, 0, 0, 0)
    found, ids = stored(space), UserIds.of(space)
    assert set(found) == {wrong, right, audited} and silent not in found
    info, data = found[wrong].info, found[wrong].data
    wanted = {"model_version": "support-v7", "digest": doors.digest(7), "arm": "champion", "request_id": wrong}
    assert wanted.items() <= info.tags.items()
    assert (info.trace_metadata["mlflow.trace.user"], info.trace_metadata["mlflow.trace.session"]) == (ids("anna"), ids("c-1"))
    asked = {"messages": [{"role": "user", "content": "hello"}, {"role": "user", "content": "where is my parcel"}]}
    assert (data.spans[0].inputs, data.spans[0].outputs) == (asked, "order_status")
    assert (info.request_preview, info.response_preview, str(info.state)) == ("where is my parcel", "order_status", "OK")
    assert abs((time_of_id(wrong) or 0) * 1000 - info.request_time) < 1000
    assert said(found[wrong]) == {
        ("thumbs", "HUMAN", "user"): ("Feedback", False, "not my question"),
        ("stars", "HUMAN", "user"): ("Feedback", 4, None),
        ("latency", "CODE", "code"): ("Feedback", "slow", None),
        ("correction", "HUMAN", "user"): ("Expectation", "refund_status", None),
    }
    assert said(found[right]) == {("thumbs", "HUMAN", "user"): ("Feedback", True, None)}
    assert said(found[audited]) == {
        ("thumbs", "HUMAN", "reviewer"): ("Feedback", False, None),
        ("audit_label", "HUMAN", "reviewer"): ("Expectation", "cancel_order", None),
    }


def test_said_again_it_is_replaced_and_taken_back_it_is_gone(space: Workspace) -> None:
    with talking(space) as talk:
        request = talk.ask("where is my parcel")
        talk.say(request, False, correction="refund_status", comment="no")
    assert assessments.export(space, "support").new == 1
    assert assessments.export(space, "support") == assessments.Exported(1, 0, 0, 0, 0)
    with talking(space) as talk:
        talk.say(request, True)
    assert assessments.export(space, "support") == assessments.Exported(1, 0, 1, 0, 0)
    assert said(stored(space)[request]) == {("thumbs", "HUMAN", "user"): ("Feedback", True, None)}
    assert assessments.export(space, "support").changed == 0


def test_a_correction_is_of_who_gave_the_one_that_stands(space: Workspace) -> None:
    with talking(space) as talk:
        request = talk.ask("where is my parcel")
        for source, correction in (("user", "refund_status"), ("reviewer", "cancel_order"), ("user", "track_order")):
            talk.say(request, False, source, correction=correction)
            time.sleep(0.002)  # the door writes milliseconds
    assert assessments.export(space, "support").new == 1
    corrections = {key: told[1] for key, told in said(stored(space)[request]).items() if key[0] == "correction"}
    assert corrections == {("correction", "HUMAN", "user"): "track_order"}


def test_feedback_of_any_log_table_is_exported_from_its_columns(space: Workspace) -> None:
    row = {"timestamp": "2026-03-01T10:00:00Z", "adapter": "support", "prompt": "hi", "response": "a"}
    told = ({"feedback": 1, "feedback_at": "2026-03-01T11:00:00Z"}, {"correction": "b", "feedback_at": "2026-03-03T11:00:00Z"})
    write_jsonl(space.root / "logs/support/a.jsonl", [{"request_id": f"r-{i}", **row, **one} for i, one in enumerate(told)])
    late = call("feedback", "export", "support", "--since", "2026-03-02T00:00:00Z", "-w", space.root)
    assert late.out == "support: 1 requests have feedback; 1 are new in MLflow, 0 changed there, 0 as before\n"
    assert said(stored(space)["r-1"]) == {("correction", "HUMAN", "user"): ("Expectation", "b", None)}
    assert '"new": 1' in call("feedback", "export", "support", "--json", "-w", space.root).out
    assert said(stored(space)["r-0"]) == {("thumbs", "HUMAN", "user"): ("Feedback", True, None)}


# --- privacy


def test_nothing_raw_reaches_mlflow(space: Workspace) -> None:
    with talking(space) as talk:
        request = talk.ask("I am ann@example.org", user="u-anna", metadata={"conversation_id": "c-anna", "note": "n-anna"})
        talk.say(request, False, correction="write to ann@example.org", comment="bob@example.org and ann@example.org")
        talk.say(request, "ask ann@example.org", "reviewer", name="todo")
        unstored = talk.ask("a secret of ann@example.org", user="u-anna", store=False)
        talk.say(unstored, False, correction="a secret of ann@example.org")
    assert assessments.export(space, "support").new == 1
    found = stored(space)
    assert set(found) == {request}
    assert found[request].info.request_preview == "I am <EMAIL_1>"
    assert {value for value in said(found[request]).values()} == {
        ("Expectation", "write to <EMAIL_1>", None),
        ("Feedback", False, "<EMAIL_2> and <EMAIL_1>"),
        ("Feedback", "ask <EMAIL_1>", None),
    }
    written = [path for path in (space.local / "mlflow").rglob("*") if path.is_file()]
    raw = (b"example.org", b"u-anna", b"c-anna", b"n-anna", b"a secret of")
    assert written and not any(word in path.read_bytes() for path in written for word in raw)


def test_a_number_is_searched_as_a_text_is(space: Workspace) -> None:
    with talking(space) as talk:
        request = talk.ask("my card was declined")
        for name, value in (("card", 4111111111111111), ("same", 4111111111111111.0), ("stars", 4), ("score", 0.25)):
            talk.say(request, value, name=name)
    assert assessments.export(space, "support").new == 1
    told = {key[0]: value[1] for key, value in said(stored(space)[request]).items()}
    assert told == {"card": "<CREDIT_CARD_1>", "same": "<CREDIT_CARD_1>", "stars": 4, "score": 0.25}


def test_what_could_not_be_searched_is_tried_again_by_the_next_window(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with talking(space) as talk:
        request = talk.ask("where is my parcel")
        talk.say(request, False)
    warned: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(Scrubber, "__call__", lambda self, rows: [Scrubbed(None, why="it failed") for _ in rows])
        assessments.catch_up(space, "support", say=warned.append)
    assert "1 requests stay out of MLflow" in warned[0] and stored(space) == {}
    monkeypatch.setattr(assessments, "OVERLAP", -assessments.OVERLAP)  # nothing was written since
    assessments.catch_up(space, "support", say=pytest.fail)
    assert set(stored(space)) == {request}


def test_a_row_that_cannot_be_searched_stays_out_and_is_counted(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(space) as talk:
        talk.say(talk.ask("where is my parcel"), False)
    monkeypatch.setattr(Scrubber, "__call__", lambda self, rows: [Scrubbed(None, why="it failed") for _ in rows])
    told = call("feedback", "export", "support", "-w", space.root)
    assert "1 stay out: what searches them for personal data failed" in told.out
    assert stored(space) == {}


def test_what_is_searched_for_later_is_taken_out_of_the_traces_that_are_there(space: Workspace) -> None:
    with talking(space) as talk:
        request = talk.ask("order 4711 is lost")
        talk.say(request, False, comment="4711!")
    assert assessments.export(space, "support").new == 1
    stricter = replace(space, params=params.load(space.root, ["scrub.patterns={order: '4711'}"]))
    assert assessments.export(stricter, "support").changed == 1
    assert assessments.export(stricter, "support").changed == 0
    trace = stored(space)[request]
    assert (trace.info.request_preview, trace.data.spans[0].inputs["messages"][0]["content"]) == (
        "order <ORDER_1> is lost",
    ) * 2
    assert said(trace) == {("thumbs", "HUMAN", "user"): ("Feedback", False, "<ORDER_1>!")}


def test_an_erasure_deletes_the_traces_for_good(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(space) as talk:
        mine, theirs, other = talk.ask("quokka", user="anna"), talk.ask("wombat"), talk.ask("numbat", user="bob")
        for request in (mine, theirs, other):
            talk.say(request, False, comment=f"said of {request}")
    assert assessments.export(space, "support").new == 3
    database, words = space.local / "mlflow" / "mlflow.db", [word.encode() for word in ("quokka", "wombat", mine, theirs)]
    assert all(word in database.read_bytes() for word in words)
    key = UserIds.of(space).key or b""
    gone = redact.Traces(users={"anna", tombstones.keyed(key, "anna")}, requests={theirs})
    assert sweep.texts(space, gone, lambda origin: False) == (2, [], False)
    assert not any(word in database.read_bytes() for word in words)
    stones = [tombstones.keyed(key, one) for one in ("anna", theirs)]
    lines = [Tombstone(at="", kind=kind, hash=one, key="") for kind, one in zip(("user", "request"), stones, strict=True)]
    monkeypatch.setattr(assessments.review, "tombstones_of", lambda space: Tombstones(tuple(lines), key))
    assert assessments.export(space, "support") == assessments.Exported(3, 0, 0, 0, 2)  # the log still has them
    assert set(stored(space)) == {other}
    read = iter([Tombstones((), b""), Tombstones(tuple(lines), key)])  # erased elsewhere while it was written
    monkeypatch.setattr(assessments.review, "tombstones_of", lambda space: next(read))
    assert assessments.export(space, "support").new == 2
    assert set(stored(space)) == {other}


def test_an_erasure_waits_for_an_export(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOCK_WAIT", 0.1)
    with jobs.alone(space), pytest.raises(BusyError, match=r"support\.feedback"):  # its traces could come after the sweep
        assessments.export(space, "support")


def test_an_erasure_says_that_mlflow_was_not_reached(space: Workspace) -> None:
    gone = replace(space, params=params.load(space.root, ["mlflow.uri=http://127.0.0.1:9", "mlflow.timeout=1"]))
    _, left, down = sweep.texts(gone, redact.Traces(requests={"r"}), lambda origin: False)
    assert down and left[0].startswith("MLflow: ")


# --- no loop


def test_exported_traces_are_no_rows_of_a_log_that_is_the_experiment(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(space) as talk:
        talk.say(talk.ask("where is my parcel"), False)
    assessments.export(space, "support")
    uri = "logs.uri=mlflow-traces:support"
    looped = replace(space, params=params.load(space.root, [uri, "logs.preset=mlflow"]))
    with pytest.raises(DataError, match="has no trace that has ended"):
        sources.open_logs(looped.params.logs, root=space.root, adapter="support")
    registry = Registry.open(space.params.mlflow, space.root)
    own = traces.Asked("own", AT, 5, [{"role": "user", "content": "mine"}], "a", {}, None, None, ())
    monkeypatch.setattr(traces, "EXPORTED", "somebody.else")
    traces.put(registry, "support", [own])
    always = of_interval("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    rows = sources.open_logs(looped.params.logs, root=space.root, adapter="support").rows(always).frame(["prompt"])
    assert list(rows["prompt"]) == ["mine"]
    with pytest.raises(ParamsError, match="in MLflow already"):
        assessments.export(looped, "support")
    warned: list[str] = []
    assessments.catch_up(looped, "support", say=warned.append)
    assert warned == []


# --- faults


def test_a_window_exports_what_the_door_was_told_since_the_last_and_a_fault_is_a_warning(
    space: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.after_window(space, deciding.window(0))  # no door: nothing to say
    assert "feedback" not in capsys.readouterr().err
    with talking(space) as talk:
        request = talk.ask("where is my parcel")
        talk.say(request, False)
    with monkeypatch.context() as patched:
        patched.setattr(assessments, "put", lambda *args: (_ for _ in ()).throw(RetrainError("it is down")))
        watch.after_window(space, deciding.window(0))
    assert "run `retrain feedback export support` (RetrainError: it is down)" in capsys.readouterr().err
    watch.after_window(space, deciding.window(0))
    assert request in stored(space)
    registry = Registry.open(space.params.mlflow, space.root)
    assert traces.exported_until(registry, "support")
    monkeypatch.setattr(assessments, "OVERLAP", -assessments.OVERLAP)  # nothing was written since
    monkeypatch.setattr(assessments, "export", lambda *args, **more: pytest.fail("it was read again"))
    assessments.catch_up(space, "support", say=pytest.fail)
