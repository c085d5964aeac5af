"""PURE: lines of OpenAI's fine-tuning and evaluation files -> our rows as they are, or why not.

Formats (platform.openai.com/docs/guides/supervised-fine-tuning, .../direct-preference-optimization, .../evals): chat
`{"messages": [...], "tools": [...]}`; preference `{"input": {"messages"}, "preferred_output", "non_preferred_output"}`; items
of an evaluation `{"item": {...}}`, or `{"input": ..., "ideal": ...}`. Prompt and completion of the old format are read too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from retrain.records import Example, dumps

Kind = Literal["chat", "preference", "eval", "completion"]
ROLES = {"developer": "system", "function": "tool"}
ASKED = ("input", "question", "prompt", "query", "text", "ticket_text", "user_input")
RIGHT = (
    "ideal",
    "expected",
    "expected_output",
    "answer",
    "ground_truth",
    "reference",
    "reference_answer",
    "label",
    "correct_label",
)


class NotTaken(Exception):
    """Why a line cannot become a row."""


@dataclass(frozen=True)
class Taken:
    """A row and the kind of line it was; `tools` are the functions that the line offered to the model."""

    row: Example
    kind: Kind
    tools: tuple[str, ...] = ()


def parse(line: str, *, question: str | None = None, answer: str | None = None) -> Taken:
    """One line. question, answer: fields of an evaluation's items, where their names tell nothing. NotTaken says why not."""
    try:
        data = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotTaken("it is not JSON") from error
    if not isinstance(data, dict):
        raise NotTaken(f"it is a JSON {type(data).__name__}, must be an object")
    if "preferred_output" in data or "non_preferred_output" in data:
        return _preference(data)
    if "messages" in data:
        return Taken(_row(_turns(data["messages"]), "seed", "human"), "chat", _tools(data))
    if isinstance(data.get("prompt"), str) and isinstance(data.get("completion"), str):
        turns = [("user", data["prompt"].strip()), ("assistant", data["completion"].strip())]
        return Taken(_row(turns, "seed", "human"), "completion")
    return _eval(data, question, answer)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is Python's, not JSON's")


def _preference(data: dict[str, Any]) -> Taken:
    """What was preferred is a person's correction of what was not."""
    given = data.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        raise NotTaken("a preference without input.messages")
    better, worse = (_turns(data.get(f"{name}_output")) for name in ("preferred", "non_preferred"))
    if better == worse:
        raise NotTaken("both outputs are the same: nothing is preferred")
    return Taken(_row([*_turns(given["messages"]), *better], "seed", "correction"), "preference", _tools(given))


def _eval(data: dict[str, Any], question: str | None, answer: str | None) -> Taken:
    item = data.get("item") if isinstance(data.get("item"), dict) else data
    assert isinstance(item, dict)
    asked, right = _field(item, question, ASKED, "question"), _field(item, answer, RIGHT, "answer")
    turns = _turns(asked) if isinstance(asked, list) else [("user", _text(asked))]
    answers = right if isinstance(right, list) else [right]
    texts = list(dict.fromkeys(_text(one) for one in answers))
    if len(texts) != 1:
        raise NotTaken(f"it has {len(texts)} right answers, a row has one")
    return Taken(_row([*turns, ("assistant", texts[0])], "golden", "human"), "eval")


def _field(item: dict[str, Any], named: str | None, usual: Sequence[str], what: str) -> Any:
    found = next((name for name in ([named] if named else usual) if name in item), None)
    if found is None:
        raise NotTaken(f"no {what} in it: its fields are {', '.join(map(str, item)) or 'none'} (--{what}-field names one)")
    return item[found]


def _turns(messages: Any) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise NotTaken("its messages are no list, or an empty one")
    return [_turn(message, n == len(messages)) for n, message in enumerate(messages, 1)]


def _turn(message: Any, last: bool) -> tuple[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise NotTaken("a message is no object with a role")
    if last and message["role"] == "assistant" and message.get("weight") == 0:
        raise NotTaken("its answer has weight 0: it shall not be learned")
    calls = message.get("tool_calls") or ([{"function": message["function_call"]}] if message.get("function_call") else [])
    text = _calls(calls) if calls else _text(message.get("content"))
    role = str(message["role"])
    return ROLES.get(role, role), text


def _calls(calls: Any) -> str:
    """Calls of functions as JSON, the text that an adapter can learn to answer: an object, or of several a list."""
    try:
        read = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
        made = [{"name": name, "arguments": json.loads(given, parse_constant=_no_number)} for name, given in read]
        told = dumps(made[0] if len(made) == 1 else made, allow_nan=False)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotTaken("a tool call without a function's name, or whose arguments are no JSON") from error
    return told


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(part["text"] for part in content)
    if isinstance(content, list) and content:
        kinds = sorted({str(p.get("type")) if isinstance(p, dict) else type(p).__name__ for p in content} - {"text"})
        raise NotTaken(f"a message holds {', '.join(kinds)}: a row is text")
    if isinstance(content, int | float | bool | dict):
        try:
            return dumps(content, allow_nan=False)
        except ValueError as error:
            raise NotTaken("a number in it is too large for JSON") from error
    raise NotTaken("a message has no content")


def _tools(data: dict[str, Any]) -> tuple[str, ...]:
    listed = data.get("tools") or [{"function": function} for function in _list(data.get("functions"))]
    offered = [tool.get("function") for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    return tuple(str(function["name"]) for function in offered if isinstance(function, dict) and "name" in function)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _row(turns: Sequence[tuple[str, str]], source: str, label_source: str) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        row = Example.model_validate({"messages": messages, "source": source, "label_source": label_source})
        row.model_dump_json()  # a lone surrogate cannot be written as UTF-8
    except ValidationError as error:
        raise NotTaken(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    except (UnicodeError, ValueError) as error:
        raise NotTaken("it holds a lone surrogate, which is no text") from error
    return row
