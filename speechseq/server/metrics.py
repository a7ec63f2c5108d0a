"""What the server counts, for Prometheus."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from speechseq.server.counters import FOLDER

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
FRESH_SECONDS = 1.0
"""How old a process' moment may be when another one tells of it."""


class Metrics:
    """The counters of one server, in a registry of their own.

    Of several processes (see `processes`) each one's page tells of all.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._is_shared = FOLDER in os.environ
        self.requests = Counter(
            "speechseq_requests",
            "Requests by path and status",
            ("path", "status"),
            registry=registry,
        )
        self.audio_seconds = Counter(
            "speechseq_audio_seconds", "Seconds of audio recognised", registry=registry
        )
        self.latency = Histogram(
            "speechseq_transcription_seconds",
            "Seconds from a transcription's headers to its answer",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "speechseq_batch_size", "Clips recognised together", buckets=SIZES, registry=registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that is asked when the page is."""
        gauge = Gauge(
            f"speechseq_{name}", meaning, registry=self._registry, multiprocess_mode="livesum"
        )
        self._watched.append((gauge, value))

    def page(self) -> bytes:
        """Return all that was counted, as text."""
        self._ask()
        registry = self._registry
        if self._is_shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    async def keep_fresh(self) -> None:
        """Write the gauges down for the other processes' pages, if there are any, for ever."""
        while self._is_shared:
            self._ask()
            await asyncio.sleep(FRESH_SECONDS)

    def _ask(self) -> None:
        for gauge, value in self._watched:
            gauge.set(value())
