"""The picture of the scores that stands beside a card."""

from pathlib import Path
from typing import Any

from retrain.cardtables import ARMS, SUITES, Metrics, arms_of, is_number, suites_of

COLOURS = {"candidate": "#1f6f8b", "champion": "#e0a030", "regression": "#8a8f98", "prompted": "#b4b9c1", "base": "#d9dce1"}


def plot(metrics: Metrics, path: Path) -> None:
    """Bars of right answers by suite and arm; PNG or SVG by the name's ending, the same bytes for the same metrics."""
    from matplotlib import style
    from matplotlib.figure import Figure

    suites, look = suites_of(metrics), {"svg.hashsalt": "retrain", "font.family": "DejaVu Sans", "font.size": 9}
    with style.context(["default", look]):  # not the user's own matplotlibrc: bytes must reproduce
        figure = Figure(figsize=(7.6, 3.8), dpi=100, layout="constrained")  # as wide as MLflow's page has room for
        axes = figure.subplots()
        _bars(axes, metrics, suites)
        _dress(axes, metrics, suites)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def _bars(axes: Any, metrics: Metrics, suites: list[str]) -> None:
    arms = [arm for arm in ARMS if any(arm in arms_of(metrics, suite) for suite in suites)]
    width = 0.84 / max(1, len(arms))
    for place, arm in enumerate(arms):
        here = [(i, arms_of(metrics, suite).get(arm, {}).get("right")) for i, suite in enumerate(suites)]
        known = [(i, value) for i, value in here if is_number(value)]
        x = [i + (place - (len(arms) - 1) / 2) * width for i, _ in known]
        bars = axes.bar(x, [100 * v for _, v in known], width * 0.92, label=ARMS[arm], color=COLOURS[arm], zorder=2)
        axes.bar_label(bars, [f"{100 * v:.0f}" for _, v in known], padding=2, fontsize=7.5, color="#444444")


def _dress(axes: Any, metrics: Metrics, suites: list[str]) -> None:
    names = [f"{suite}\n{SUITES.get(suite, '')}\n{metrics['suites'][suite].get('n', '?')} rows" for suite in suites]
    axes.set_xticks(range(len(suites)), names, fontsize=8)
    axes.set_xlim(-0.5, max(0.5, len(suites) - 0.5))
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)], color="#666666")
    axes.set_title(f"{metrics.get('adapter', 'adapter')}: right answers", loc="left", fontsize=11, fontweight="bold", pad=24)
    axes.grid(axis="y", color="#e6e6e6", zorder=0)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": len(labels), "borderaxespad": 0.2, "fontsize": 8.5}
        axes.legend(handles, labels, frameon=False, columnspacing=1.2, handlelength=1.0, handleheight=1.0, **place)
