"""The values of /metrics, for Prometheus."""

from __future__ import annotations

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import Scope

from tmr_jax.index.schema import DESCRIPTIONS, MOLECULES
from tmr_jax.serve.engine import SearchEngine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # of the buckets


class Metrics:
    """Counters of requests, and gauges that read the engine when asked."""

    def __init__(self, engine: SearchEngine) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        labels = ("route", "status")
        self._requests = Counter("tmr_requests", "Requests answered", labels, registry=registry)
        self._seconds = Histogram(
            "tmr_request_seconds",
            "Time to the response",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        waiting = Gauge("tmr_waiting", "Items in a queue", ("lane",), registry=registry)
        restarts = Gauge("tmr_thread_restarts", "Threads restarted", ("lane",), registry=registry)
        for batcher in engine.batchers:
            waiting.labels(batcher.name).set_function(lambda batcher=batcher: batcher.waiting)
            restarts.labels(batcher.name).set_function(lambda batcher=batcher: batcher.restarts)
        for name, about, value in (
            (MOLECULES, "Molecules of the library", lambda: _count(engine, MOLECULES)),
            (DESCRIPTIONS, "Descriptions of the library", lambda: _count(engine, DESCRIPTIONS)),
            ("partial", "1 if a part of the library cannot be read", lambda: engine.partial),
            ("reloads", "Times the library was reopened", lambda: engine.reloads),
            ("queries_encoded", "Queries encoded", lambda: engine.encoded),
            ("queries_remembered", "Queries found in the cache", lambda: engine.remembered),
        ):
            Gauge(f"tmr_{name}", about, registry=registry).set_function(value)

    def on_response(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts a request; addresses without a route count together."""
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)


def _count(engine: SearchEngine, of: str) -> int:
    return engine.library.kept if engine.library.of == of else 0
