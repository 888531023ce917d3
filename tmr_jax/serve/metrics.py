"""What /metrics tells Prometheus; a registry of its own, so that two services in one process do."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import Scope

from tmr_jax.index.schema import DESCRIPTIONS, MOLECULES
from tmr_jax.serve.engine import Answering

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of requests, and gauges that look at the service when they are asked."""

    def __init__(self, answering: Answering) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ("route", "status")
        self._requests = Counter("tmr_requests", "Requests answered", labels, registry=registry)
        self._seconds = Histogram(
            "tmr_request_seconds",
            "Time to the answer",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        waiting = Gauge("tmr_waiting", "Items that wait in a lane", ("lane",), registry=registry)
        restarts = Gauge(
            "tmr_thread_restarts",
            "Threads that died and were begun again",
            ("lane",),
            registry=registry,
        )
        for lane in answering.lanes:
            waiting.labels(lane.name).set_function(lambda lane=lane: lane.waiting)
            restarts.labels(lane.name).set_function(lambda lane=lane: lane.restarts)
        for name, about, value in (
            (MOLECULES, "Molecules of the library", lambda: _count(answering, MOLECULES)),
            (DESCRIPTIONS, "Descriptions, where the library is of those",
             lambda: _count(answering, DESCRIPTIONS)),
            ("partial", "1 where a part of the library cannot be read", lambda: answering.partial),
            ("reloads", "Times the library was opened anew", lambda: answering.reloads),
            ("queries_encoded", "Queries the model read", lambda: answering.encoded),
            ("queries_remembered", "Queries answered by a kept vector",
             lambda: answering.remembered),
        ):  # fmt: skip
            Gauge(f"tmr_{name}", about, registry=registry).set_function(value)

    def seen(self, scope: Scope, status: int, seconds: float) -> None:
        """A request is over. Addresses that no route has count together."""
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _count(answering: Answering, of: str) -> int:
    library = answering.retriever.library
    return 0 if library is None or library.of != of else library.kept
