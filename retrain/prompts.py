"""From an example to tokens: the chat template, the cut of long questions, the completion mask.  (no torch)"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.errors import ParamsError
from retrain.records import Message, text_digest

# for a base whose tokenizer brings no chat template
FALLBACK = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class Template:
    """Renders an adapter's questions; `digest` names everything that decides the tokens."""

    tokenizer: Any
    system: str
    max_length: int

    @property
    def digest(self) -> str:
        template = self.tokenizer.chat_template or FALLBACK
        return text_digest(f"{template}\0{self.system}\0{self.max_length}")

    def question(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the messages before an answer, at most max_length: the front of the question is cut."""
        ids = self.render(messages)
        over = len(ids) - self.max_length
        if over <= 0:
            return ids
        last = messages[-1]
        text = self.tokenizer(last.content, add_special_tokens=False)["input_ids"]
        kept = self.tokenizer.decode(text[min(over, len(text)) :])
        return self.render([*messages[:-1], Message(role=last.role, content=kept)])[-self.max_length :]

    def completion(self, answer: str) -> list[int]:
        """Token ids of an answer and the end-of-turn token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end]

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the messages before an answer, however many."""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if turns[0]["role"] != "system":  # always one of ours: some templates add a sentence of their own otherwise
            turns.insert(0, {"role": "system", "content": self.system})
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, chat_template=self.tokenizer.chat_template or FALLBACK
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def common_prefix(ids: Sequence[list[int]]) -> list[int]:
    """Tokens that all rows begin with, less the last one of the shortest row: each row must keep one to ask about."""
    if len(ids) < 2:
        return []
    low, high = min(ids), max(ids)
    limit = min(len(row) for row in ids) - 1
    same = next((i for i in range(min(len(low), len(high))) if low[i] != high[i]), min(len(low), len(high)))
    return low[: max(0, min(same, limit))]


def read_prompt(path: Path) -> str:
    """The adapter's system text; a missing or blank file is a ParamsError."""
    try:
        text = Path(path).read_text("utf-8").strip()
    except FileNotFoundError as error:
        raise ParamsError(f"prompt file {path} does not exist: write one sentence that says what to answer") from error
    if not text:
        raise ParamsError(f"prompt file {path} is blank: write one sentence that says what to answer")
    return text
