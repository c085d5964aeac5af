"""Limits that every backend holds a question to."""

from collections.abc import Sequence

from retrain.errors import RequestRefused
from retrain.records import Message

MOST_CHARS = 16  # of a token: a longer text than that many of them is refused before it is tokenised


def check_size(messages: Sequence[Message], limit: int) -> None:
    """Before the messages are tokenised: RequestRefused where they cannot be few enough tokens."""
    if sum(len(message.content) for message in messages) > MOST_CHARS * limit:
        raise _too_long(f"more than {MOST_CHARS * limit:,} characters", limit)


def check_tokens(whole: int, most: int | None, longest: int, adapter: str, limit: int) -> None:
    """whole: tokens of the uncut question; longest: of a label. RequestRefused where a limit of either side is passed."""
    if whole > limit:
        raise _too_long(f"{whole:,} tokens", limit)
    if most is not None and most < longest:
        raise RequestRefused(
            f"max_tokens is {most}, a label of {adapter} has up to {longest}: raise it or leave it out",
            code="invalid_value", param="max_tokens",
        )  # fmt: skip


def _too_long(found: str, limit: int) -> RequestRefused:
    return RequestRefused(
        f"the messages have {found}, serve.max_prompt_tokens is {limit:,}: send fewer",
        code="context_length_exceeded", param="messages",
    )  # fmt: skip
