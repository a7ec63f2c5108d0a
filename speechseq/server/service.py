"""What all requests share: models, places, the batcher, counters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from speechseq.errors import UsageError
from speechseq.padding import pad
from speechseq.recogniser import Recogniser
from speechseq.recognition import Recognition
from speechseq.server.batching import Batcher
from speechseq.server.gate import Gate, Store
from speechseq.server.limits import Limits
from speechseq.server.metrics import Metrics
from speechseq.server.refusal import Refusal
from speechseq.server.sound import PCM_BYTES, STREAM_RATES

FIRST = ("", "whisper-1")
"""What clients call a model who know none by name: the first one is meant."""

READERS = 2
"""Threads that read forms and audio; libsndfile and soxr work beside each other."""

Result = TypeVar("Result")


class Service:
    """One server's parts; `recognisers` by name, the first one by default.

    `model_files` are the ONNX files of those that are given away. Some take nothing but streams.

    Raises:
        UsageError: the largest upload or stream allowed would not fit into the memory for all.
    """

    def __init__(
        self,
        recognisers: Mapping[str, Recogniser],
        limits: Limits,
        model_files: Mapping[str, Path] | None = None,
        *,
        takes_uploads: bool = True,
    ):
        _check_memory(recognisers, limits, takes_uploads)
        self.recognisers = recognisers
        self.model_files = model_files or {}
        self._opened = {name: _state_of(path) for name, path in self.model_files.items()}
        self.limits = limits
        self.metrics = Metrics()
        self.uploads = Gate(limits.requests, limits.queue, limits.wait_seconds)
        self.streams = Gate(limits.streams, 0)
        self.store = Store(limits.total_bytes)
        self.batcher = Batcher(
            limits,
            coming=lambda: self._coming,
            on_batch=self.metrics.batch_size.observe,
        )
        self._coming = 0
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._batching: asyncio.Task[None] | None = None
        self._watch()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recognise while this lasts."""
        self._batching = asyncio.create_task(self.batcher.run())
        telling = asyncio.create_task(self.metrics.keep_fresh())
        try:
            yield
        finally:
            for task in (self._batching, telling):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self.batcher.close()
            self._readers.shutdown()

    @contextmanager
    def clip_coming(self) -> Iterator[None]:
        """Tell the batcher, while this lasts, of a clip that is here or on its way."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    @property
    def is_well(self) -> bool:
        """Whether clips are being recognised."""
        return self._batching is not None and not self._batching.done()

    def model(self, name: str) -> Recogniser:
        """Return the recogniser that a request calls by name.

        Raises:
            Refusal: there is none (404).
        """
        return self.recognisers[self.name_of(name)]

    def name_of(self, name: str) -> str:
        """Return the own name of a model that a request calls by name.

        Raises:
            Refusal: there is none (404).
        """
        if name in self.recognisers:
            return name
        if name in FIRST:
            return next(iter(self.recognisers))
        known = ", ".join(self.recognisers)
        message = f"model: no {name[:80]!r} here; choose from {known}"
        raise Refusal(404, message, code="model_not_found", param="model")

    def model_file(self, name: str) -> Path:
        """Return the file of a model that is given away, as it was when the server started.

        Raises:
            Refusal: there is none (404), or another one by now (409), which would be read with
                this one's vocabulary.
        """
        if name not in self.model_files:
            known = ", ".join(self.model_files) or "none"
            message = f"model: no such file here; there are {known}"
            raise Refusal(404, message, code="model_not_found", param="model")
        path = self.model_files[name]
        if _state_of(path) != self._opened[name]:
            message = f"model: the file of {name} has changed; start the server again"
            raise Refusal(409, message, code="model_changed", param="model")
        return path

    async def read(self, work: Callable[[], Result]) -> Result:
        """Run what takes time in one of the reading threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def recognise(self, recogniser: Recogniser, samples: np.ndarray) -> Recognition:
        """Recognise samples (samples,) at the recogniser's rate.

        Raises:
            Refusal: it took too long (503).
        """
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                return await self.batcher.recognise(recogniser, samples)
        except TimeoutError:
            raise _too_busy() from None

    async def log_probs(self, recogniser: Recogniser, samples: np.ndarray) -> np.ndarray:
        """Return the log-probabilities (frames, tokens) of samples (samples,) at its rate.

        Raises:
            Refusal: it took too long (503).
        """
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                found, _ = await self.read(lambda: recogniser.network(*pad([samples])))
        except TimeoutError:
            raise _too_busy() from None
        return found[0]

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("queue_length", "Clips that wait to be recognised", lambda: self.batcher.waiting)
        watch("waiting_uploads", "Uploads that wait for a place", lambda: self.uploads.waiting)
        watch("uploads", "Uploads that are worked on", lambda: self.uploads.inside)
        watch("streams", "Open streams", lambda: self.streams.inside)
        watch("held_bytes", "Bytes of uploads and samples", lambda: self.store.held)


def _state_of(path: Path) -> tuple[int, int] | None:
    """Return when a file was written and how large it is; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _too_busy() -> Refusal:
    return Refusal(503, "server: too busy to answer; try again", code="busy")


def _check_memory(
    recognisers: Mapping[str, Recogniser], limits: Limits, takes_uploads: bool
) -> None:
    rate = max(recogniser.rate for recogniser in recognisers.values())
    a_second = rate * np.dtype(np.float32).itemsize
    stream = limits.stream_seconds * (STREAM_RATES[1] * PCM_BYTES + a_second)
    largest = [("stream", stream, "--stream-seconds")]
    if takes_uploads:
        upload = max(limits.body_bytes, limits.audio_seconds * a_second)
        largest.append(("upload", upload, "--body-mb or --audio-seconds"))
    for what, most, flags in largest:
        if most > limits.total_bytes:
            raise UsageError(
                f"--total-mb {limits.total_mb:g}: one {what} may take {most / 1e6:g}; raise it, "
                f"or lower {flags}"
            )


def warm(recognisers: Mapping[str, Recogniser]) -> None:
    """Recognise a second of silence with each, so that the first request is as quick as others.

    Raises:
        ModelError: one cannot be run.
    """
    for recogniser in recognisers.values():
        recogniser.transcribe_batch([np.zeros(recogniser.rate, np.float32)])
