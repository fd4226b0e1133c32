"""Prometheus: what the server itself measures (requests), and what the engine reports of itself, read when it is scraped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.freshness import age_seconds
from engine.views.records import EngineState, Snapshot, StatusRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST


class RequestMetrics:
    """Requests by method, route and status, and their seconds. One registry per app: tests start several in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="saestream_api", registry=self.registry)
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
        self._labelled: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.open = Gauge("saestream_http_requests_open", "Requests under way, event streams included.", registry=self.registry)
        self.uploads = Counter("saestream_uploads_taken", "Uploads acknowledged, without repetitions.", registry=self.registry)
        self.bytes = Counter("saestream_upload_bytes", "Bytes of the uploads acknowledged.", registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request whose answer begins. The labels must be of a limited number: each combination is kept for ever."""
        found = self._labelled.get((method, route, status))
        if found is None:  # looking them up costs as much as counting
            found = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._labelled[method, route, status] = found
        count, took = found
        count.inc()
        took.observe(seconds)

    def taken(self, size: int) -> None:
        """Count an upload of so many bytes that is acknowledged."""
        self.uploads.inc()
        self.bytes.inc(size)


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
        family.add_metric(list(labels.values()), float(value))  # pyright: ignore[reportAttributeAccessIssue]

    def add(self, status: StatusRecord | None, snapshot: Snapshot | None, waiting: Mapping[str, int]) -> None:
        """What the engine has reported and published, and how many requests wait for it and for the analysis worker."""
        for process, count in waiting.items():
            self.gauge("saestream_queue_requests", "Requests that wait for a process to look at them.", count, process=process)
        if snapshot is not None:
            self.gauge("saestream_tokens_visible", "Tokens in the published snapshot.", snapshot.tokens)
            self.gauge("saestream_snapshot_age_seconds", "Since the snapshot was published.", age_seconds(snapshot))
        if status is not None:
            self._report(status, snapshot)

    def _report(self, status: StatusRecord, snapshot: Snapshot | None) -> None:
        now, figures = time.time(), status.figures
        for state in get_args(EngineState):
            self.gauge("saestream_engine_state", "1 for the state that the engine is in.", state == status.state, state=state)
        self.gauge("saestream_engine_report_age_seconds", "Since the engine's last report.", now - status.updated_at)
        self.gauge("saestream_problem", "1 while the engine reports a problem.", status.problem is not None)
        self.gauge("saestream_memory_bytes", "Resident memory of the engine.", status.memory_bytes)
        self.gauge("saestream_tokens_received", "Tokens acknowledged, estimated until tokenised.", figures.tokens_received)
        self.gauge("saestream_tokens_durable", "Tokens sealed in the corpus log.", figures.tokens_durable)
        self.gauge("saestream_tokens_counted", "Tokens counted.", status.tokens)
        self.gauge("saestream_tokens_per_second", "Counting speed.", status.tokens_per_second)
        hidden = status.tokens - (snapshot.tokens if snapshot else 0)
        for stage, behind in (
            ("sealing", figures.tokens_received - figures.tokens_durable),
            ("counting", figures.tokens_waiting),
            ("publishing", max(0, hidden)),
        ):
            self.gauge("saestream_lag_tokens", "Tokens that wait for this stage.", behind, stage=stage)
        if status.caught_up_at:
            behind = "Since the snapshot last held all that had arrived."
            self.gauge("saestream_lag_seconds", behind, now - status.caught_up_at)
        self.gauge("saestream_queue_tokens", "Tokens received and not counted yet, estimated.", status.queue_tokens)
        self.gauge("saestream_queue_uploads", "Uploads not wholly in the log yet.", figures.uploads_waiting)
        self.gauge("saestream_queue_segments", "Sealed segments not wholly counted yet.", figures.segments_waiting)
        self.gauge("saestream_queue_questions", "Prompts and contexts that wait for the encoder.", figures.questions_waiting)
        self.gauge("saestream_replay_tokens_left", "Tokens to count again after a restart.", figures.replay_left)
        self.gauge("saestream_replay_tokens_per_second", "Speed of that, 0 when none are left.", figures.replay_per_second)
        self.gauge("saestream_set_aside_documents", "Documents taken that can't be counted.", figures.set_aside_documents)
        self.gauge("saestream_set_aside_tokens", "Their tokens.", figures.set_aside_tokens)
        self.gauge("saestream_publish_interval_seconds", "From one snapshot to the next, at least.", status.publish_interval)
        if status.checkpoint is not None:
            self.gauge("saestream_checkpoint_age_seconds", "Since the last save.", now - status.checkpoint.saved_at)
            self.gauge("saestream_checkpoint_seconds", "That the last save took.", status.checkpoint.seconds)
            self.gauge("saestream_checkpoint_tokens", "Tokens in the last checkpoint.", status.checkpoint.tokens)
        for layer in status.layers:
            self.gauge("saestream_dead_features", "Features that never fired.", layer.dead, layer=str(layer.layer))

    def collect(self) -> list[Metric]:
        """For prometheus_client."""
        return self._families


def exposition(requests: RequestMetrics, engine: EngineMetrics) -> bytes:
    """Both in the text format."""
    registry: Any = CollectorRegistry()
    registry.register(engine)
    return generate_latest(requests.registry) + generate_latest(registry)
