"""Who may come in: so many at once, so many waiting, and so many bytes held by all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from speechseq.server.refusal import Refusal


class Gate:
    """Lets `places` in at once and `queue` more wait, first come, first served."""

    def __init__(self, places: int, queue: int, wait_seconds: float = 0.0):
        self.waiting = 0
        self.inside = 0
        self._queue = queue
        self._wait_seconds = wait_seconds
        self._places = asyncio.Semaphore(places)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place, once there is one.

        Raises:
            Refusal: the queue is full (429), or no place came free in time (503).
        """
        await self._enter()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._places.release()

    def check(self) -> None:
        """See that there is a place, or one to wait in.

        Raises:
            Refusal: there is none (429).
        """
        if self._places.locked() and self.waiting >= self._queue:
            raise Refusal(429, "server: too many requests at once; try again soon", code="busy")

    async def _enter(self) -> None:
        self.check()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds or None):
                await self._places.acquire()
        except TimeoutError:
            raise Refusal(503, "server: no place came free; try again later", code="busy") from None
        finally:
            self.waiting -= 1


class Store:
    """Counts the bytes that all requests hold together."""

    def __init__(self, total_bytes: int):
        self.held = 0
        self._total = total_bytes

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes room for so many bytes, or gives some back (fewer than 0).

        All of it is free again afterwards.

        Raises:
            Refusal: there is not so much room (503).
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self.held + size > self._total:
                raise Refusal(503, "server: its memory for uploads is full; try again", code="busy")
            self.held += size
            taken += size

        try:
            yield take
        finally:
            self.held -= taken
