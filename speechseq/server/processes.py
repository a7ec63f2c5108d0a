"""Several processes at one address: the system spreads connections over them.

Each has its own listening socket on the same port, its own models and limits; no interpreter's lock
is between them. The process that starts them serves nobody: it starts anew what ends, passes on
that all are to stop, and where it is gone itself, the others finish and end.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from speechseq.errors import SpeechseqError
from speechseq.server.counters import count_alone, forget_process, share_counters
from speechseq.server.listening import listen

REST_SECONDS = 1.0
"""Between the end of a process and the start of the next, so that a broken one costs little."""

STOPPING = (signal.SIGTERM, signal.SIGINT)


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Open so many listening sockets at one address; port 0 takes a free one.

    Raises:
        SpeechseqError: they cannot be opened, or somebody else listens there.
    """
    first = listen(host, port)  # not shared: that would join whoever has the port
    if count > 1:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port = first.getsockname()[1]
    return [first, *(listen(host, port, shared=True) for _ in range(count - 1))]


@dataclass(frozen=True)
class Place:
    """Where a process serves, and how it tells that it can; `watched` ends when nobody watches."""

    listener: socket.socket
    ready: Callable[[], None]
    watched: int | None = None


def spread(
    listeners: Sequence[socket.socket], ready: Callable[[], None], note: Callable[[str], None]
) -> Place | int:
    """Go on in a new process for each listener, or in this one if there is one alone.

    Here it calls `ready` once all of them are, and returns an exit code once they have ended: 0 if
    they were told to, or that of one which could not start.

    Raises:
        SpeechseqError: there is no place for what they count, or one was ended as it started.
        KeyboardInterrupt: they were interrupted.
    """
    if len(listeners) == 1:
        count_alone()
        return Place(listeners[0], ready)
    return _Watch(listeners, note).place(ready)


class _Watch:
    """Processes, by their numbers, and the sockets they listen at."""

    def __init__(self, listeners: Sequence[socket.socket], note: Callable[[str], None]):
        self._listeners = listeners
        self._note = note
        self._running: dict[int, socket.socket] = {}
        self._told: list[int] = []
        self._failed: int | None = None
        self._counters = share_counters()
        # Nothing is ever written: this process alone holds the other end, as long as it lives.
        self._watched, self._watching = os.pipe()
        for number in STOPPING:
            signal.signal(number, self._stop)
        # Ignored, as some start their services, it would keep the processes' ends a secret.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def place(self, ready: Callable[[], None]) -> Place | int:
        """Start the processes and look after them; as `spread`."""
        # The first one by itself: what is wrong with a model is said once.
        for some in (self._listeners[:1], self._listeners[1:]):
            if place := self._start(some):
                return place
        if not self._told:
            ready()
        while self._running:
            listener, status = self._next_end()
            if self._told:
                continue
            self._note(f"a process has ended ({_end_of(status)}); starting another")
            time.sleep(REST_SECONDS)
            if place := self._start([listener]):
                return place
        if signal.SIGINT in self._told:
            raise KeyboardInterrupt
        return 0 if self._failed is None else self._code_of(self._failed)

    def _start(self, listeners: Sequence[socket.socket]) -> Place | None:
        """Start a process for each listener; return None here, once they are ready.

        If one could not start, all are told to stop.
        """
        starting: dict[int, int] = {}
        # Who is told to stop starts none, and tells all that it has started.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        for listener in () if self._told else listeners:
            reading, writing = os.pipe()
            number = os.fork()
            if not number:
                for pipe in (reading, *starting.values()):
                    os.close(pipe)
                return self._begin(listener, writing)
            self._running[number] = listener
            os.close(writing)
            starting[number] = reading
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        failed = [number for number, reading in starting.items() if not _is_ready(reading)]
        if failed and not self._told:
            _, self._failed = os.waitpid(failed[0], 0)
            self._forget(failed[0])
            self._stop(signal.SIGTERM)
        return None

    def _begin(self, listener: socket.socket, writing: int) -> Place:
        """Be one of the processes."""
        os.close(self._watching)
        for other in self._listeners:
            if other is not listener:
                other.close()
        # Of a terminal's keys the one that watches hears, and tells the others.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

        def ready() -> None:
            os.write(writing, b".")
            os.close(writing)

        return Place(listener, ready, self._watched)

    def _stop(self, number: int, _: Any = None) -> None:
        """Tell all to finish; whoever is told by the keyboard again does not wait for what runs."""
        passed_on = number if self._told else signal.SIGTERM
        self._told.append(number)
        for listener in self._listeners:
            listener.close()  # else clients would wait in line for nobody
        for process in self._running:
            with suppress(ProcessLookupError):
                os.kill(process, passed_on)

    def _code_of(self, status: int) -> int:
        """Return the exit code of one that could not start, and has told why.

        Raises:
            SpeechseqError: it could not tell, as a signal ended it.
        """
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise SpeechseqError(
                f"--processes: one ended as it started (signal {-code}); see that there is "
                f"memory for so many, and room in {self._counters.parent}"
            )
        return max(code, 1)

    def _next_end(self) -> tuple[socket.socket, int]:
        """Wait until one of the processes has ended; return its listener and status."""
        number, status = os.waitpid(-1, 0)
        while number not in self._running:  # a container's first process has orphans to bury, too
            number, status = os.waitpid(-1, 0)
        return self._forget(number), status

    def _forget(self, number: int) -> socket.socket:
        """Forget a process that has ended, and what it told of the moment."""
        forget_process(self._counters, number)
        return self._running.pop(number)


def _is_ready(reading: int) -> bool:
    """Wait until a process is ready, or has ended without."""
    with open(reading, "rb") as pipe:
        return bool(pipe.read(1))


def _end_of(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
