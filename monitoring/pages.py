"""The pages that people open: one self-contained HTML file an adapter, an index, and the doors to MLflow and Evidently.

PURE: a chronicle in, text out. There is no script in a story page (a mail program runs none), nothing is fetched, and what
users wrote is escaped by the templates.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring import picture
from monitoring.chronicle import Chronicle, Event, Seen, count, day, moment, percent, when
from monitoring.telling import window_facts

TONES = {
    "fire": "bad", "concern": "warn", "untold": "", "quiet": "", "passed": "good", "failed": "bad", "not_evaluated": "warn",
    "promotion": "good", "rollback": "warn", "labels": "accent", "release": "accent", "dataset": "accent",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """An entry of the story: one event, or quiet windows in a row, newest first."""

    event: Event | None = None
    group: tuple[Event, ...] = ()

    @property
    def span(self) -> str:
        first, last = self.group[-1].window, self.group[0].window
        return f"{day(first.start)} to {day(last.start)}" if first and last else ""


def story_page(chronicle: Chronicle, *, cards: Mapping[str, str], commits: Mapping[str, str]) -> str:
    """HTML. cards: digest -> Markdown, commits: id -> what git says of it; both may lack some."""
    shown = chronicle.windows
    span = f"It shows the last {count(len(shown), 'window')}; older ones are in MLflow." if shown else ""
    return _template("story.html").render(
        chronicle=chronicle, items=list(_items(chronicle.events)), tiles=_tiles(chronicle), tones=TONES, span=span,
        wide=_safe(picture.draw(chronicle, picture.WIDE)), narrow=_safe(picture.draw(chronicle, picture.NARROW)),
        cards={digest: _safe(_markdown(text)) for digest, text in cards.items()}, commits=commits,
        when=when, moment=moment, number=_number, one_line=_one_line, event_facts=window_facts,
    )  # fmt: skip


def index_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """rows: `adapter, tone, headline, lead` of each."""
    return _template("index.html").render(rows=rows)


def paper(title: str, markdown: str) -> str:
    """Markdown as a page; raw HTML in it stays text."""
    return _template("paper.html").render(title=title, html=_safe(_markdown(markdown)))


def hop_page(name: str, address: str | None, *, by_path: bool) -> str:
    """A door to a service whose port is new at each `retrain up`; what follows # goes along, as a path or as a fragment."""
    return _template("hop.html").render(name=name, address=address, by_path=by_path)


def summary_row(chronicle: Chronicle) -> dict[str, Any]:
    """What the index says of an adapter."""
    summary = chronicle.summary
    return {"adapter": chronicle.adapter, "tone": summary.tone, "headline": summary.headline, "lead": summary.lead}


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _safe(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)


def _markdown(text: str) -> str:
    """A card as HTML; raw HTML in it stays text."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def _items(events: Sequence[Event]) -> Iterator[Item]:
    """Newest first; two quiet windows or more in a row are one entry."""
    quiet: list[Event] = []
    for event in [*reversed(events), None]:
        if event and event.kind == "quiet":
            quiet.append(event)
            continue
        if len(quiet) == 1:
            yield Item(quiet[0])
        elif quiet:
            yield Item(group=tuple(quiet))
        quiet = []
        if event:
            yield Item(event)


def _tiles(chronicle: Chronicle) -> list[tuple[str, str, str]]:
    """Name, figure, and what goes with it."""
    newest = chronicle.windows[-1] if chronicle.windows else None
    champion = chronicle.champion
    since = [at for at, version in chronicle.serving if champion and version == champion.version]
    tiles = [("serving", f"v{champion.version}" if champion else "none", f"since {day(since[-1])}" if since else "")]
    if newest is None:
        return tiles
    low, high = newest.interval or (None, None)
    checked = f"{percent(low)} to {percent(high)}, {newest.record['audited']} checked"
    tiles.append(("right", percent(newest.accuracy), "not known yet" if newest.accuracy is None else checked))
    tiles.append(("satisfied", percent(newest.satisfaction), "of those who said"))
    status, columns = newest.record["drift_status"], count(len(newest.columns), "column")
    over = sum(column.status == "drift" for column in newest.columns)
    words = {"drift": ("yes", f"{over} of {columns}"), "no_drift": ("none", f"{columns} quiet")}
    tiles.append(("drift", *words.get(status, ("unknown", status.replace("_", " ")))))
    return tiles


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _one_line(window: Seen) -> str:
    parts = [count(window.record["rows"], "message")]
    if window.accuracy is not None:
        low, high = window.interval or (None, None)
        parts.append(f"{percent(window.accuracy)} right ({percent(low)} to {percent(high)})")
    if window.satisfaction is not None:
        parts.append(f"{percent(window.satisfaction)} satisfied")
    if window.drift is not None:
        parts.append(f"largest drift {window.drift:.1f} times its threshold")
    return ", ".join(parts)
