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


class Lane:
    """Clips that wait, and the thread that recognises them."""

    def __init__(self, name: str):
        self.waiting: list[Clip] = []
        self.arrived = asyncio.Event()
        self.worker = ThreadPoolExecutor(1, name)


class Batcher:
    """Gathers clips into batches; `coming` says how many clips are here or on their way.

    Long clips have a lane of their own: short ones do not wait for them.
    """

    def __init__(
        self, limits: Limits, *, coming: Callable[[], int], on_batch: Callable[[int], None]
    ):
        self._short, self._long = Lane("recognise"), Lane("recognise long")
        self._limits = limits
        self._coming = coming
        self._on_batch = on_batch
        self._long_ones = 0  # in the long lane, waiting or at work

    @property
    def waiting(self) -> int:
        """Number of clips that wait."""
        return len(self._short.waiting) + len(self._long.waiting)

    async def recognise(self, recogniser: Recogniser, samples: np.ndarray) -> Recognition:
        """Recognise samples (samples,) at the recogniser's rate, together with what else waits."""
        clip = Clip(recogniser, samples, asyncio.get_running_loop().create_future())
        is_long = _seconds([clip]) > BATCH_SECONDS
        lane = self._long if is_long else self._short
        self._long_ones += is_long
        lane.waiting.append(clip)
        lane.arrived.set()
        try:
            return await clip.found
        finally:
            self._long_ones -= is_long
            if clip in lane.waiting:  # nobody waits for it any more
                lane.waiting.remove(clip)

    async def run(self) -> None:
        """Recognise what waits, batch after batch, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in (self._short, self._long):
                group.create_task(self._serve(lane))

    def close(self) -> None:
        """Wait for the batches that run, and end the threads."""
        for lane in (self._short, self._long):
            lane.worker.shutdown()

    async def _serve(self, lane: Lane) -> None:
        while True:
            await lane.arrived.wait()
            lane.arrived.clear()
            if lane is self._short:
                await self._linger()
            while batch := take_batch(lane.waiting, self._limits.batch):
                self._on_batch(len(batch))
                await self._recognise(batch, lane.worker)

    async def _linger(self) -> None:
        """Give those a moment that are on their way, if there are any."""
        coming = self._coming() - self._long_ones
        if len(self._short.waiting) < min(self._limits.batch, coming):
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
