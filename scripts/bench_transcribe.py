"""Measure what `speechseq transcribe` makes of many files: one by one, batched, on more processes.

    python scripts/bench_transcribe.py [-m MODEL] [--clips 1500] [--jobs 1 2] [--repeat 3]

The clips are FSDD's. All ways work on the same files in one run, in turn, so that whatever else
the machine does falls on all of them alike; the best of the rounds is shown. The time goes from
the names of the files to all their texts, the model already open; processes start anew each time.
pocketsphinx is measured once on a part of the clips, if it is installed (`bench_peers.py` tells
what it hears).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence

from bench_peers import open_pocketsphinx, spread
from command_line import natural, one_line_errors, parser_of

import speechseq
from speechseq.cli.many_files import Opening, transcribe_files
from speechseq.corpora import CORPORA
from speechseq.errors import SpeechseqError, UsageError
from speechseq.model_file import DEFAULT_MODEL
from speechseq.recogniser import Recogniser

PEER_CLIPS = 100

Way = Callable[[], list[str]]
"""Transcribes all files and returns their texts."""


def one_by_one(recogniser: Recogniser, paths: Sequence[str]) -> list[str]:
    """Transcribe each file by itself."""
    return [recogniser.transcribe(path).text for path in paths]


def batched(recogniser: Recogniser, paths: Sequence[str], model: str, jobs: int) -> list[str]:
    """Transcribe as the command does.

    Raises:
        SpeechseqError: one of the files fails.
    """
    texts = []
    for _, answer in transcribe_files(paths, recogniser, Opening(model, "cpu"), jobs):
        if isinstance(answer, SpeechseqError):
            raise answer
        texts.append(answer.text)
    return texts


def measure(ways: dict[str, Way], repeat: int) -> dict[str, float]:
    """Return the least seconds of each way over `repeat` rounds.

    Raises:
        UsageError: two ways give different texts.
    """
    seconds = dict.fromkeys(ways, float("inf"))
    expected = None
    for _ in range(repeat):
        for name, way in ways.items():
            began = time.perf_counter()
            texts = way()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
            expected = expected or texts
            if texts != expected:
                raise UsageError(f"{name}: other texts than one by one; that must not be")
    return seconds


def pocketsphinx_seconds(paths: Sequence[str]) -> float:
    """Return pocketsphinx' seconds a file over some of the files.

    Raises:
        UsageError: it is not installed.
    """
    transcribe = open_pocketsphinx(edge_seconds=0.0)
    some = [paths[number] for number in spread(PEER_CLIPS, len(paths))]
    began = time.perf_counter()
    for path in some:
        transcribe(path)
    return (time.perf_counter() - began) / len(some)


def print_table(seconds: dict[str, float], clips: int, audio_seconds: float) -> None:
    """Print a row a way; the ratios are against one by one, and against one process."""
    print(f"{clips} clips, {audio_seconds / 60:.1f} min; the texts of all ways are the same")
    titles = ("seconds", "clips/s", "x real time", "x one by one", "x 1 job")
    print(f"{'':20}" + "".join(f" {title:>12}" for title in titles))
    first, one = seconds["one by one"], seconds.get("batched, 1 jobs")
    for name, value in seconds.items():
        row = [f"{value:.2f}", f"{clips / value:.0f}", f"{audio_seconds / value:.0f}"]
        row += [f"{first / value:.2f}", f"{one / value:.2f}" if one else ""]
        print(f"{name:20}" + "".join(f" {cell:>12}" for cell in row))


def print_bench(arguments: argparse.Namespace) -> None:
    """Measure every way and print the table."""
    utterances = CORPORA["fsdd"].utterances("train")
    spaced = itertools.cycle(spread(arguments.clips, len(utterances)))
    numbers = list(itertools.islice(spaced, arguments.clips))
    paths = [utterances[number].audio_filepath for number in numbers]
    recogniser = speechseq.load(arguments.model, threads=1)
    one_by_one(recogniser, paths[:20])
    ways: dict[str, Way] = {"one by one": functools.partial(one_by_one, recogniser, paths)}
    for jobs in arguments.jobs:
        way = functools.partial(batched, recogniser, paths, arguments.model, jobs)
        ways[f"batched, {jobs} jobs"] = way
    seconds = measure(ways, arguments.repeat)
    try:
        seconds["pocketsphinx"] = len(paths) * pocketsphinx_seconds(paths)
    except UsageError as error:
        print(f"left out: {error}", file=sys.stderr)
    audio = sum(utterances[number].duration for number in numbers)
    print_table(seconds, len(paths), audio)


def main() -> None:
    """Measure on FSDD's clips."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    add("--clips", type=natural, default=1500, help="evenly spread over the split; of more, again")
    add("--jobs", type=natural, nargs="+", default=[1, 2], help="numbers of processes")
    add("--repeat", type=natural, default=3, help="rounds to take the best of")
    arguments = parser.parse_args()
    with one_line_errors():
        print_bench(arguments)


if __name__ == "__main__":
    main()
