"""What Prometheus is told, at `/metrics`."""

from __future__ import annotations

import time
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dsd.generate.engine import Engine

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
RECENT_SECONDS = 60.0


class Metrics:
    """Counters of one server, and the pace at which it draws."""

    def __init__(self, engine: Engine) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            "dsd_requests", "Requests that were answered.", ["route", "method", "status"], registry=own
        )
        self.request_seconds = Histogram(
            "dsd_request_seconds", "From a request's head to the end of its answer.", ["route"], buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        self.pictures = Counter("dsd_pictures", "Pictures that were drawn.", registry=own)
        self.picture_seconds = Histogram(
            "dsd_picture_seconds", "From a picture's order to its end, waiting included.", buckets=SECONDS, registry=own
        )
        self.dropped = Counter("dsd_dropped_pictures", "Pictures whose client left before the end.", registry=own)
        self.batch = Histogram(
            "dsd_batch_size", "Pictures that were drawn at once, at each step of each.", registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        waiting = Gauge("dsd_waiting_pictures", "Pictures that wait to be drawn.", registry=own)
        waiting.set_function(lambda: engine.waiting)
        running = Gauge("dsd_running_pictures", "Pictures that are being drawn.", registry=own)
        running.set_function(lambda: engine.running)
        self._finished: deque[float] = deque(maxlen=256)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def finished(self, seconds: float) -> None:
        """Counts a picture, drawn so many seconds after it was ordered."""
        self.pictures.inc()
        self.picture_seconds.observe(seconds)
        self._finished.append(time.monotonic())

    def seconds_for(self, pictures: int) -> float:
        """How long so many pictures will take, by those of the last minute; 5 where there were none."""
        now = time.monotonic()
        recent = [at for at in self._finished if now - at < RECENT_SECONDS]
        if len(recent) < 2:
            return 5.0
        return min(600.0, max(1.0, pictures * (now - recent[0]) / len(recent)))
