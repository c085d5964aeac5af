"""People are told through a real HTTP server; an address that fails is a warning, and no secret is printed."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import history
import pytest

from monitoring.windows import of_interval
from retrain import notify, watch
from retrain.errors import DataError, RetrainError
from retrain.params import Notify
from retrain.records import parse_time
from retrain.workspace import Workspace

ALL = ("fire", "failed", "stale")
NOW = parse_time("2026-10-26T01:00:00Z")  # an hour after the newest window of the history


class Listener:
    """What apprise's json:// posted, and with which credentials."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        self.signed: list[str | None] = []
        self.status = 200
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                listener.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                listener.signed.append(self.headers.get("Authorization"))
                self.send_response(listener.status)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"json://127.0.0.1:{self.server.server_port}/told"


@pytest.fixture()
def listener() -> Iterator[Listener]:
    made = Listener()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return history.workspace(tmp_path_factory.mktemp("notify"))


def with_address(space: Workspace, *urls: str) -> Workspace:
    params = space.params.model_copy(update={"notify": Notify(urls=urls, events=ALL)})
    return Workspace(space.root, params)


def test_a_message_arrives_and_only_for_the_events_that_are_asked_for(listener: Listener) -> None:
    asked = Notify(urls=(listener.address,), events=("fire",))
    assert notify.send(asked, "fire", title="support: fire", body="two reasons") == 1
    assert notify.send(asked, "stale", title="support: stale", body="none") == 0
    assert [(told["title"], told["message"]) for told in listener.heard] == [("support: fire", "two reasons")]


def test_a_secret_comes_from_the_environment_and_is_never_printed(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOLD_SECRET", "s3cret-value")
    address = listener.address.replace("json://", "json://me:${TOLD_SECRET}@")
    assert notify.send(Notify(urls=(address,), events=ALL), "fire", title="t", body="b") == 1
    assert listener.signed[0] is not None and listener.signed[0].startswith("Basic ")
    listener.status = 500
    said: list[str] = []
    assert notify.send(Notify(urls=(address,), events=ALL), "fire", title="t", body="b", say=said.append) == 0
    assert "notify.urls[0]" in said[0]
    printed = "".join([*said, *capfd.readouterr(), caplog.text])
    assert "s3cret-value" not in printed


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("json://$NOT_SET_ANYWHERE@127.0.0.1", "$NOT_SET_ANYWHERE"),
        ("nosuch://127.0.0.1", "no address that apprise knows"),
        ("json://127.0.0.1:9/", "does not answer"),
    ],
)
def test_an_address_that_fails_is_a_warning_and_the_next_is_still_told(listener: Listener, url: str, words: str) -> None:
    said: list[str] = []
    both = Notify(urls=(url, listener.address), events=ALL)
    assert notify.send(both, "fire", title="t", body="b", say=said.append) == 1
    assert len(said) == 1
    assert words in said[0]


def test_a_window_that_cannot_be_measured_is_told_and_still_raises(space: Workspace, listener: Listener) -> None:
    window = of_interval("2026-10-26T00:00:00Z", "2026-10-27T00:00:00Z")
    with pytest.raises(DataError):
        watch.monitor(with_address(space, listener.address), "support", window)  # it has no log
    assert "2026-10-27T00-00-00Z could not be measured" in listener.heard[0]["title"]


def test_a_window_that_fired_is_told_with_its_reasons_and_its_page(space: Workspace, listener: Listener) -> None:
    page = space.local / "reports" / "support.html"
    notify.fired(with_address(space, listener.address), "support", end="2026-10-26", reasons=["topic moved"], page=page)
    assert "topic moved" in listener.heard[0]["message"]
    assert str(page) in listener.heard[0]["message"]


# --- a monitor that has not run

END = {"end": "2026-10-26T00-00-00Z"}


@pytest.mark.parametrize(
    ("windows", "hours", "since", "missing"),
    [
        ([END], 24, None, None),
        ([END], 35.9, None, None),
        ([END], 36.1, None, "1 window is missing"),
        ([{"end": "2026-10-20T00-00-00Z"}, END], 73, None, "3 windows are missing"),
        ([], 1000, None, None),
        ([], 37, END["end"], "it has measured none since 2026-10-26"),
        ([], 24, END["end"], None),
    ],
)
def test_a_monitor_is_stale_when_a_window_that_long_ended_was_not_measured(
    windows: list, hours: float, since: str | None, missing: str | None
) -> None:
    last = parse_time("2026-10-26T00:00:00Z")
    found = notify.stale("support", windows, last + timedelta(hours=hours), 24, since=last if since else None)
    assert (found is None) == (missing is None)
    assert missing is None or missing in (found or "")


def test_the_guard_fails_on_a_stale_monitor_tells_once_and_again_after_it_ran(space: Workspace, listener: Listener) -> None:
    told = with_address(space, listener.address)
    assert notify.guard_monitor(told, "support", NOW) == "the monitor of support runs"
    for _ in range(2):
        with pytest.raises(RetrainError, match="stands still.*3 windows are missing.*retrain monitor support"):
            notify.guard_monitor(told, "support", NOW + timedelta(days=3))
    assert [heard["title"] for heard in listener.heard] == ["support: the monitor stands still"]
    notify.guard_monitor(told, "support", NOW)  # it ran
    with pytest.raises(RetrainError):
        notify.guard_monitor(told, "support", NOW + timedelta(days=3))
    assert len(listener.heard) == 2


def test_telling_that_failed_is_tried_again(space: Workspace) -> None:
    said: list[str] = []
    notify.guard_monitor(space, "support", NOW)  # nobody has been told
    silent = with_address(space, "json://127.0.0.1:9/")
    for _ in range(2):
        with pytest.raises(RetrainError):
            notify.guard_monitor(silent, "support", NOW + timedelta(days=9), say=said.append)
    assert len(said) == 2
