"""The client of chat completions against a real HTTP server that is good, slow, broken, talkative or hostile."""

import time
from datetime import date
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import talking

from retrain.endpoint import Endpoint, Reply
from retrain.errors import EndpointError, EndpointRefused, ParamsError
from retrain.sections import Endpoint as Spec

HELLO = [{"role": "user", "content": "hello"}]


def at(model: talking.Model, **given: Any) -> Endpoint:
    spec = {"url": model.url, "model": "m", "timeout": 5.0, "retries": 1, "concurrency": 4, **given}
    return Endpoint(Spec.model_validate(spec), where="quality.judge")


def statuses(model: talking.Model, *codes: int, **headers: str) -> None:
    """The first answers have these; then it answers as it should."""
    left = list(codes)

    def act(handler: BaseHTTPRequestHandler, body: talking.Body) -> None:
        code = left.pop(0) if left else 200
        talking.send(handler, talking.completion("fine") if code == 200 else b"sk-secret hello", code, **headers)

    model.act = act


def test_a_request_holds_model_messages_and_extra_and_is_signed(model: talking.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    assert at(model, key_env="JUDGE_KEY", extra={"temperature": 0}).ask(HELLO) == Reply("right", "stop")
    assert model.heard == [{"temperature": 0, "model": "m", "messages": HELLO, "stream": False}]
    assert model.signed == ["Bearer sk-1"]


def test_a_password_of_netrc_is_not_sent(model: talking.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    at(model).ask(HELLO)
    assert model.signed == [None]


def test_a_key_that_is_missing_blank_or_would_break_a_header_is_said(
    model: talking.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (None, " ", "a\nb", "kéy"):
        monkeypatch.delenv("JUDGE_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("JUDGE_KEY", value)
        with pytest.raises(ParamsError, match=r"quality\.judge\.key_env: \$JUDGE_KEY is"):
            at(model, key_env="JUDGE_KEY")


def test_what_may_pass_is_tried_again_a_bounded_number_of_times(model: talking.Model) -> None:
    statuses(model, 503)
    assert at(model).ask(HELLO).text == "fine"
    assert len(model.heard) == 2
    statuses(model, 500, 500, 500)
    with pytest.raises(EndpointError, match=r"HTTP 500 \(2 tries\)"):
        at(model).ask(HELLO)
    assert len(model.heard) == 4


def test_retry_after_is_kept_to(model: talking.Model) -> None:
    statuses(model, 429, Retry_After="1")
    began = time.monotonic()
    assert at(model).ask(HELLO).text == "fine"
    assert time.monotonic() - began > 1


@pytest.mark.parametrize(("code", "fix"), [(401, "key_env"), (403, "key_env"), (404, "model"), (302, "redirects")])
def test_a_refusal_is_not_tried_again_and_its_body_is_not_told(model: talking.Model, code: int, fix: str) -> None:
    statuses(model, code, code, Location="http://127.0.0.1:1/v1/chat/completions")
    with pytest.raises(EndpointRefused, match=fix) as told:
        at(model).ask(HELLO)
    assert len(model.heard) == 1 and "hello" not in str(told.value) and "sk-" not in str(told.value)


def test_a_slow_endpoint_and_one_that_drips_are_left_after_the_timeout(model: talking.Model) -> None:
    def drip(handler: BaseHTTPRequestHandler, body: talking.Body) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    def sleep(handler: BaseHTTPRequestHandler, body: talking.Body) -> None:
        time.sleep(2)

    for act in (drip, sleep):
        model.act = act
        began = time.monotonic()
        with pytest.raises(EndpointError, match=r"within 0\.5 s"):
            at(model, timeout=0.5, retries=0).ask(HELLO)
        assert time.monotonic() - began < 1.9


def test_a_huge_answer_is_left_unread(model: talking.Model) -> None:
    sent = 0

    def act(handler: BaseHTTPRequestHandler, body: talking.Body) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            sent += 1
            handler.wfile.write(b"x" * 100_000)

    model.act = act
    with pytest.raises(EndpointError, match="more than 1,000,000 bytes"):
        at(model).ask(HELLO)
    time.sleep(0.2)
    assert sent < 1000


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"[" * 100_000,
             b'{"choices": [{"message": {"content": null}}]}', b'{"choices": [{"message": {"content": 7}}]}', b"\xff\xfe"]
)  # fmt: skip
def test_what_is_no_completion_is_an_error_and_not_a_text(model: talking.Model, data: bytes) -> None:
    model.act = lambda handler, body: talking.send(handler, data)
    with pytest.raises(EndpointError, match="no chat completion|without a text"):
        at(model).ask(HELLO)


def test_nobody_there_is_an_error(model: talking.Model) -> None:
    with pytest.raises(EndpointError, match="cannot be reached"):
        at(model, url="http://127.0.0.1:9/v1").ask(HELLO)
    for url in ("http://a..b/v1", f"http://{'a' * 70}.example.org/v1"):  # no host that could be
        with pytest.raises(EndpointError, match=r"failed|cannot be reached"):
            at(model, url=url, retries=0).ask(HELLO)


def test_what_json_cannot_say_is_no_extra(model: talking.Model) -> None:
    with pytest.raises(ValueError, match="extra"):
        at(model, extra={"user": date(2026, 1, 1)})


def test_a_refusal_of_the_model_is_an_answer_without_text(model: talking.Model) -> None:
    model.act = lambda handler, body: talking.send(handler, talking.completion("x", "content_filter"))
    assert at(model).ask(HELLO) == Reply("", "content_filter")


def test_lone_surrogates_are_sent_as_text(model: talking.Model) -> None:
    at(model).ask([{"role": "user", "content": "a\ud800b"}])
    assert model.asked() == ["a?b"]


def test_many_are_asked_at_once_and_answered_in_order(model: talking.Model) -> None:
    model.answer = lambda body: body["messages"][0]["content"]
    prompts = [[{"role": "user", "content": str(i)}] for i in range(40)]
    assert at(model).ask_all(prompts, seconds=60) == [Reply(str(i), "stop") for i in range(40)]


def test_an_endpoint_that_is_down_or_refuses_is_not_asked_about_every_row(model: talking.Model) -> None:
    statuses(model, *[500] * 1000)
    found = at(model, retries=0).ask_all([HELLO] * 200, seconds=60)
    assert len(found) == 200 and all(isinstance(one, EndpointError) for one in found)
    assert len(model.heard) < 15
    model.heard.clear()
    statuses(model, *[401] * 1000)
    found = at(model).ask_all([HELLO] * 200, seconds=60)
    assert "does not take the key" in str(found[-1]) and len(model.heard) <= 4


def test_after_the_time_given_the_rest_is_not_asked(model: talking.Model) -> None:
    def act(handler: BaseHTTPRequestHandler, body: talking.Body) -> None:
        time.sleep(0.2)
        talking.send(handler, talking.completion("fine"))

    model.act = act
    found = at(model, concurrency=1).ask_all([HELLO] * 50, seconds=0.5)
    assert found[0] == Reply("fine", "stop") and "not asked: 0.5 s were over" in str(found[-1])
    assert len(model.heard) < 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "ftp://host/v1"}, "must be such as"),
        ({"url": "https://me:secret@host/v1"}, "key_env"),
        ({"url": "https://host/v1?key=1"}, "must be such as"),
        ({"extra": {"stream": True}}, r"extra\.stream"),
        ({"key_env": "not a name"}, "key_env"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    good = {"url": "https://host/v1", "model": "m", "timeout": 5, "retries": 1, "concurrency": 4}
    assert Spec.model_validate(good).url == "https://host/v1"
    with pytest.raises(ValueError, match=said):
        Spec.model_validate({**good, **given})
