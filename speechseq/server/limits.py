"""What a client may ask of the server: every number is a setting with a default and a flag."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from speechseq.errors import UsageError

SLOWEST = 2.0
"""A stream may last so many times as long as the longest audio: who sends slower is cut off."""


def _limit(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """The bounds within which the server works; each is more than 0."""

    body_mb: float = _limit(25.0, "megabytes of one upload")
    total_mb: float = _limit(200.0, "megabytes of all uploads and their samples held at once")
    audio_seconds: float = _limit(600.0, "seconds of audio in one upload")
    requests: int = _limit(64, "uploads worked on at once")
    queue: int = _limit(256, "uploads that may wait for their turn")
    wait_seconds: float = _limit(30.0, "longest wait for a turn")
    header_seconds: float = _limit(10.0, "time for a connection to send a request's headers")
    body_seconds: float = _limit(30.0, "time to send a whole body, or to take a part of an answer")
    answer_seconds: float = _limit(120.0, "longest wait for a recognition")
    streams: int = _limit(32, "WebSocket streams at once")
    stream_seconds: float = _limit(60.0, "seconds of audio in one stream")
    idle_seconds: float = _limit(15.0, "longest silence of a stream's sender")
    message_kb: float = _limit(256.0, "kilobytes of one WebSocket message")
    grace_seconds: float = _limit(30.0, "time to finish what runs, once told to stop")
    batch: int = _limit(16, "clips recognised together")
    window_ms: float = _limit(4.0, "milliseconds a clip waits for others that are on their way")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{flag(each.name)}: {value:g}; more than 0 goes here")

    @property
    def body_bytes(self) -> int:
        """Bytes of one upload."""
        return round(self.body_mb * 1e6)

    @property
    def stream_lifetime(self) -> float:
        """Seconds that a stream, or one utterance of a connection, may take in all."""
        return SLOWEST * self.stream_seconds + self.answer_seconds

    @property
    def total_bytes(self) -> int:
        """Bytes of all uploads and their samples held at once."""
        return round(self.total_mb * 1e6)

    @property
    def message_bytes(self) -> int:
        """Bytes of one WebSocket message."""
        return round(self.message_kb * 1e3)


def flag(name: str) -> str:
    """Return how a setting is called on the command line, without its dashes."""
    return name.replace("_", "-")
