"""The timeline as an SVG, drawn by matplotlib: no script, so it also shows where a mail program runs none.

Colours are placeholders that become CSS variables of the page, so one drawing serves light and dark; every window is a
link to its place in the story, with its figures as title.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Any

from monitoring.chronicle import OUTPUTS, Chronicle, Event, Seen, percent, when

# matplotlib wants real colours: each stands for the CSS variable of that name
INK = {
    "ink": "#010101", "muted": "#020202", "line": "#030303", "accent": "#040404", "second": "#050505", "bad": "#060606",
    "good": "#070707", "card": "#080808", "cool": "#090909", "soft": "#0a0a0a", "warn": "#0b0b0b",
}  # fmt: skip
MARKS = {
    "fire": ("bad", "^"), "passed": ("good", "o"), "failed": ("bad", "X"), "not_evaluated": ("muted", "s"),
    "labels": ("accent", "P"), "dataset": ("accent", "s"),
}  # fmt: skip
LANES = (
    ("decision", ("fire",)),
    ("labels", ("labels",)),
    ("failures", ("dataset",)),
    ("candidate", ("passed", "failed", "not_evaluated")),
)
FULL = 3.0  # distance by threshold that is drawn in the strongest colour


@dataclass(frozen=True)
class Size:
    """Of one drawing, in CSS pixels; `most` is how many windows stay readable in it."""

    width: int
    most: int
    left: int
    font: float


WIDE, NARROW = Size(920, 90, 118, 12), Size(350, 21, 84, 11)


def draw(chronicle: Chronicle, size: Size) -> str:
    """An <svg> element for the page; empty where there is no window to draw."""
    windows = chronicle.windows[-size.most :]
    if not windows:
        return ""
    import matplotlib

    names = _names(windows)
    style = {
        "svg.fonttype": "none", "svg.hashsalt": "retrain", "svg.id": f"picture-{size.width}", "font.size": size.font,
        "font.family": "sans-serif", "axes.linewidth": 0.8, "path.simplify": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = _figure(chronicle, windows, names, size)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _page_ready(file.getvalue(), chronicle, size)


def _names(windows: Sequence[Seen]) -> list[str]:
    """Columns that any window knows, those that users send first."""
    known = dict.fromkeys(column.name for window in windows for column in window.columns)
    return sorted(known, key=lambda name: name in OUTPUTS)


def _figure(chronicle: Chronicle, windows: Sequence[Seen], names: Sequence[str], size: Size) -> Any:
    from matplotlib.figure import Figure

    row = size.font * 1.75
    heights = [row * 1.1, size.font * 13, row * max(len(names), 1), row * len(LANES)]
    gap, top, bottom = size.font * 2.3, size.font * 1.7, size.font * 2.6
    total = sum(heights) + gap * (len(heights) - 1) + top + bottom
    figure: Any = Figure(figsize=(size.width / 72, total / 72))
    axes, y = [], total - top
    for height in heights:
        y -= height
        axes.append(figure.add_axes((size.left / size.width, y / total, 1 - (size.left + 14) / size.width, height / total)))
        y -= gap
    low, high = windows[0].start, windows[-1].end
    for axis in axes:
        axis.set_xlim(low, high)
        axis.patch.set_alpha(0)
        for side in axis.spines.values():
            side.set_visible(False)
        axis.tick_params(length=0, colors=INK["muted"], labelbottom=axis is axes[-1])
    _versions(axes[0], chronicle, windows)
    _quality(axes[1], windows)
    _drift(axes[2], windows, names)
    _events(axes[3], chronicle.events, windows, size)
    _dates(axes[-1], windows, size)
    for axis, title in zip(axes, ("", "Quality", "Drift", "What was done"), strict=True):
        axis.set_title(title, loc="left", fontsize=size.font, color=INK["ink"], fontweight="bold", pad=size.font * 0.5)
    box = axes[0].get_position()
    over = figure.add_axes((box.x0, bottom / total, box.width, 1 - (top + bottom) / total))
    over.set_xlim(low, high)
    over.set_axis_off()
    for window in windows:
        _link(over, window)
    return figure


def _versions(axis: Any, chronicle: Chronicle, windows: Sequence[Seen]) -> None:
    """Who served when: one bar a version, with its name."""
    low, high = windows[0].start, windows[-1].end
    moves = list(chronicle.serving)
    axis.set_ylim(0, 1)
    axis.set_yticks([0.5], ["serving"])
    for n, (at, version) in enumerate(moves):
        start, end = max(at, low), min(moves[n + 1][0] if n + 1 < len(moves) else high, high)
        if n + 1 == len(moves) and start >= high:  # promoted after the newest window: a mark at the edge
            axis.annotate(f"v{version}", (high, 0.5), ha="right", va="center", color=INK["good"], fontweight="bold")
        if start >= end:
            continue
        axis.barh(0.5, end - start, left=start, height=1, color=INK["soft"], edgecolor=INK["card"], linewidth=2)
        axis.annotate(f"v{version}", (start + (end - start) / 2, 0.5), ha="center", va="center", color=INK["ink"])


def _quality(axis: Any, windows: Sequence[Seen]) -> None:
    """Accuracy with its interval as a band, satisfaction beside it."""
    values = [v for w in windows for v in (w.accuracy, w.satisfaction, *(w.interval or ())) if v is not None]
    axis.set_ylim(max(0.0, min([*values, 0.9]) // 0.1 / 10 - 0.001), 1.02)
    axis.yaxis.set_major_locator(_steps())
    axis.yaxis.set_major_formatter(lambda value, _: percent(value))
    axis.grid(axis="y", color=INK["line"], linewidth=0.8)
    axis.set_axisbelow(True)
    for window in windows:
        if window.accuracy is not None and window.interval:
            axis.vlines(_middle(window), *window.interval, color=INK["accent"], alpha=0.35, linewidth=5, capstyle="round")
    line = {"color": INK["accent"], "linewidth": 2, "marker": "o", "markersize": 5}
    axis.plot(*_unbroken(windows, [w.accuracy for w in windows]), **line)
    line = {"color": INK["second"], "linewidth": 1.6, "linestyle": (0, (4, 2)), "marker": "s", "markersize": 3.5}
    axis.plot(*_unbroken(windows, [w.satisfaction for w in windows]), **line)


def _middle(window: Seen) -> datetime:
    return window.start + (window.end - window.start) / 2


def _unbroken(windows: Sequence[Seen], values: Sequence[float | None]) -> tuple[list[datetime], list[float]]:
    """Points of a line that breaks where a window is missing or not known."""
    x, y = [], []
    for n, (window, value) in enumerate(zip(windows, values, strict=True)):
        if n and windows[n - 1].end < window.start:
            x.append(window.start)
            y.append(math.nan)
        x.append(_middle(window))
        y.append(math.nan if value is None else value)
    return x, y


def _steps() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10])


def _drift(axis: Any, windows: Sequence[Seen], names: Sequence[str]) -> None:
    """A field a column and window: pale below the threshold, red with a dot above, empty where not computable."""
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    for window in windows:
        found = {column.name: column for column in window.columns}
        for row, name in enumerate(names):
            column = found.get(name)
            ratio = column.ratio if column else None
            length, inset = window.end - window.start, (window.end - window.start) * 0.06
            field = {"left": window.start + inset / 2, "height": 0.84, "clip_on": False}
            if ratio is None:
                axis.barh(row, length - inset, **field, color="none", edgecolor=INK["line"], linewidth=1)
                continue
            over = ratio > 1
            strength = 0.35 + 0.55 * min((ratio - 1) / (FULL - 1), 1) if over else 0.08 + 0.4 * max(ratio, 0)
            axis.barh(row, length - inset, **field, color=INK["bad" if over else "cool"], alpha=round(strength, 3))
            if over:
                axis.plot([window.start + length / 2], [row], marker="o", markersize=3.5, color=INK["ink"])


def _events(axis: Any, events: Sequence[Event], windows: Sequence[Seen], size: Size) -> None:
    """What was decided and done, a lane each; a window that did not fire is a dot in the first."""
    axis.set_ylim(len(LANES) - 0.5, -0.5)
    axis.set_yticks(range(len(LANES)), [name for name, _ in LANES])
    low, high = windows[0].start, windows[-1].end
    edge = (high - low) * 0.012
    for row, (_, kinds) in enumerate(LANES):
        axis.axhline(row, color=INK["line"], linewidth=0.8, zorder=0)
        for event in events:
            if event.kind in kinds and low <= event.at <= high:
                colour, marker = MARKS[event.kind]
                x = min(max(event.at, low + edge), high - edge)
                look = {"markersize": 10 if size is WIDE else 8, "color": INK[colour], "markeredgecolor": INK["card"]}
                axis.plot([x], [row], marker=marker, clip_on=False, **look)
    for window in windows:
        if window.record["fire"]:
            continue
        wrong = bool(window.record["violations"])
        look = {"marker": "o", "color": INK["warn" if wrong else "muted"], "markersize": 3 if window.told and not wrong else 5}
        x = window.end - min(edge, (window.end - window.start) / 2)
        axis.plot([x], [0], clip_on=False, **look, **({} if window.told else {"markerfacecolor": "none"}))


def _dates(axis: Any, windows: Sequence[Seen], size: Size) -> None:
    """A date at the start of every so many windows: as many as fit."""
    few = windows[-1].end - windows[0].start < timedelta(days=3)
    starts = [window.start for window in windows[:: math.ceil(len(windows) / (4 if size is NARROW else 9))]]
    words = [f"{time:%H:%M}" if few and time.hour else f"{time.day} {time:%b}" for time in starts]
    axis.set_xticks(starts, words)


def _link(over: Any, window: Seen) -> None:
    """A field over the whole height of a window, found again by its id."""
    field = over.axvspan(window.start, window.end, color=INK["ink"], linewidth=0, clip_on=False)
    field.set_gid(f"hit-{window.key}")
    field.set_url(f"#w-{window.key}")


def _page_ready(svg: str, chronicle: Chronicle, size: Size) -> str:
    """Colours become variables, fields get titles, ids stay apart from the other drawing's, and the size follows the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, colour in INK.items():
        svg = svg.replace(colour, f"var(--{name})")
    titles = {window.key: escape(_title(window)) for window in chronicle.windows}
    svg = re.sub(r'<g id="hit-([^"]+)">', lambda found: f'<g class="hit"><title>{titles[found[1]]}</title>', svg)
    svg = re.sub(r'\bid="(?!picture)', f'id="p{size.width}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#(?!w-)', rf"\1#p{size.width}-", svg)
    svg = re.sub(r"; stroke-linejoin: miter|(?<=\d\.\d\d)\d+", "", svg)  # nothing that the eye sees
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: (bold )?([\d.]+px)[^;\"]*", _font, svg)
    shown = len(chronicle.windows[-size.most :])
    words = f"{chronicle.adapter}: accuracy, satisfaction, drift and decisions of {shown} windows"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1)


def _font(found: "re.Match[str]") -> str:
    """The size that was drawn with, and the page's own letters."""
    return f"font-size: {found[2]}" + ("; font-weight: bold" if found[1] else "")


def _title(window: Seen) -> str:
    record = window.record
    parts = [when(window.start, window.end), "fire" if record["fire"] else "hold"]
    parts += [f"{percent(window.accuracy)} right"] if window.accuracy is not None else []
    parts += [f"{percent(window.satisfaction)} satisfied"] if window.satisfaction is not None else []
    parts += [f"drift in {column.name}" for column in window.columns if column.status == "drift"]
    return ", ".join(parts)
