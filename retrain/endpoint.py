"""A small client of chat completions, for any endpoint that speaks OpenAI's protocol.

An endpoint is somebody else's machine: it may be slow, down, talkative or hostile. So time, size, tries and requests at once
are bounded, and an answer that is none is an EndpointError beside the others, never a text. No error holds a key or what was
sent; redirects are not followed, for a key would go along.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from retrain import sections
from retrain.errors import EndpointError, EndpointRefused, ParamsError

Messages = Sequence[Mapping[str, str]]  # role and content of each, as OpenAI's chat has them
MOST_BYTES = 1_000_000  # of one answer
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try, doubled at each further one; at most
DOWN_AFTER = 5  # requests in a row that failed after all tries: the endpoint is called down, nobody waits for the rest
AGAIN = (408, 409, 425, 429)  # and all of 5xx: another try may help
FIXES = {
    400: "it does not take this request: see `model` and `extra`",
    401: "it does not take the key: see `key_env`",
    403: "the key may not do this: see `key_env`",
    404: "it has no such path or model: see `url` (it ends before /chat/completions) and `model`",
    413: "the request is too large for it",
    429: "it asks for fewer requests: lower `concurrency`",
}


@dataclass(frozen=True)
class Reply:
    """What a model said; `finish` is why it stopped (`stop`, `length`, ...), None where the endpoint does not say.

    A refusal is an answer too: no text, and `finish` is `content_filter`.
    """

    text: str
    finish: str | None = None


class Endpoint:
    """One model behind one address. `where` names the section of params.yaml in errors."""

    def __init__(self, spec: sections.Endpoint, *, where: str) -> None:
        key = os.environ.get(spec.key_env, "").strip() if spec.key_env else ""
        if spec.key_env and not (key and key.isascii() and key.isprintable()):
            said = "is not in the environment, or blank" if not key else "is no key: it holds more than visible ASCII"
            raise ParamsError(f"{where}.key_env: ${spec.key_env} {said}: set it where this runs, or leave key_env out")
        self.spec, self.where = spec, where
        self._key, self._local = key, threading.local()

    def ask(self, messages: Messages) -> Reply:
        """One answer, tried again where that may help; EndpointRefused where it cannot, EndpointError where it did not."""
        tried = 0
        while True:
            try:
                return self._once(messages)
            except _Again as problem:
                if tried == self.spec.retries:
                    tries = f" ({tried + 1} tries)" if tried else ""
                    raise EndpointError(f"{problem}{tries}") from problem
                time.sleep(_wait(tried, problem.after))
            tried += 1

    def ask_all(self, prompts: Sequence[Messages], *, seconds: float) -> list[Reply | EndpointError]:
        """An answer or its error for each prompt, in order, `spec.concurrency` at once; raises nothing an endpoint can cause.

        Where it refuses (a wrong key), where DOWN_AFTER in a row fail, or after so many seconds, the rest is not asked.
        """
        watch = _Watch(time.monotonic() + seconds, seconds)
        with ThreadPoolExecutor(self.spec.concurrency, "endpoint") as pool:
            return list(pool.map(lambda messages: watch.ask(lambda: self.ask(messages)), prompts))

    def _once(self, messages: Messages) -> Reply:
        import requests
        import urllib3

        spec, deadline = self.spec, time.monotonic() + self.spec.timeout
        body = {**spec.extra, "model": spec.model, "messages": [_clean(message) for message in messages], "stream": False}
        try:
            with self._session().post(
                spec.url.rstrip("/") + "/chat/completions", json=body, timeout=spec.timeout, stream=True, allow_redirects=False
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    raise self._refusal(response.status_code, response.headers.get("Retry-After"))
                return _reply(self._read(response, deadline), self._said)
        except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise _Again(self._said(f"did not answer within {spec.timeout:g} s")) from error
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise _Again(self._said("cannot be reached, or broke off")) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:  # an address or an answer that is no HTTP
            raise EndpointError(self._said(f"failed: {type(error).__name__}")) from error

    def _session(self) -> Any:
        """One a thread. The key is an `auth`, or requests would put one of ~/.netrc in its place."""
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = self._signed
            self._local.session.headers["Accept-Encoding"] = "identity"  # a compressed answer could grow past all bounds
        return self._local.session

    def _signed(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _read(self, response: Any, deadline: float) -> bytes:
        """The body, as far as it keeps the bounds: `timeout` of requests is for each read, an endpoint may drip.

        Each read takes what has come, not a whole block. (Headers that drip are bounded by `timeout` a read alone.)
        """
        found = bytearray()
        while chunk := response.raw.read1(65_536, decode_content=False):
            found += chunk
            if len(found) > MOST_BYTES:
                raise EndpointError(self._said(f"sent more than {MOST_BYTES:,} bytes as one answer"))
            if time.monotonic() > deadline:
                raise _Again(self._said(f"did not finish its answer within {self.spec.timeout:g} s"))
        return bytes(found)

    def _refusal(self, status: int, after: str | None) -> Exception:
        """What its body says is left out: it may quote what was sent, or the key."""
        said = self._said(f"answered HTTP {status}" + (f": {FIXES[status]}" if status in FIXES else ""))
        if status in AGAIN or status >= 500:
            return _Again(said, after)
        if 300 <= status < 400:
            return EndpointRefused(f"{said}: it redirects, which is not followed: give its own address as `url`")
        return EndpointRefused(said) if status in (401, 403, 404, 405) else EndpointError(said)

    def _said(self, what: str) -> str:
        return f"{self.where}: {self.spec.url} {what}"


class _Again(Exception):
    """Failed, and another try may help; `after` is what the endpoint's Retry-After says."""

    def __init__(self, said: str, after: str | None = None) -> None:
        super().__init__(said)
        self.after = after


class _Watch:
    """Over the requests of one call: gives up where going on cannot help."""

    def __init__(self, deadline: float, seconds: float) -> None:
        self.deadline, self.seconds = deadline, seconds
        self.failed = 0  # in a row
        self.over: str | None = None
        self.lock = threading.Lock()

    def ask(self, ask: Callable[[], Reply]) -> Reply | EndpointError:
        if self.over:
            return EndpointError(self.over)
        if time.monotonic() > self.deadline:
            return EndpointError(f"not asked: {self.seconds:g} s were over")
        try:
            reply = ask()
        except EndpointError as error:
            with self.lock:
                self.failed += 1
                if isinstance(error, EndpointRefused) or self.failed >= DOWN_AFTER:
                    self.over = self.over or str(error)
            return error
        with self.lock:
            self.failed = 0
        return reply


def _reply(body: bytes, said: Callable[[str], str]) -> Reply:
    try:
        choice = json.loads(body)["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise EndpointError(said("sent something that is no chat completion")) from error
    if refusal or finish == "content_filter":
        return Reply("", "content_filter")
    if not isinstance(text, str):
        raise EndpointError(said("sent a chat completion without a text"))
    return Reply(text, finish if isinstance(finish, str) else None)


def _wait(tried: int, after: str | None) -> float:
    """Seconds: what the endpoint asks for, else doubled each time; with jitter, so that not all come back at once."""
    asked = float(after) if after and after.isascii() and after.isdigit() and len(after) < 6 else 0.0
    return min(max(asked, FIRST_WAIT * 2**tried), LONGEST_WAIT) * random.uniform(1.0, 1.25)


def _clean(message: Mapping[str, str]) -> dict[str, str]:
    """Without lone surrogates, which are no Unicode and which many servers refuse."""
    return {name: text.encode("utf-8", "replace").decode("utf-8") for name, text in message.items()}
