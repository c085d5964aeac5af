"""A simulation tells `retrain serve` what time it is; how long an answer took is real all the same."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from doors import Stub, promote, running, space_of

from retrain import clock
from retrain.serving import protocol

DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clock"
    clock.tell(path, DAY)
    monkeypatch.setenv(clock.NAME, str(path))
    return path


def test_it_is_as_late_as_was_told_last(told: Path) -> None:
    assert clock.now() == DAY
    clock.tell(told, DAY + 0.25)
    assert clock.now() == DAY + 0.25


def test_requests_of_a_repeated_simulation_have_the_same_ids(told: Path) -> None:
    first = protocol.request_id()
    assert protocol.request_id() == first
    assert protocol.time_of_id(first) == DAY
    clock.tell(told, DAY + 0.001)
    assert protocol.request_id() != first


def test_without_a_simulation_no_two_requests_have_one_id() -> None:
    assert protocol.request_id() != protocol.request_id()


def test_log_and_feedback_are_of_the_time_that_was_told_and_latency_is_real(tiny: Path, tmp_path: Path, told: Path) -> None:
    space = space_of(tmp_path, tiny)
    promote(space, 1)
    stub = Stub()
    stub.wait = 0.05
    with running(space, stub) as (_, address):
        body = {"model": "support", "user": "u1", "messages": [{"role": "user", "content": "where is it"}]}
        request = requests.post(f"{address}/v1/chat/completions", json=body, timeout=10).json()["id"]
        clock.tell(told, DAY + 60)
        said = {"request_id": request, "name": "thumbs", "value": True, "source": "user"}
        assert requests.post(f"{address}/v1/feedback", json=said, timeout=10).ok
    (row,), (heard,) = (
        [json.loads(line) for path in (space.root / folder).glob("*.jsonl") for line in path.read_text().splitlines()]
        for folder in ("logs/support", "logs/.feedback/support")
    )
    assert (row["request_id"], row["timestamp"]) == (request, "2026-03-02T09:30:00.000+00:00")
    assert 50 <= row["latency_ms"] < 5000
    assert heard["feedback_at"] == "2026-03-02T09:31:00.000+00:00"
