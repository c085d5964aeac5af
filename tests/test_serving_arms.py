"""The door while a challenger is tried: who is answered by which version, what is copied, and that nobody waits for a copy."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from canary import arms, ask, drawn_ids, label, look, rows, running, traffic, tries, written
from doors import Stub, digest, try_out, until
from doors import running as serving

from retrain.records import Message
from retrain.serving.door import Door
from retrain.serving.versions import Version
from retrain.workspace import Workspace


class Slow(Stub):
    """The challenger answers nobody while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.waiting, self.asked = False, 0, list[tuple[str, str]]()

    async def answer(self, version: Version, messages: list[Message], most: int | None, told: Any) -> Any:
        self.asked.append((version.name, messages[-1].content))
        while version.number == 8 and self.held:
            await asyncio.sleep(0.01)
        return await super().answer(version, messages, most, told)

    def busy(self) -> tuple[int, int]:
        return self.running, self.waiting


@pytest.fixture
def stub() -> Slow:
    return Slow()


@pytest.fixture
def door(canary: Workspace, stub: Slow) -> Iterator[tuple[Door, str]]:
    with serving(canary, stub) as made:
        yield made


def test_a_shadow_answers_a_copy_that_nobody_waits_for_and_nobody_sees(
    canary: Workspace, door: tuple[Door, str], stub: Slow
) -> None:
    stub.held = True
    stub.text = lambda version, messages: "order_status" if version.number == 7 else "rubbish"
    try_out(canary, 8, 0, against=7)
    tries(door[1], "support-v8")
    answers = traffic(door[1], range(8))
    assert rows(canary, ".shadow") == []
    stub.held = False
    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == ["order_status"] * 8
    assert set(arms(answers)) == {"champion"}
    written(canary, 8, ".shadow")
    copies = {row["request_id"]: row for row in rows(canary, ".shadow")}
    assert set(copies) == {a.json()["id"] for a in answers}
    row = copies[answers[0].json()["id"]]
    assert (row["arm"], row["model_version"], row["digest"]) == ("shadow", "support-v8", digest(8))
    assert (row["response"], row["outcome"], row["rollout"]) == ("rubbish", "answered", "support-v8/0")
    assert {r["response"] for r in rows(canary)} == {"order_status"}
    found = look(canary)
    assert found.judged is not None
    assert found.judged.outcome == "failure"  # rubbish, before any user saw it
    assert "gave no valid answer" in found.judged.reasons[0]


def test_copies_are_dropped_where_users_wait_or_too_many_run_and_never_made_of_what_is_not_stored(
    canary: Workspace, door: tuple[Door, str], stub: Slow
) -> None:
    try_out(canary, 8, 0, against=7)
    tries(door[1], "support-v8")
    ask(door[1], user="u", store=False)
    stub.waiting = 1
    ask(door[1], user="u", text="busy")
    stub.waiting, stub.held = 0, True
    answers = traffic(door[1], range(10))
    stub.held = False
    written(canary, 11, ".shadow")
    found = [row["outcome"] for row in rows(canary, ".shadow")]
    assert found.count("dropped") == 3  # the busy one, and two beyond the eight that run
    assert found.count("answered") == 8
    assert [text for name, text in stub.asked if name == "support-v8" and text == "where is my parcel"] == []
    assert {answer.status_code for answer in answers} == {200}
    assert (seen := look(canary).look) is not None
    assert seen.count("challenger") == 8


def test_a_conversation_stays_with_its_version_and_a_user_without_one_too(canary: Workspace, door: tuple[Door, str]) -> None:
    try_out(canary, 8, 50, against=7)
    tries(door[1], "support-v8")

    def arm(user: str, conversation: str | None) -> str:
        more = {"metadata": {"conversation_id": conversation}} if conversation else {}
        return str(ask(door[1], user=user, **more).headers["x-retrain-arm"])

    by_talk = {f"c{i}": arm("u1", f"c{i}") for i in range(20)}
    assert set(by_talk.values()) == {"champion", "challenger"}
    assert all(arm("another", talk) == found for talk, found in by_talk.items())
    assert len({arm("u1", None) for _ in range(10)}) == 1


def test_the_official_client_is_told_which_version_answered_and_can_ask_the_challenger_by_name(
    canary: Workspace, door: tuple[Door, str], stub: Slow
) -> None:
    stub.text = lambda version, messages: f"said by |{version.name}"
    client = openai.OpenAI(base_url=f"{door[1]}/v1", api_key="none", max_retries=0)
    hello: Any = [{"role": "user", "content": "where is my parcel"}]
    with pytest.raises(openai.InternalServerError, match="support has no challenger yet"):
        client.with_options(max_retries=0).chat.completions.create(model="support@challenger", messages=hello)
    try_out(canary, 8, 50, against=7)
    tries(door[1], "support-v8")
    assert "support-v8" in [model.id for model in client.models.list()]
    for name, told in (("support@challenger", "exact"), ("support-v8", "exact"), ("support@champion", "champion")):
        raw = client.chat.completions.with_raw_response.create(model=name, messages=hello)
        assert raw.headers["x-retrain-arm"] == told
    streamed = [
        "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(
            model="support", messages=hello, user=f"u{i}", stream=True))
        for i in range(20)
    ]  # fmt: skip
    assert set(streamed) == {"said by support-v7", "said by support-v8"}
    written(canary, 23)
    asked_by_name = [row for row in rows(canary) if "rollout" not in row]
    assert len(asked_by_name) == 3
    assert (found := look(canary).look) is not None
    assert found.count("challenger") + found.count("champion") == 20
    assert 'retrain_serve_rollout_weight{adapter="support",version="8"} 50.0' in httpx.get(door[1] + "/metrics").text


def test_in_a_canary_both_answer_what_people_label_and_labels_show_harm(
    canary: Workspace, door: tuple[Door, str], stub: Slow
) -> None:
    stub.text = lambda version, messages: "order_status" if version.number == 7 else "cancel_order"
    try_out(canary, 8, 50, against=7)
    tries(door[1], "support-v8")
    answers = traffic(door[1], range(60))
    drawn = drawn_ids(canary, answers)
    written(canary, len(drawn), ".shadow")
    assert {row["request_id"] for row in rows(canary, ".shadow")} == set(drawn)
    assert {row["model_version"] for row in rows(canary, ".shadow")} == {"support-v7", "support-v8"}
    for request in drawn:
        assert label(door[1], request, "order_status") == 200
    written(canary, len(drawn), ".feedback")
    found = look(canary)
    assert found.look is not None and found.judged is not None
    assert (found.look.labels, found.look.lost, found.look.won) == (len(drawn), len(drawn), 0)
    assert "it is shown to be worse" in found.judged.reasons[0]
    assert running(canary) is None


def test_copies_that_still_run_do_not_hold_up_the_end(canary: Workspace, stub: Slow) -> None:
    stub.held = True
    with serving(canary, stub) as (_, address):
        try_out(canary, 8, 0, against=7)
        tries(address, "support-v8")
        ask(address, user="u")
        until(lambda: ("support-v8", "where is my parcel") in stub.asked)
        began = time.monotonic()
    assert time.monotonic() - began < 10
