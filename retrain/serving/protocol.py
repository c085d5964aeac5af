"""OpenAI's chat completions as this door speaks them: what is taken, what is refused with the reason, what is answered.

Pure. Answers are greedy, or held to labels, as the gate judged them: whatever would change that is refused, never ignored.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrain import clock
from retrain.errors import RequestRefused
from retrain.records import Message, text_digest

Model = TypeVar("Model", bound=BaseModel)

# OpenAI's fields that change nothing here: hints about caches, prices and traces
HINTS = ("seed", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "parallel_tool_calls")
# ... and those that would change the answer: only these values are taken
ONLY: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 1), "top_p": (1,), "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,),
    "top_logprobs": (0,), "logit_bias": ({},), "stop": ([],), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"), "modalities": (["text"],), "response_format": ({"type": "text"},), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": ("medium",), "web_search_options": (), "moderation": (),
    "prompt_cache_options": (),
}  # fmt: skip


ANSWERED = ("refusal", "annotations", "audio", "function_call", "tool_calls")  # of an assistant's message


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part]
    name: str | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _said_before(cls, data: Any) -> Any:
        """Without the empty fields of an answer that a client hands back as it came: they say nothing."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if not (name in ANSWERED and value in (None, [], {}, ""))}

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


Text = Annotated[str, Field(min_length=1, max_length=512)]


class Asked(BaseModel):
    """A request for a chat completion."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: Text
    messages: Annotated[list[Turn], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    user: Text | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=16)] | None = None
    store: bool | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> "Asked":
        if self.messages[-1].role not in ("user", "tool") or not self.messages[-1].message().content.strip():
            raise ValueError("the last message must be the user's, and not blank")
        return self

    @property
    def most(self) -> int | None:
        """The length limit in tokens that the client sets."""
        return min((n for n in (self.max_tokens, self.max_completion_tokens) if n is not None), default=None)

    @property
    def conversation(self) -> str | None:
        return (self.metadata or {}).get("conversation_id")

    def turns(self) -> list[Message]:
        return [turn.message() for turn in self.messages]


def parse(body: bytes) -> Asked:
    """A request; RequestRefused says which field, what was found, and what is taken."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError
        raise RequestRefused(f"the body is no JSON: {str(error)[:100]}", code="invalid_json") from error
    if not isinstance(data, dict):
        raise RequestRefused(f"the body is a JSON {type(data).__name__}, must be an object", code="invalid_json")
    for name in HINTS:
        data.pop(name, None)
    for name, taken in ONLY.items():
        value = data.pop(name, None)
        if value is not None and not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in taken):
            said = f"only {' or '.join(json.dumps(one) for one in taken)} is taken: answers here are as the gate judged them"
            raise RequestRefused(
                f"{name} is {json.dumps(value)[:60]}: {said if taken else 'not supported here'}",
                code="unsupported_value",
                param=name,
            )
    return validated(Asked, data)


def validated(kind: type[Model], data: Any) -> Model:
    """The model of some JSON; RequestRefused with the first field that is wrong."""
    try:
        found = kind.model_validate_json(json.dumps(data, ensure_ascii=False).encode("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(part) for part in first["loc"] if str(part) != "str" and not str(part).startswith(("list[", "constrained-"))
        )
        if first["type"] == "extra_forbidden":
            raise RequestRefused(f"unknown field: {where}", code="unknown_parameter", param=where) from error
        if first["type"] == "missing":
            raise RequestRefused(f"{where} is missing", code="missing_required_parameter", param=where) from error
        words = first["msg"].removeprefix("Value error, ")
        raise RequestRefused(f"{where or 'the request'}: {words}", code="invalid_value", param=where or None) from error
    except UnicodeEncodeError as error:
        raise RequestRefused("a text holds half a surrogate pair: send text that is Unicode", code="invalid_value") from error
    return found


def request_id() -> str:
    """chatcmpl-, the millisecond in 12 hex digits (so that its log file is found by it), and 80 random bits.

    In a simulation these come of the time too: repeated, it draws the same audit sample.
    """
    told = clock.told()
    bits = uuid.uuid4().hex if told is None else text_digest(repr(told))
    return f"chatcmpl-{int(clock.now() * 1000):012x}{bits[:20]}"


def time_of_id(request: str) -> float | None:
    """Seconds since 1970 that an id of ours says; None where it is none."""
    digits = request.removeprefix("chatcmpl-")
    if len(digits) != 32 or digits == request or any(c not in "0123456789abcdef" for c in digits):
        return None
    return int(digits[:12], 16) / 1000


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(
    request: str, model: str, created: int, text: str, cut: bool, used: dict[str, int], digest: str
) -> dict[str, Any]:
    """The whole answer; system_fingerprint tells the bytes that gave it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": request, "object": "chat.completion", "created": created, "model": model,
        "system_fingerprint": f"fp_{digest[:12]}",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length" if cut else "stop"}],
        "usage": used,
    }  # fmt: skip


def chunk(
    request: str,
    model: str,
    created: int,
    digest: str,
    delta: dict[str, Any] | None,
    finish: str | None = None,
    used: Any = None,
) -> dict[str, Any]:
    """One event of a stream; without a delta it carries the usage alone."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    made = {
        "id": request, "object": "chat.completion.chunk", "created": created, "model": model,
        "system_fingerprint": f"fp_{digest[:12]}", "choices": choices,
    }  # fmt: skip
    return {**made, "usage": used} if used is not None else made


def event(data: Any) -> bytes:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(message: str, *, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_card(name: str, created: int, *, root: str, parent: str | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "retrain", "root": root, "parent": parent}


def models(cards: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(cards)}
