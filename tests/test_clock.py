"""A simulation tells `retrain serve` what time it is, and nobody else does; how long an answer took is real all the same."""

import json
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from doors import Stub, promote, running, space_of

from retrain import clock
from retrain.serving import protocol

DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp()


def test_requests_of_a_repeated_simulation_have_the_same_ids() -> None:
    def id_at(seconds: float) -> str:
        def made() -> str:
            clock.tell(seconds)
            return protocol.request_id()

        return copy_context().run(made)

    assert id_at(DAY) == id_at(DAY)
    assert protocol.time_of_id(id_at(DAY)) == DAY
    assert id_at(DAY) != id_at(DAY + 0.0001)


def test_without_a_simulation_no_two_requests_have_one_id() -> None:
    assert protocol.request_id() != protocol.request_id()


@pytest.mark.parametrize("simulated", [True, False])
def test_log_and_feedback_are_of_the_time_that_a_simulation_says_and_latency_is_real(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulated: bool
) -> None:
    if simulated:
        monkeypatch.setenv(clock.NAME, "1")
    space = space_of(tmp_path, tiny)
    promote(space, 1)
    stub = Stub()
    stub.wait = 0.05
    with running(space, stub) as (_, address):

        def post(path: str, body: Any, at: float) -> Any:
            return requests.post(f"{address}/v1/{path}", json=body, headers={clock.HEADER: repr(at)}, timeout=10).json()

        body = {"model": "support", "user": "u1", "messages": [{"role": "user", "content": "where is it"}]}
        request = post("chat/completions", body, DAY)["id"]
        said = {"request_id": request, "name": "thumbs", "value": True, "source": "user"}
        assert post("feedback", said, DAY + 60)["status"] == "recorded"
    (row,), (heard,) = (
        [json.loads(line) for path in (space.root / folder).glob("*.jsonl") for line in path.read_text().splitlines()]
        for folder in ("logs/support", "logs/.feedback/support")
    )
    assert row["request_id"] == request
    assert (row["timestamp"] == "2026-03-02T09:30:00.000+00:00") == simulated
    assert (heard["feedback_at"] == "2026-03-02T09:31:00.000+00:00") == simulated
    assert 40 <= row["latency_ms"] < 5000
