"""The door: OpenAI's protocol by its own client, what is refused, who may ask, and load (trials 40 to 43)."""

import asyncio
import hashlib
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from doors import HELLO, Stub, chat, logged, other, post, promote, running, space_of, until

from retrain.errors import ParamsError
from retrain.records import read_jsonl
from retrain.serving import keys
from retrain.serving.door import Door
from retrain.workspace import Workspace


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = space_of(tmp_path_factory.mktemp("door"), tiny)
    promote(made, 6, 7)
    return made


@pytest.fixture
def client(open_door: tuple[Door, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{open_door[1]}/v1", api_key="none", max_retries=0)


def test_the_official_client_gets_an_answer_that_names_version_and_request(client: openai.OpenAI, space: Workspace) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=HELLO, user="u1", metadata={"conversation_id": "c1", "tenant": "a", "retrain": "x"}
    )
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("order_status", "stop")
    assert (answer.model, raw.headers["x-retrain-model"], raw.headers["x-retrain-arm"]) == ("support-v7",) * 2 + ("champion",)
    assert answer.id == raw.headers["x-request-id"] == answer._request_id
    assert answer.usage is not None and answer.usage.total_tokens == 10
    until(lambda: logged(space, answer.id))
    row = logged(space, answer.id) or {}
    expected = {
        "adapter": "support", "model_version": "support-v7", "user_id": "u1", "conversation_id": "c1",
        "response": "order_status",
        "prompt": "where is my parcel", "finish_reason": "stop", "confidence": 0.9, "prompt_tokens": 7, "completion_tokens": 3,
        "metadata": {"conversation_id": "c1", "tenant": "a"},
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_an_answer_can_be_handed_back_as_it_came(client: openai.OpenAI, stub: Stub) -> None:
    stub.text = lambda version, messages: " ".join(message.role for message in messages)
    turns = list(HELLO)
    turns.append(client.chat.completions.create(model="support", messages=turns).choices[0].message)
    turns.append({"role": "user", "content": "and my refund"})
    answer = client.chat.completions.create(model="support", messages=turns)
    assert answer.choices[0].message.content == "user assistant user"


def test_a_stream_brings_the_pieces_and_the_usage_when_asked(client: openai.OpenAI, stub: Stub) -> None:
    stub.text = lambda version, messages: "two| words"
    chunks = list(
        client.chat.completions.create(model="support", messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "two words"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
    assert {(chunk.model, chunk.id) for chunk in chunks} == {("support-v7", chunks[0].id)}


def test_models_are_the_alias_and_the_loaded_versions(client: openai.OpenAI) -> None:
    until(lambda: len(client.models.list().data) == 3)
    assert [model.id for model in client.models.list()] == ["support", "support-v7", "support-v6"]
    assert client.models.retrieve("support-v6").id == "support-v6"


@pytest.mark.parametrize(
    ("name", "answers", "arm"),
    [
        ("support-v6", "support-v6", "exact"),
        ("support@previous", "support-v6", "previous"),
        ("support-v7", "support-v7", "champion"),
    ],
)
def test_a_version_can_be_asked_by_name(client: openai.OpenAI, name: str, answers: str, arm: str) -> None:
    until(lambda: len(client.models.list().data) == 3)
    raw = client.chat.completions.with_raw_response.create(model=name, messages=HELLO)
    assert (raw.parse().model, raw.headers["x-retrain-arm"]) == (answers, arm)


def test_an_unknown_model_is_a_404_that_names_what_exists(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there are support, support-v7") as error:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (error.value.code, error.value.param, error.value.type) == ("model_not_found", "model", "not_found_error")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"[]", 400, "must be an object"),
        ({"model": "support"}, 400, "messages is missing"),
        ({"model": "support", "messages": []}, 400, "messages"),
        ({"model": 7, "messages": HELLO}, 400, "model"),
        ({"model": "support", "messages": HELLO, "temprature": 0}, 400, "unknown field: temprature"),
        ({"model": "support", "messages": HELLO, "temperature": 0.7}, 400, "temperature is 0.7: only 0 or 1"),
        ({"model": "support", "messages": HELLO, "n": 2}, 400, "n is 2"),
        ({"model": "support", "messages": HELLO, "logprobs": True}, 400, "logprobs is true"),
        ({"model": "support", "messages": HELLO, "tools": [{"type": "function"}]}, 400, "tools is"),
        ({"model": "support", "messages": HELLO, "stream": "yes"}, 400, "stream"),
        ({"model": "support", "messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
        ({"model": "support", "messages": [{"role": "user", "content": "  "}]}, 400, "not blank"),
        ({"model": "support", "messages": [{**HELLO[0], "tool_calls": [{"id": "1"}]}, *HELLO]}, 400, "tool_calls"),
        ({"model": "support", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content"),
        (b'{"model":"support","messages":[{"role":"user","content":"\\ud800"}]}', 400, "Unicode|surrogate"),
        ({"model": "support", "messages": HELLO, "metadata": {"a": 1}}, 400, "metadata.a"),
    ],
)
def test_what_is_no_request_is_told_in_openais_form(open_door: tuple[Door, str], body: Any, status: int, words: str) -> None:
    answer = post(open_door[1], body)
    error = answer.json()["error"]
    assert (answer.status_code, set(error), error["type"]) == (
        status,
        {"message", "type", "param", "code"},
        "invalid_request_error",
    )
    assert re.search(words, error["message"]), error["message"]
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"].startswith("chatcmpl-")


def test_trial_42_a_body_of_50_mb_is_refused_in_bounded_memory_and_the_next_request_is_served(
    open_door: tuple[Door, str],
) -> None:
    answer = post(open_door[1], b" " * 50 * 2**20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    many = {"model": "support", "messages": [{"role": "user", "content": "x"}] * 10_000}
    assert post(open_door[1], many).json()["error"]["code"] == "too_large"
    assert chat(open_door[1]).status_code == 200


def test_other_routes_methods_and_types_have_openais_form(open_door: tuple[Door, str]) -> None:
    address = open_door[1]
    assert httpx.get(address + "/v1/completions").json()["error"]["code"] == "no_such_route"
    assert httpx.get(address + "/v1/chat/completions").status_code == 405
    assert httpx.get(address + "/v1/audit/support?skip=x").json()["error"]["code"] == "invalid_value"
    text = httpx.post(address + "/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert text.json()["error"]["code"] == "unsupported_media_type"


def test_a_fault_tells_its_kind_alone(open_door: tuple[Door, str], stub: Stub) -> None:
    def fail(version: Any, messages: Any) -> str:
        raise ValueError("the secret of a user")

    stub.text = fail
    answer = chat(open_door[1])
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text


def test_a_browser_that_another_site_sent_here_is_refused(open_door: tuple[Door, str]) -> None:
    answer = httpx.get(open_door[1] + "/v1/models", headers={"host": "evil.example:8100"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")


def test_trial_43_a_wrong_key_and_none_are_401_and_no_key_reaches_a_log(
    space: Workspace, stub: Stub, caplog: Any, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    right, wrong = "sk-right-8a7f", "sk-wrong-19c2"
    with running(space, stub, keys={hashlib.sha256(right.encode()).hexdigest(): "shop"}) as (_, address):
        assert httpx.get(f"{address}/v1/models").json()["error"]["code"] == "missing_api_key"
        for given in (f"Bearer {wrong}", right, f"Basic {right}", "Bearer \xe9"):
            answer = post(address, {"model": "support", "messages": HELLO}, authorization=given.encode("latin-1"))
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
            assert given not in answer.text
        assert post(address, {"model": "support", "messages": HELLO}, authorization=f"Bearer {right}").status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 401
        assert httpx.get(f"{address}/healthz").status_code == 200
    said = "".join(capfd.readouterr()) + "".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    )
    files = b"".join(path.read_bytes() for path in (space.root / "logs").rglob("*") if path.is_file())
    for key in (right, wrong):
        assert key not in said and key.encode() not in files


def test_a_public_address_without_keys_and_a_key_that_is_not_hashed_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ParamsError, match="there is no key"):
        keys.read(tmp_path, None, "0.0.0.0")
    monkeypatch.setenv(keys.VARIABLE, "sk-plain-key shop")
    with pytest.raises(ParamsError, match="line 1 of the keys") as error:
        keys.read(tmp_path, None, "127.0.0.1")
    assert "sk-plain" not in str(error.value)
    (tmp_path / "keys").write_text(f"# ours\n{'a' * 64}  shop\n{'b' * 64} phone\n")
    monkeypatch.delenv(keys.VARIABLE)
    assert list(keys.read(tmp_path, "keys", "0.0.0.0").names.values()) == ["shop", "phone"]


def test_trial_41_a_client_that_leaves_frees_its_place_and_200_at_once_are_served_or_told_when_to_come_back(
    stub: Stub, space: Workspace
) -> None:
    stub.wait, stub.text = 0.2, lambda version, messages: "a|" * 50
    body = {"model": "support", "messages": HELLO, "stream": True}
    with running(other(space, "serve.timeout=60"), stub) as (_, address):  # 200 clients, one process, a busy machine
        with httpx.stream("POST", address + "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()  # held: let go of, it closes the connection
            next(lines)
            until(lambda: stub.running == 1)  # the first line may be sent before the question is asked
        until(lambda: stub.running == 0)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + "/v1/chat/completions", json={**body, "stream": False}, timeout=0.5)
        until(lambda: stub.running == 0)
        stub.text, stub.most = (lambda version, messages: "order_status"), 64

        async def crowd() -> list[httpx.Response]:
            async with httpx.AsyncClient(limits=httpx.Limits(max_connections=200), timeout=90) as many:
                asked = {"model": "support", "messages": HELLO}
                return await asyncio.gather(*(many.post(address + "/v1/chat/completions", json=asked) for _ in range(200)))

        answers = asyncio.run(crowd())
    told = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert len(told) < 200
    assert all(answer.headers["retry-after"] == "1" and answer.json()["error"]["code"] == "queue_full" for answer in told)
    outcomes = [row["outcome"] for path in (space.root / "logs/.uncounted/support").glob("*") for row in read_jsonl(path)]
    assert outcomes.count("cancelled") >= 2


def test_an_answer_that_takes_too_long_is_a_504(space: Workspace, stub: Stub) -> None:
    stub.wait = 5
    with running(other(space, "serve.timeout=0.2"), stub) as (_, address):
        answer = chat(address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_store_false_keeps_no_content_anywhere(open_door: tuple[Door, str], space: Workspace) -> None:
    secret = "my card 4929 1111"
    answer = post(open_door[1], {"model": "support", "messages": [{"role": "user", "content": secret}], "store": False})
    request = answer.json()["id"]
    folder = space.root / "logs"
    until(lambda: any(request in path.read_text() for path in folder.rglob("*.jsonl")))
    found = [path for path in folder.rglob("*.jsonl") if request in path.read_text()]
    assert [path.parent.parent.name for path in found] == [".uncounted"]
    assert all(secret not in path.read_text() for path in folder.rglob("*.jsonl"))


# --- what serves


def test_health_and_metrics_say_what_serves(open_door: tuple[Door, str], space: Workspace) -> None:
    address = open_door[1]
    chat(address)
    said = httpx.get(address + "/healthz").json()
    assert (said["status"], said["adapters"]["support"]["serves"]) == ("ok", "support-v7")
    text = httpx.get(address + "/metrics").text
    assert 'retrain_serve_version_info{adapter="support",version="7"} 1.0' in text
    assert 'retrain_serve_requests_total{adapter="support",outcome="answered"} 1.0' in text
    assert "chatcmpl" not in text


def test_a_server_without_a_remote_says_what_is_missing(bare: Path, stub: Stub) -> None:
    from retrain.serving import server

    with pytest.raises(ParamsError, match="names no remote"):
        server.serve(Workspace.open(bare), stub, print)


def test_a_port_that_is_taken_is_told(open_door: tuple[Door, str], space: Workspace, stub: Stub) -> None:
    from retrain.serving import server

    port = int(open_door[1].rpartition(":")[2])
    taken = replace(
        space, params=space.params.model_copy(update={"serve": space.params.serve.model_copy(update={"port": port})})
    )
    with pytest.raises(ParamsError, match=f"127.0.0.1:{port} cannot be listened on"):
        server.serve(taken, stub, print)


@pytest.mark.parametrize(
    ("uri", "reads"),
    [("logs/{adapter}/*.jsonl", True), ("logs/{adapter}", True), ("logs", True), ("logs/{adapter}/*.parquet", False),
     ("postgresql://h/db?table=t", False)],
)  # fmt: skip
def test_a_log_that_the_monitor_does_not_read_is_noticed(space: Workspace, uri: str, reads: bool) -> None:
    from retrain.serving import server

    assert server.reads(other(space, f"logs.uri={uri}"), "support") is reads
