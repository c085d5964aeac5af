"""The newest window of an adapter as a text file for Prometheus: valid OpenMetrics, and what node_exporter's textfile
collector reads too (it knows no `info` type and no client timestamps, so there are neither)."""

from collections.abc import Iterator
from typing import Any

from monitoring.chronicle import Chronicle


def text(chronicle: Chronicle) -> str:
    """No request or user in any label: an adapter, a column, a version, a result."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(chronicle))
    return bytes(generate_latest(registry)).decode("utf-8")


class _Collector:
    def __init__(self, chronicle: Chronicle) -> None:
        self.chronicle = chronicle

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        adapter = self.chronicle.adapter
        for name, words, value in _figures(self.chronicle):
            if value is not None:
                gauge = GaugeMetricFamily(f"retrain_{name}", words, labels=["adapter"])
                gauge.add_metric([adapter], float(value))
                yield gauge
        newest = self.chronicle.windows[-1] if self.chronicle.windows else None
        for name, words, field in (
            ("distance", "Distance of a column in the newest window from the champion's own traffic.", "value"),
            ("threshold", "Distance above which that column drifts.", "threshold"),
        ):
            gauge = GaugeMetricFamily(f"retrain_drift_{name}_ratio", words, labels=["adapter", "column"])
            for column in newest.columns if newest else ():
                if getattr(column, field) is not None:
                    gauge.add_metric([adapter, column.name], float(getattr(column, field)))
            yield gauge
        champion = GaugeMetricFamily("retrain_champion_info", "The version that serves.", labels=["adapter", "version"])
        if self.chronicle.champion:
            champion.add_metric([adapter, str(self.chronicle.champion.version)], 1.0)
        yield champion
        words = "What became of candidates and champions."
        moves = CounterMetricFamily("retrain_promotions", words, labels=["adapter", "result"])
        for result, n in self.chronicle.results.items():
            moves.add_metric([adapter, result], n)
        yield moves


def _figures(chronicle: Chronicle) -> Iterator[tuple[str, str, float | None]]:
    """Of the newest window; None is left out, so that "not known" is absent and never 0."""
    if not chronicle.windows:
        return
    newest = chronicle.windows[-1]
    low, high = newest.interval if newest.interval and newest.accuracy is not None else (None, None)
    yield "last_window_timestamp_seconds", "End of the newest measured window.", newest.end.timestamp()
    yield "window_rows", "Messages in the newest window.", newest.record["rows"]
    yield "window_accuracy_ratio", "Right answers on the audit sample of the newest window.", newest.accuracy
    yield "window_accuracy_low_ratio", "Low end of the interval of the accuracy.", low
    yield "window_accuracy_high_ratio", "High end of the interval of the accuracy.", high
    judged = (newest.record.get("judge") or {}).get("share")
    yield "window_judge_ratio", "Right answers as the LLM judge sees them, corrected by labelled ones.", judged
    yield "window_satisfaction_ratio", "Good feedback among all feedback of the newest window.", newest.satisfaction
    yield "window_violations", "What was wrong with the newest window.", len(newest.record["violations"])
    yield "window_fire", "1 where the newest window opened a retraining.", float(newest.record["fire"])
