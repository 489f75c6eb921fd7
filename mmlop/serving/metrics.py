"""What Prometheus is told. Labels have few values: routes, status codes and outcomes, never the name of an adapter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmlop.prediction_log import PredictionLog
from mmlop.serving.limits import Room
from mmlop.serving.shelf import Shelf

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)
OTHER = "other"  # the route of a path that there is none for


class Metrics:
    """Numbers of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("mmlop_requests", "Answers by route and status code", ["route", "code"], registry=own)
        self.seconds = Histogram("mmlop_request_seconds", "From head to answer", ["route"], buckets=SECONDS, registry=own)
        self.batches = Histogram("mmlop_batch_pictures", "Pictures computed together", buckets=PICTURES, registry=own)
        self.batch_seconds = Histogram("mmlop_batch_seconds", "Duration of a batch", buckets=SECONDS, registry=own)
        self.pictures = Counter("mmlop_pictures", "Pictures by what became of them", ["outcome"], registry=own)

    def batch(self, count: int, seconds: float) -> None:
        self.batches.observe(count)
        self.batch_seconds.observe(seconds)


class Kept(Collector):
    """Numbers that others keep, asked for when they are shown."""

    def __init__(self, room: Room, shelf: Shelf, log: PredictionLog | None) -> None:
        self._room, self._shelf, self._log = room, shelf, log

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("mmlop_queue", "Pictures let in and not answered yet", value=self._room.pictures)
        yield GaugeMetricFamily("mmlop_bodies_bytes", "What they came in", value=self._room.bytes)
        shelf = self._shelf.stats()
        yield GaugeMetricFamily("mmlop_adapters_held", "Adapters in memory", value=shelf.held)
        yield GaugeMetricFamily("mmlop_adapters_held_bytes", "Factors of the adapters in memory", value=shelf.bytes)
        yield CounterMetricFamily("mmlop_adapter_hits", "Adapters asked for that were in memory", value=shelf.hits)
        yield CounterMetricFamily("mmlop_adapter_loads", "Adapters loaded", value=shelf.loads)
        yield CounterMetricFamily("mmlop_adapter_evictions", "Adapters given up for others", value=shelf.evictions)
        if self._log is not None:
            yield CounterMetricFamily("mmlop_not_logged", "Predictions that the log dropped", value=self._log.dropped)


class Watch:
    """Middleware: counts and times every answer, and gives it the headers that it has not."""

    def __init__(self, app: ASGIApp, metrics: Metrics, headers: Mapping[str, str]) -> None:
        self._app, self._metrics = app, metrics
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, code = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in self._headers if pair[0] not in own)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", OTHER)
            self._metrics.requests.labels(route, str(code)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
