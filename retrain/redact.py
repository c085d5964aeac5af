"""PURE: what an erased user left in rows and in texts, and the same without it."""

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from retrain.markdown import escape
from retrain.records import content_id

ERASED = "[erased]"
SHORT = 8  # characters: a text below is erased where quotes or the like enclose it, else "hi" would be cut out of "this"
QUOTED = (r'(?<=["\'|>])(\s*)', r'(?=[\s\u200b]*["\'|<])')  # \u200b: `markdown.spaced`
APART = (r"(?<!\w)()", r"(?!\w)")
Covers = Callable[[Any], bool]  # whether an origin, {"request_id", "user"}, is of who is erased


def cleaned(row: Any, covers: Covers) -> Any:
    """A JSON row without the origins that are covered: the row itself where none is, None where nothing is left of it."""
    if not isinstance(row, dict):
        return row
    if isinstance(row.get("request_id"), str) and covers({"request_id": row["request_id"], "user": row.get("user")}):
        return None
    origins = row.get("origins")
    if isinstance(origins, list) and origins:
        left = [origin for origin in origins if not (isinstance(origin, dict) and covers(origin))]
        if not left:
            return None
        row = row if len(left) == len(origins) else {**row, "origins": left}
    for name in ("example", "row"):
        if isinstance(row.get(name), dict):
            inner = cleaned(row[name], covers)
            if inner is None:
                return None
            row = row if inner is row[name] else {**row, name: inner}
    return row


def rows_in(data: bytes) -> Iterator[dict[str, Any]]:
    """JSON objects of a JSONL file, or of the lists of a JSON file; nothing of any other."""
    for line in data.split(b"\n"):
        if line[:1] == b"{":
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row
    if data[:1] == b"{" and b"\n" in data:
        try:
            whole = json.loads(data)
        except ValueError:
            return
        yield from (item for value in whole.values() if isinstance(value, list) for item in value if isinstance(item, dict))


@dataclass
class Traces:
    """What is looked for: ids of requests, ids of rows that are gone for good, and the texts of these rows."""

    users: set[str] = field(default_factory=set)
    requests: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    @property
    def words(self) -> set[str]:
        return {word for word in (*self.users, *self.requests, *self.texts) if word.strip()}

    def hints(self) -> list[bytes]:
        """Bytes of which a file that holds any trace has at least one."""
        return [form.encode("utf-8", "surrogatepass") for word in (*self.words, *self.ids) for form in forms(word)]

    def redacted(self, text: str) -> str:
        """The text with every trace replaced."""
        for word in sorted(self.words, key=len, reverse=True):
            for form in sorted(forms(word), key=len, reverse=True):
                if form in text:
                    before, after = QUOTED if len(word) < SHORT else APART
                    text = re.sub(before + re.escape(form) + after, lambda found: found[1] + ERASED, text)
        return text


@cache
def forms(text: str) -> frozenset[str]:
    """A text as it stands in JSON (in ASCII or not), in HTML and in a card's cell."""
    found = {text}
    for one in (text, html.escape(text, quote=False), html.escape(text), escape(text)):
        found |= {one, json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1]}
    return frozenset(form for form in found if form)


def inner(row: dict[str, Any]) -> dict[str, Any]:
    """What a record about a row holds of it, else the record itself."""
    return next((row[name] for name in ("example", "row") if isinstance(row.get(name), dict)), row)


def read_row(row: dict[str, Any]) -> tuple[str, str, str]:
    """(id, question, answer) of an example, a prediction, or what a quarantined row holds."""
    row = inner(row)
    given = row.get("messages")
    messages = [m for m in given if isinstance(m, dict)] if isinstance(given, list) else []
    if not messages:
        return str(row.get("id", "")), str(row.get("question") or ""), str(row.get("expected") or "")
    turns = [(str(m.get("role")), str(m.get("content") or "")) for m in messages]
    asked = next((content for role, content in reversed(turns) if role == "user"), "")
    return str(row.get("id") or content_id(turns)), asked, turns[-1][1]
