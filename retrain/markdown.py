"""Markdown that MLflow, Airflow, our pages and a terminal show alike. PURE."""

import html
import re
from collections.abc import Sequence

SPACE = "\u2003\u200b"  # a wide space, and nothing: else a renderer trims it
MARKED = re.compile(r"\\([\\`*\[\]|~_])")


def escape(text: str, most: int = 300) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    flat = re.sub(r"\s+", " ", text).strip()
    flat = flat if len(flat) <= most else flat[: most - 1] + "…"
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def unmarked(line: str) -> str:
    """A line of Markdown of ours as a terminal shows it."""
    return html.unescape(MARKED.sub(r"\1", line.replace("**", "")))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; every cell is escaped, so that a user's text stays text."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows]


def spaced(text: str) -> str:
    """Tables whose columns stand apart where a page gives cells no margin, as MLflow's description."""
    lines = text.split("\n")
    return "\n".join(line.replace(" | ", f"{SPACE} | ") if line.startswith("| ") else line for line in lines)


def linked(text: str, links: Sequence[tuple[str, str]], picture: str | None) -> str:
    """A card with a picture of its scores, and with links as (words, address), before its first heading."""
    shown = [f"![right answers by suite]({picture})"] if picture else []
    shown += [" · ".join(f"[{words}]({address})" for words, address in links)] if links else []
    if not text or not shown:
        return text
    plain, heading, rest = text.partition("\n## ")
    return "\n\n".join([plain.rstrip("\n"), *shown]) + (f"\n{heading}{rest}" if heading else "")
