"""Prometheus: what the server itself measures (requests), and what the engine reports of itself, read when it is scraped."""

from __future__ import annotations

import time
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST


class RequestMetrics:
    """Requests by method, route and status, and their seconds. One registry per app: tests start several in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("saestream_http_requests", "Requests answered.", labels, registry=self.registry)
        # 1 ms is a read of one record, 60 s an upload that waits until it is visible.
        self.seconds = Histogram(
            "saestream_http_request_seconds",
            "Time from the request to the first byte of its answer.",
            ("method", "route"),
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Count every request when its answer begins (an event stream has no end)."""

        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = time.perf_counter()

            async def counting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = scope.get("path_template") or "unknown"  # never the address itself: a label per address would never end
                    self.answered(scope["method"], route, message["status"], time.perf_counter() - began)
                await send(message)

            await app(scope, receive, counting)

        return measured


class EngineMetrics:
    """The engine's figures of one scrape: a figure that can't be had is missing, instead of keeping its last value."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def gauge(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Add one value of one gauge; None adds nothing."""
        if value is None:
            return
        family = next((family for family in self._families if family.name == name), None)
        if family is None:
            family = GaugeMetricFamily(name, text, labels=list(labels))
            self._families.append(family)
        family.add_metric(list(labels.values()), value)  # pyright: ignore[reportAttributeAccessIssue]

    def collect(self) -> list[Metric]:
        """For prometheus_client."""
        return self._families


def exposition(requests: RequestMetrics, engine: EngineMetrics) -> bytes:
    """Both in the text format."""
    registry: Any = CollectorRegistry()
    registry.register(engine)
    return generate_latest(requests.registry) + generate_latest(registry)
