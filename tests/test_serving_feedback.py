"""What people say of answers at the door, and the page on which they say it (trial 40)."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from doors import Stub, chat, logged, other, post, promote, running, space_of, until

from monitoring.failures import drawn
from monitoring.windows import of_interval
from retrain.serving.door import Door
from retrain.userids import open_logs
from retrain.workspace import Workspace


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = space_of(tmp_path_factory.mktemp("feedback"), tiny)
    promote(made, 7)
    return made


def rate(address: str, request: str, **more: Any) -> httpx.Response:
    return post(address, {"request_id": request, "name": "thumbs", "value": True, "source": "user", **more}, "/v1/feedback")


def a_request(address: str, judged: bool, **more: Any) -> str:
    """The id of an answered request that is drawn for the audit, or not."""
    while True:
        request = str(chat(address, **more).json()["id"])
        if drawn(request, 0.5) == judged:
            return request


def frame(space: Workspace) -> Any:
    logs = open_logs(space, space.params.of("support"), "support")
    rows = logs.rows(of_interval("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")).frame()
    return rows.set_index("request_id")


def test_feedback_of_users_and_reviewers_reaches_the_monitors_table(open_door: tuple[Door, str], space: Workspace) -> None:
    address = open_door[1]
    liked, wrong = a_request(address, False), a_request(address, False, user="anna")
    right, mended = a_request(address, True), a_request(address, True)
    assert rate(address, liked).json()["status"] == "recorded"
    assert rate(address, wrong, value=False, correction="refund_status", comment="no").json()["status"] == "recorded"
    rate(address, right, source="reviewer")
    rate(address, mended, source="reviewer", value=False, correction="cancel_order")
    rate(address, liked, source="code", name="latency_ok", value=0.5, correction="card")
    folder = space.root / "logs/.feedback/support"
    until(lambda: mended in "".join(path.read_text() for path in folder.glob("*.jsonl")))
    until(lambda: logged(space, mended))
    found = frame(space).loc[[liked, wrong, right, mended], ["feedback", "correction", "audit_label"]]
    assert found["feedback"].fillna(0).tolist() == [1, -1, 0, 0]
    assert found["correction"].tolist() == [None, "refund_status", None, None]
    assert found["audit_label"].tolist() == [None, None, "order_status", "cancel_order"]
    assert frame(space).loc[wrong, "user_id"] not in (None, "anna")  # whoever reads keeps the hash


def test_trial_40_unknown_twice_300_times_and_a_day_late(
    open_door: tuple[Door, str], space: Workspace, stub: Stub, monkeypatch: Any
) -> None:
    address = open_door[1]
    unknown = rate(address, "chatcmpl-" + "0" * 32)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "request_not_found")
    assert rate(address, "../../etc/passwd").status_code == 404
    request = a_request(address, False)
    assert [rate(address, request).json()["status"] for _ in range(2)] == ["recorded", "known"]
    assert rate(address, request, value=False).json()["status"] == "recorded"  # a change of mind
    made = [a_request(address, False, user="mallory") for _ in range(12)]
    with running(other(space, "serve.feedback.per_user=10"), stub) as (door, again):
        answers = [rate(again, one) for one in made]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) > 80_000
        assert rate(again, request, value=False).json()["status"] == "known"  # after a restart, too
        now = time.time
        monkeypatch.setattr("retrain.clock.time.time", lambda: now() + 86_400)
        door.logs._recent.clear()  # found in the file
        assert rate(again, a_request(again, False)).json()["status"] == "recorded"
        monkeypatch.setattr("retrain.clock.time.time", lambda: now() + 31 * 86_400)
        assert rate(again, request, value=True).json()["error"]["code"] == "too_late"


def test_what_is_said_again_takes_back_the_correction_that_it_leaves_out(open_door: tuple[Door, str], space: Workspace) -> None:
    address = open_door[1]
    user, reviewer = a_request(address, False), a_request(address, True)
    rate(address, user, value=False, correction="refund_status")
    rate(address, reviewer, source="reviewer", value=False, correction="refund_status")
    assert rate(address, user).json()["status"] == "recorded"
    assert rate(address, reviewer, source="reviewer", value=False).json()["status"] == "recorded"
    assert rate(address, user).json()["status"] == "known"
    folder = space.root / "logs/.feedback/support"
    until(lambda: "".join(path.read_text() for path in folder.glob("*.jsonl")).count(reviewer) == 2)
    until(lambda: logged(space, reviewer))
    found = frame(space).loc[[user, reviewer]]
    assert found["feedback"].fillna(0).tolist() == [1, 0]
    assert found[["correction", "audit_label"]].isna().all(axis=None)


def test_what_programs_and_reviewers_say_is_not_the_users_share(space: Workspace, stub: Stub) -> None:
    with running(other(space, "serve.feedback.per_user=1"), stub) as (_, address):
        request = a_request(address, False, user="eve")
        for number in range(3):
            assert rate(address, request, source="code", name="latency_ok", value=number).status_code == 200
        assert rate(address, request, source="user").status_code == 200
        assert rate(address, request, source="user", value=False).status_code == 429
        assert rate(address, request, source="reviewer", value=False).status_code == 200


@pytest.mark.parametrize(
    "more", [{"value": 5}, {"value": "up"}, {"correction": " "}, {"source": "me"}, {"name": "A b"}, {"x": 1}]
)
def test_feedback_that_is_none_is_refused(open_door: tuple[Door, str], more: dict[str, Any]) -> None:
    answer = rate(open_door[1], a_request(open_door[1], False), **more)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_page_shows_drawn_requests_until_a_person_has_labelled_them(open_door: tuple[Door, str], stub: Stub) -> None:
    address = open_door[1]
    page = httpx.get(address + "/")
    assert "<option>support</option>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    request = a_request(address, True)
    waiting = httpx.get(f"{address}/v1/audit/support").json()["request"]
    assert (waiting["request_id"], waiting["response"]) == (request, "order_status")
    rate(address, request, source="reviewer")
    after = httpx.get(f"{address}/v1/audit/support").json()["request"]
    assert after is None or after["request_id"] != request
    assert httpx.get(f"{address}/v1/requests/{request}").json()["request"]["prompt"] == "where is my parcel"
