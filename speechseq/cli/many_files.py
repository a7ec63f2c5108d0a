"""Many audio files to text on all cores: chunks of them, batched by length, in the order given."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.pipe import STDIN, standard_input
from speechseq.cli.terminal import open_recogniser
from speechseq.errors import SpeechseqError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

    from speechseq.recogniser import Recogniser
    from speechseq.recognition import Recognition
    from speechseq.sound_files import Source

    Answer = Recognition | SpeechseqError
    Work = Callable[[list[str]], list[Answer]]

FILE_BYTES = 20_000
"""A file takes at least the time of so many bytes (of 16-bit samples at 16 kHz)."""

CHUNK_BYTES = 64 * FILE_BYTES
"""What a process takes at a time, sorts by length and batches."""

SHARED_BYTES = 300 * FILE_BYTES
"""Less than this, half a second's work, is done before other processes have started."""

CHUNKS_AHEAD = 16
"""Chunks for each process that may be done before it is their turn."""


@dataclass(frozen=True)
class Opening:
    """What another process needs to know to open a recogniser, and how to use it."""

    model: str | None = None
    device: str = "auto"
    decoder: str | None = None
    least_confidence: float | None = None
    skip_silence: bool = False

    def __call__(self) -> Recogniser:
        """Open it."""
        return open_recogniser(self.model, self.device, self.decoder, self.least_confidence)


def transcribe_files(
    inputs: Sequence[str], recogniser: Recogniser, opening: Opening, jobs: int
) -> Iterator[tuple[str, Answer]]:
    """Yield each input with its recognition or error, in order; up to `jobs` processes work.

    This process is one of them, so nothing waits for the others to start. They are processes and
    not threads, as reading and decoding, almost half of the work, hold Python's lock.

    Raises:
        SpeechseqError: another process ended on its own.
    """
    work = functools.partial(_work, recogniser, opening.skip_silence)
    chunks = list(_chunks(inputs))
    jobs = min(jobs, len(chunks))
    if jobs == 1 or sum(map(_weight, inputs)) < SHARED_BYTES:
        for chunk in chunks:
            yield from zip(chunk, work(chunk), strict=True)
        return
    with _processes(jobs - 1) as pool:
        for task in _in_turn(_tasks(chunks, opening, pool), work, CHUNKS_AHEAD * jobs):
            yield from zip(task.chunk, task.answers(), strict=True)


def _chunks(inputs: Iterable[str]) -> Iterator[list[str]]:
    """Yield inputs in lists of up to CHUNK_BYTES; standard input, which is this process', alone."""
    chunk: list[str] = []
    left = CHUNK_BYTES
    for name in inputs:
        left -= _weight(name)
        if chunk and (left < 0 or STDIN in (name, chunk[-1])):
            yield chunk
            chunk, left = [], CHUNK_BYTES - _weight(name)
        chunk.append(name)
    if chunk:
        yield chunk


def _weight(name: str) -> int:
    """Return how many bytes of audio take as long as this file."""
    try:
        return max(Path(name).stat().st_size, FILE_BYTES)
    except (OSError, ValueError):
        return FILE_BYTES


class Task:
    """A chunk of inputs, in the hands of other processes until it is done or taken back."""

    def __init__(self, chunk: list[str], future: Future[list[Answer]] | None = None):
        self.chunk = chunk
        self._future = future
        self._answers: list[Answer] | None = None

    def is_done(self) -> bool:
        """Tell whether its answers are there."""
        return self._answers is not None or bool(self._future and self._future.done())

    def do_here(self, work: Work) -> bool:
        """Do it, if no other process has begun to; tell whether that was so."""
        if self._answers is not None or (self._future and not self._future.cancel()):
            return False
        self._answers = work(self.chunk)
        return True

    def answers(self) -> list[Answer]:
        """Return the answers to its inputs, when they are there."""
        if self._answers is None and self._future:
            self._answers = self._future.result()
        return self._answers or []


def _tasks(
    chunks: Iterable[list[str]], opening: Opening, pool: ProcessPoolExecutor
) -> Iterator[Task]:
    """Hand chunks out, but the first, which is begun before others start, and standard input."""
    for number, chunk in enumerate(chunks):
        own = not number or STDIN in chunk
        yield Task(chunk, None if own else pool.submit(_work_elsewhere, opening, chunk))


def _in_turn(tasks: Iterator[Task], work: Work, ahead: int) -> Iterator[Task]:
    """Yield tasks in order, `ahead` of them handed out; do here what no other has begun."""
    waiting: deque[Task] = deque()
    while True:
        waiting.extend(itertools.islice(tasks, ahead - len(waiting)))
        if not waiting:
            return
        if waiting[0].is_done() or not any(task.do_here(work) for task in waiting):
            yield waiting.popleft()


def _work(recogniser: Recogniser, skip_silence: bool, chunk: Sequence[str]) -> list[Answer]:
    try:
        sources = [source_of(name) for name in chunk]
    except UsageError as error:  # the standard input, which is always alone in its chunk
        return [error]
    return recogniser.transcribe_many(sources, skip_silence=skip_silence)


def _work_elsewhere(opening: Opening, chunk: Sequence[str]) -> list[Answer]:
    return _work(_opened(opening), opening.skip_silence, chunk)


@functools.cache
def _opened(opening: Opening) -> Recogniser:
    """Open a recogniser once in each process."""
    return opening()


def source_of(name: str) -> Source:
    """Return what to read for an input's name.

    Raises:
        UsageError: it is the standard input, which is closed.
    """
    return standard_input() if name == STDIN else name


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes that end at once if this one fails, is interrupted or killed.

    They start anew, as a copy of a process that has threads may stand still.

    Raises:
        SpeechseqError: one of them ended on its own.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import active_children, get_context

    others = set(active_children())
    pool = ProcessPoolExecutor(count, get_context("spawn"), _follow_parent)
    try:
        yield pool
    except BaseException as error:
        for process in set(active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise SpeechseqError(
                "transcribe: another process ended on its own; --jobs 1 does without"
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End with the process that started this one; and leave it Ctrl-C, which goes to them all."""
    from multiprocessing import parent_process

    parent = parent_process()

    def follow() -> None:
        if parent:
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()


def cores(device: str) -> int:
    """Return how many processes to take: a GPU is not shared, of cores one each."""
    from speechseq.model_file import PROVIDERS, provider

    try:
        if provider(device) != PROVIDERS["cpu"]:
            return 1
    except SpeechseqError:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
