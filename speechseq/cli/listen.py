"""speechseq listen: text while somebody speaks, from the microphone, a pipe or a file."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from speechseq.cli.microphone import BLOCK_SECONDS, Microphone
from speechseq.cli.pipe import STDIN, piped_blocks, standard_input
from speechseq.cli.terminal import add_decoder, add_device, note, open_recogniser
from speechseq.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from speechseq.recogniser import Recogniser
    from speechseq.recognition import Listener

HELP = "text while somebody speaks"

UNSURE_SECONDS = 0.2
"""Least time from one look at the words that are not sure yet to the next."""

WIPE, SAVE, DIM, PLAIN, BACK = "\x1b[K", "\x1b7", "\x1b[2m", "\x1b[0m", "\x1b8"
"""Terminals' commands: wipe the rest of the line; keep the cursor's place, and go back there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="heard in its own time, in place of the microphone; -: wav from stdin, as it comes",
    )
    parser.add_argument("-m", "--model", help="bundled name, model file or run (default: digits)")
    parser.add_argument(
        "--latency",
        type=float,
        metavar="MS",
        help=(
            "audio to wait for after each frame before its output is final (default: 500); inf: "
            "all of FILE. One-directional models and classifiers do not ask for it"
        ),
    )
    parser.add_argument("--input", metavar="NAME", help="microphone, by name or number")
    parser.add_argument("--fast", action="store_true", help="hear FILE as fast as can be")
    add_decoder(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.file in (None, STDIN) and arguments.fast:
        raise UsageError("--fast: a microphone or a pipe has its own time; give a FILE")
    if arguments.file is not None and arguments.input:
        raise UsageError(f"--input {arguments.input}: not with a FILE; give one of them")
    microphone = Microphone(arguments.input) if arguments.file is None else None
    recogniser = open_recogniser(
        arguments.model, arguments.device, arguments.decoder, arguments.least_confidence
    )
    latency = {} if arguments.latency is None else {"latency_ms": arguments.latency}
    stream = recogniser.stream(**latency)
    if microphone:
        note(f"listening to {microphone.name}; Ctrl-C ends")
        listen(stream, microphone.blocks(recogniser.rate), microphone.rest)
    elif arguments.file == STDIN:
        listen(stream, piped_blocks(standard_input(), recogniser.rate))
    else:
        listen(stream, _of_file(arguments.file, recogniser, arguments.fast))


def listen(
    stream: Listener,
    blocks: Iterable[np.ndarray],
    rest: Callable[[], Iterable[np.ndarray]] = tuple,
) -> None:
    """Print what a stream hears in blocks (samples,): to their end, or until interrupted.

    `rest` gives what was on its way when it was.
    """
    page = Page()
    looked = 0.0
    try:
        for block in blocks:
            page.add(stream.hear(block))
            if stream.resting:
                page.end_line()
            if page.shows and stream.seconds - looked >= UNSURE_SECONDS:
                looked = stream.seconds
                page.show(" ".join(word.text for word in stream.unsure()))
    finally:  # what was heard is told in any case
        for block in rest():
            page.add(stream.hear(block))
        page.add(stream.finish())
        page.end_line()


def _of_file(name: str, recogniser: Recogniser, fast: bool) -> Iterator[np.ndarray]:
    """Yield a file's samples in blocks; unless `fast`, when they would have been spoken."""
    from speechseq.audio import read_blocks

    size = round(BLOCK_SECONDS * recogniser.rate)
    begun, heard = time.monotonic(), 0
    for block in read_blocks(name, recogniser.rate):
        for at in range(0, len(block), size):
            samples = block[at : at + size]
            heard += len(samples)
            if not fast:
                time.sleep(max(begun + heard / recogniser.rate - time.monotonic(), 0))
            yield samples


class Page:
    """Prints sure words on stdout as they come; on a terminal, behind them, those not sure yet."""

    def __init__(self) -> None:
        self.shows = sys.stderr.isatty()
        self._used = 0  # of the line on stdout

    def add(self, text: str) -> None:
        """Print more sure words of this line, if there are any."""
        if text:
            self._mark(WIPE)
            text = f" {text}" if self._used else text
            print(text, end="", flush=True)
            self._used += len(text)

    def end_line(self) -> None:
        """End the line, if it is begun."""
        if self._used:
            self._mark(WIPE)
            print(flush=True)
            self._used = 0

    def show(self, text: str) -> None:
        """Show words that may still change, as far as the line has room for them."""
        columns = shutil.get_terminal_size().columns
        used = self._used % columns if sys.stdout.isatty() else 0
        shown = f" {text}"[0 if used else 1 :][: max(columns - used - 1, 0)]
        self._mark(f"{WIPE}{SAVE}{DIM}{shown}{PLAIN}{BACK}")

    def _mark(self, text: str) -> None:
        if self.shows:
            print(text, end="", file=sys.stderr, flush=True)
