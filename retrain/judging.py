"""How a model behind an address is asked to judge: what others wrote stands in frames, and its reply is one word.

The monitor asks of one answer whether it is right (`monitoring.judge`), the gate which of two is better (`preference`).
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from retrain import sections
from retrain.answers import Schema
from retrain.endpoint import Messages, Reply
from retrain.errors import EndpointError
from retrain.records import dumps, text_digest
from retrain.text import filled

MOST_TEXT = 8_000  # characters of a prompt or an answer that are shown: the middle of a longer one is left out
THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
Told = TypeVar("Told")


def task_of(instructions: str, labels: Sequence[str], schema: Schema | None) -> str:
    """What the adapter is told, and what its answers may be."""
    may = f"The answer must be one of: {', '.join(labels)}" if labels else ""
    may = f"The answer must be JSON of this schema: {dumps(schema)}" if schema is not None else may
    return f"{instructions.strip()}\n{may}".strip()


def framed(template: str, task: str, texts: Mapping[str, str]) -> Messages:
    """The template with texts of others in it. The nonce is new for each: no text can hold it, so none can close its frame."""
    shown = {"nonce": secrets.token_hex(8), "task": task} | {name: _cut(text) for name, text in texts.items()}
    return [{"role": "user", "content": filled(template, shown)}]


def _cut(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def by(judge: sections.Endpoint, template: str) -> str:
    """Names model, address, request and template: what is comparable."""
    return text_digest(dumps([judge.url, judge.model, judge.extra, template]))[:16]


def read(reply: Reply | EndpointError, words: Mapping[str, Told]) -> tuple[Told | None, str]:
    """(what it says, or None; why there is nothing): never what a reply says, for it may quote a user."""
    if isinstance(reply, EndpointError):
        return None, str(reply)
    if reply.finish == "content_filter":
        return None, "it refused"
    found = word(reply.text)
    if found is None or found not in words:
        return None, "its reply was cut off" if reply.finish == "length" else "its reply was no verdict"
    return words[found], ""


def word(text: str) -> str | None:
    """The word alone, or of a JSON object that has it as its one `verdict`, case-folded; None where there is no text at all."""
    text = THOUGHT.sub("", text, count=1).strip()
    if fenced := FENCED.fullmatch(text):
        text = fenced[1]
    found: Any = text.strip(" .\"'`*")
    if text.startswith("{"):
        try:
            told = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return None
        words = [value for name, value in told if name == "verdict"]
        found = words[0] if len(words) == 1 else None
    return found.casefold() if isinstance(found, str) else None
