"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
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
        Gauge(f"speechseq_{name}", meaning, registry=self._registry).set_function(value)

    def page(self) -> bytes:
        """Return all that was counted, as text."""
        return generate_latest(self._registry)
