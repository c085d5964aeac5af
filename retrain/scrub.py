"""Personal data and secrets in rows become placeholders: the same value is the same placeholder everywhere in its row.

Every text of a row is searched, and every string and number inside a text that is JSON, at any depth, JSON inside its strings
too; what does not change keeps its bytes. A row that could not be searched has no content any more, only the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from retrain.keyformats import secret_in
from retrain.recognisers import Failed, Finder, Span, finder
from retrain.records import Example
from retrain.scrub_rules import PLACEHOLDER, Scrub

DEEPEST = 8  # JSON in a string in JSON ...
REMEMBERED = 10_000  # texts whose spans are kept for when they come again: labels, templates, keys of JSON
SPREAD = 5  # characters of a value that is looked for in the row's other texts too; shorter ones may mean something else there
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|[][{},]')
_KEY = re.compile(r"\s*:")
Change = Callable[[str, bool], str]  # (a text, whether it stands in a field for secrets) -> what it becomes


@dataclass(frozen=True)
class Scrubbed:
    """A row with placeholders, and how many different values of each kind it had; row None: it is not to be kept, and `why`."""

    row: dict[str, Any] | None
    found: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Scrubber:
    """Called with rows it gives them back without personal data and secrets, in the same order."""

    rules: Scrub

    @cached_property
    def finder(self) -> Finder:
        return finder(self.rules)

    def __call__(self, rows: Iterable[Mapping[str, Any]]) -> list[Scrubbed]:
        """Values that are no text stay as they are. Placeholders are numbered in the order of a row's fields."""
        seen: dict[str, Sequence[Span]] = {}
        return [self._row(row, seen) for row in rows]

    def kinds(self, text: str) -> list[str]:
        """What is in a text; Failed where that cannot be told."""
        (one,) = self([{"text": text}])
        if one.row is None:
            raise Failed(one.why)
        return sorted(one.found)

    def example(self, row: Example) -> tuple[Example, Mapping[str, int]]:
        """A row that a person wrote, with placeholders in all its messages, and what they stand for; Failed as above."""
        (one,) = self([{str(n): message.content for n, message in enumerate(row.messages)}])
        if one.row is None:
            raise Failed(one.why)
        if not one.found:
            return row, {}
        messages = [{"role": m.role, "content": one.row[str(n)]} for n, m in enumerate(row.messages)]
        return Example.model_validate({**row.model_dump(exclude={"id"}), "messages": messages}), one.found

    def _row(self, row: Mapping[str, Any], seen: dict[str, Sequence[Span]]) -> Scrubbed:
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        asked = [text for text in texts.values() if self._may_hold(text)]
        if not asked:
            return Scrubbed(dict(row))
        names = _Names(texts.values())

        def look(text: str, secret: bool) -> str:
            for span in self._spans(text, secret, seen):
                names.add(span.kind, text[span.start : span.end])
            return text

        def replace(text: str, secret: bool) -> str:
            return names.put(text, self._spans(text, secret, seen))

        try:
            for text in asked:
                mapped(text, look)
        except Failed as failed:
            return Scrubbed(None, why=str(failed))
        if not names.of:
            return Scrubbed(dict(row))
        return Scrubbed({**row, **{name: mapped(text, replace) for name, text in texts.items()}}, names.counts)

    def _may_hold(self, text: str) -> bool:
        """Behind a backslash JSON may hide what the gate looks for."""
        return self.finder.gate.search(text) or ("\\" in text and _begins_json(text))

    def _spans(self, text: str, secret: bool, seen: dict[str, Sequence[Span]]) -> Sequence[Span]:
        if secret and "secret" in self.rules.kinds and text.strip() and not PLACEHOLDER.fullmatch(text):
            return [Span(0, len(text), "secret")]
        found = seen.get(text)
        if found is None:
            if len(seen) == REMEMBERED:
                seen.clear()
            found = seen[text] = self.finder(text) if self.finder.gate.search(text) else ()
        return found


class _Names:
    """The placeholders of a row; numbers that its texts use already are left out."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.taken = {found[0] for text in texts if "<" in text for found in PLACEHOLDER.finditer(text)}
        self.of: dict[tuple[str, str], str] = {}  # kind and value -> placeholder
        self.written: dict[str, str] = {}  # a value as it was written -> placeholder
        self.counts = Counter[str]()

    def add(self, kind: str, value: str) -> None:
        key = (kind, _alike(value))
        if key not in self.of:
            number = self.counts[kind] + 1
            while (name := f"<{kind.upper()}_{number}>") in self.taken:
                number += 1
            self.taken.add(name)
            self.of[key] = name
            self.counts[kind] += 1
        if len(value) >= SPREAD:
            self.written[value] = self.of[key]

    def put(self, text: str, spans: Sequence[Span]) -> str:
        """The text with its spans replaced, and with every other place where a value of the row stands by itself."""
        pieces, at = [], 0
        for span in spans:
            pieces += [self._spread(text[at : span.start]), self.of[span.kind, _alike(text[span.start : span.end])]]
            at = span.end
        return "".join([*pieces, self._spread(text[at:])])

    def _spread(self, text: str) -> str:
        for value, name in self.written.items():
            if value in text:
                text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", name, text)
        return text


def _alike(value: str) -> str:
    """The same for values that differ in case and white space, numbers also in punctuation."""
    plain = "".join(value.split()).casefold()
    return plain if any(char.isalpha() for char in plain) else re.sub(r"[^\d+]", "", plain) or plain


# --- JSON


def mapped(text: str, change: Change, depth: int = 0) -> str:
    """The text with `change` applied to every string and number of the JSON that it is, else to itself; whatever does not
    change keeps its bytes. A number becomes a string where it changes."""
    if depth == DEEPEST or not _is_json(text):
        return change(text, False)
    pieces, at, fields = [], 0, _Fields()
    for token in _TOKEN.finditer(text):
        written = token[0]
        if written in "[]{},":
            fields.passed(written)
            continue
        is_text = written[0] == '"'
        old = written if not is_text else json.loads(written) if "\\" in written else written[1:-1]
        is_key = is_text and _KEY.match(text, token.end()) is not None
        secret = False if is_key else fields.hold(old)
        new = change(old, True) if secret else mapped(old, change, depth + 1)
        if is_key:
            fields.key = old
        if new != old:
            as_ascii = written.isascii() or "\\u" in written
            pieces += [text[at : token.start()], json.dumps(new, ensure_ascii=as_ascii)]
            at = token.end()
    return "".join([*pieces, text[at:]])


class _Fields:
    """Where in JSON one is: what in the fields around is a secret, which ends with them."""

    def __init__(self) -> None:
        self.open: list[re.Pattern[str] | None] = [None]
        self.named: list[re.Pattern[str] | None] = [None]  # {"name": "Authorization", "value": ...}
        self.key: str | None = None

    def _now(self) -> re.Pattern[str] | None:
        own = secret_in(self.key) if self.key is not None else None
        return own or (self.named[-1] if self.key in ("value", "Value") else None) or self.open[-1]

    def passed(self, mark: str) -> None:
        if mark in "[{":
            self.open.append(self._now())
            self.named.append(None)
        elif mark in "]}":
            self.open.pop()
            self.named.pop()
        self.key = None

    def hold(self, value: str) -> bool:
        """Whether a value that stands here is a secret."""
        secret = self._now()
        if self.key in ("name", "Name", "key", "header"):
            self.named[-1] = secret_in(value)
        return secret is not None and secret.fullmatch(value) is not None


def _begins_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[", '"')


def _is_json(text: str) -> bool:
    if not _begins_json(text):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
