"""Clips that wait are recognised together: a thread runs the network, not the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from speechseq.recogniser import BATCH_SECONDS, Recogniser
from speechseq.recognition import Recognition
from speechseq.server.limits import Limits

LIKE = 0.75
"""Clips go together that are at least so long, measured by the longer one: the rest is padding."""


@dataclass(eq=False)
class Clip:
    """Samples (samples,) that wait for a recogniser, and where their recognition goes."""

    recogniser: Recogniser
    samples: np.ndarray
    found: asyncio.Future[Recognition] = field(repr=False)


class Batcher:
    """Gathers clips into batches; `coming` says how many clips are here or on their way."""

    def __init__(
        self, limits: Limits, *, coming: Callable[[], int], on_batch: Callable[[int], None]
    ):
        self.waiting: list[Clip] = []
        self._limits = limits
        self._coming = coming
        self._on_batch = on_batch
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "recognise")
        self._long = ThreadPoolExecutor(1, "recognise long")
        self._running: set[asyncio.Task[None]] = set()

    async def recognise(self, recogniser: Recogniser, samples: np.ndarray) -> Recognition:
        """Recognise samples (samples,) at the recogniser's rate, together with what else waits."""
        clip = Clip(recogniser, samples, asyncio.get_running_loop().create_future())
        self.waiting.append(clip)
        self._arrived.set()
        try:
            return await clip.found
        finally:
            if clip in self.waiting:  # nobody waits for it any more
                self.waiting.remove(clip)

    async def run(self) -> None:
        """Recognise what waits, batch after batch, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._linger()
            while batch := take_batch(self.waiting, self._limits.batch):
                self._on_batch(len(batch))
                if _seconds(batch) > BATCH_SECONDS:
                    # Short clips do not wait for a long one.
                    task = asyncio.create_task(self._recognise(batch, self._long))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                else:
                    await self._recognise(batch, self._worker)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._worker.shutdown()
        self._long.shutdown()

    async def _linger(self) -> None:
        """Give those a moment that are on their way, if there are any."""
        if len(self.waiting) < min(self._limits.batch, self._coming()):
            await asyncio.sleep(self._limits.window_ms / 1000)

    async def _recognise(self, batch: Sequence[Clip], worker: ThreadPoolExecutor) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                worker, recognise_together, batch
            )
        except Exception as error:  # whatever it is, it is the clips' and must not end the loop
            await self._recognise_failed(batch, error, worker)
            return
        for clip, recognition in zip(batch, found, strict=True):
            if not clip.found.done():
                clip.found.set_result(recognition)

    async def _recognise_failed(
        self, batch: Sequence[Clip], error: Exception, worker: ThreadPoolExecutor
    ) -> None:
        """Try the clips of a failed batch alone, so that one does not spoil the others."""
        if len(batch) > 1:
            for clip in batch:
                await self._recognise([clip], worker)
        elif not batch[0].found.done():
            batch[0].found.set_exception(error)


def recognise_together(batch: Sequence[Clip]) -> list[Recognition]:
    """Recognise the clips of one recogniser; one that is alone may be of any length."""
    recogniser = batch[0].recogniser
    if len(batch) == 1:
        return [recogniser.transcribe(batch[0].samples)]
    return recogniser.transcribe_batch([clip.samples for clip in batch])


def take_batch(waiting: list[Clip], most: int) -> list[Clip]:
    """Take the oldest clip, and those of its recogniser whose lengths are nearest, off the list."""
    if not waiting:
        return []
    oldest = waiting[0]
    size = len(oldest.samples)
    near = sorted(
        (clip for clip in waiting[1:] if clip.recogniser is oldest.recogniser),
        key=lambda clip: abs(len(clip.samples) - size),
    )
    batch = [oldest]
    for clip in near[: most - 1]:
        if not _fits([*batch, clip]):
            break
        batch.append(clip)
    taken = set(map(id, batch))
    waiting[:] = [clip for clip in waiting if id(clip) not in taken]
    return batch


def _fits(batch: Sequence[Clip]) -> bool:
    sizes = [len(clip.samples) for clip in batch]
    return min(sizes) >= LIKE * max(sizes) and _seconds(batch) <= BATCH_SECONDS


def _seconds(batch: Sequence[Clip]) -> float:
    """Return how much audio a batch is, padding included."""
    return len(batch) * max(len(clip.samples) for clip in batch) / batch[0].recogniser.rate
