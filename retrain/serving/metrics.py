"""The door's figures for Prometheus. Labels are bounded: adapters, outcomes, versions that are loaded; no request, no user."""

from collections.abc import Iterator
from typing import Any

from retrain.serving.auto import Auto
from retrain.serving.logs import Logs
from retrain.serving.versions import Versions

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counts what happens; what is true at this moment is asked when somebody looks."""

    def __init__(self, versions: Versions, logs: Logs, auto: Auto) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "retrain_serve_requests", "Requests by what became of them.", ["adapter", "outcome"], registry=self.registry
        )
        self.seconds = Histogram(
            "retrain_serve_request_seconds", "Time of whole answers.", ["adapter"], buckets=SECONDS, registry=self.registry
        )
        self.tokens = Counter("retrain_serve_tokens", "Tokens read and written.", ["adapter", "kind"], registry=self.registry)
        self.feedback = Counter("retrain_serve_feedback", "Feedback by what became of it.", ["outcome"], registry=self.registry)
        self.routed = Counter(
            "retrain_serve_routed", "Requests for auto: where they went, none where nobody is meant.", ["adapter", "route"],
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Now(versions, logs, auto))

    def answered(self, adapter: str, seconds: float, prompt: int, completion: int) -> None:
        self.requests.labels(adapter, "answered").inc()
        self.seconds.labels(adapter).observe(seconds)
        self.tokens.labels(adapter, "prompt").inc(prompt)
        self.tokens.labels(adapter, "completion").inc(completion)

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))


class _Now:
    def __init__(self, versions: Versions, logs: Logs, auto: Auto) -> None:
        self.versions, self.logs, self.auto = versions, logs, auto

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        running, waiting = self.versions.backend.busy()
        plain = {
            "running": ("Answers that are being written.", running),
            "waiting": ("Requests that wait for a place.", waiting),
            "log_failing": ("1 where the request log cannot be written.", float(self.logs.journal.error is not None)),
            "log_rows_lost": ("Rows that no disk took.", self.logs.journal.lost),
            "router_behind": ("1 where another router should serve.", float(self.auto.behind)),
            "ledger_failing": ("1 where the ledger cannot be read.", float(self.versions.ledger_error is not None)),
        }
        for name, (words, value) in plain.items():
            yield GaugeMetricFamily(f"retrain_serve_{name}", words, value=value)
        router = GaugeMetricFamily("retrain_serve_router_info", "The router that serves.", labels=["digest"])
        if self.auto.serves:
            router.add_metric([self.auto.serves.digest[:12]], 1.0)
        yield router
        info = GaugeMetricFamily("retrain_serve_version_info", "The version that answers.", labels=["adapter", "version"])
        behind = GaugeMetricFamily("retrain_serve_behind", "1 where another should serve.", labels=["adapter"])
        weight = GaugeMetricFamily("retrain_serve_rollout_weight", "Of 100, for the challenger.", labels=["adapter", "version"])
        for adapter, standing in self.versions.standings.items():
            if standing.tried:
                weight.add_metric([adapter, str(standing.tried.version.number)], float(standing.tried.line.weight))
            behind.add_metric([adapter], float(standing.behind))
            if standing.serves:
                info.add_metric([adapter, str(standing.serves.number)], 1.0)
        yield weight
        yield info
        yield behind
