"""Measure what a stream's latency costs in errors, computing and waiting.

    python scripts/measure_latency.py [MODEL] [--strings 100] [-o docs/latency.png]

Composes strings of one to ten digits from FSDD's test clips (seed 0), hears each in blocks of
BLOCK_SECONDS at several latencies, and counts word errors against what was said. Prints Markdown
and draws the curve. `wait` is the time from a word's end until the stream was sure of it, without
the computing; of all but the strings' last words, which are sure when the string ends.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of

from speechseq.compose import Composition, String, compose
from speechseq.corpora import CORPORA
from speechseq.errors import UsageError
from speechseq.metrics import interval, total_rate, word_errors
from speechseq.model_file import DEFAULT_MODEL
from speechseq.pictures import new_figure, save_png
from speechseq.recogniser import Recogniser, load
from speechseq.recognition import Listener

LATENCIES_MS = (math.inf, 2000.0, 1000.0, 500.0, 300.0, 200.0, 100.0, 40.0, 0.0)
BLOCK_SECONDS = 0.02


@dataclass(frozen=True)
class Row:
    """What was measured at one latency: rates as shares of 1, waits in seconds."""

    latency_ms: float
    errors: float
    low: float
    high: float
    real_time_factor: float
    waits: tuple[float, ...]

    def markdown(self) -> str:
        """Return the row of a table."""
        name = "offline" if math.isinf(self.latency_ms) else f"{self.latency_ms:g} ms"
        rate = f"{100 * self.errors:.2f} % ({100 * self.low:.2f}–{100 * self.high:.2f})"
        waits = "–"
        if self.waits:
            half, most = np.quantile(self.waits, (0.5, 0.9))
            waits = f"{half:.2f} s, {most:.2f} s"
        return f"| {name} | {rate} | {self.real_time_factor:.3f} | {waits} |"


def measure(recogniser: Recogniser, strings: Sequence[String], latency_ms: float) -> Row:
    """Hear all strings at one latency."""
    texts: list[str] = []
    waits: list[float] = []
    begun = time.process_time()
    for samples, _, _ in strings:
        stream = recogniser.stream(latency_ms=latency_ms)
        waits += _waits(stream, samples, round(BLOCK_SECONDS * recogniser.rate))
        stream.finish()
        texts.append(stream.sure.text)
    spent = time.process_time() - begun
    _, said, speakers = zip(*strings, strict=True)
    counts = word_errors(said, texts)
    errors, totals = [c.errors for c in counts], [c.total for c in counts]
    low, high = interval(errors, totals, speakers)
    seconds = sum(len(samples) for samples, _, _ in strings) / recogniser.rate
    return Row(latency_ms, total_rate(counts), low, high, spent / seconds, tuple(waits))


def _waits(stream: Listener, samples: np.ndarray, size: int) -> Iterator[float]:
    """Hear samples block by block, and yield how long ago each word ended when it is sure."""
    known = 0
    for begin in range(0, len(samples), size):
        if stream.hear(samples[begin : begin + size]):
            words = stream.sure.words
            yield from (stream.seconds - word.end for word in words[known:])
            known = len(words)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw latency against errors, with the errors of the whole as a line."""
    figure = new_figure(path, 7.2, 3.6)
    axes = figure.subplots()
    whole, *bounded = rows
    x = [row.latency_ms for row in bounded]
    low, high = ([100 * getattr(row, end) for row in bounded] for end in ("low", "high"))
    axes.fill_between(x, low, high, alpha=0.2, label="95 % interval, by speakers")
    axes.plot(x, [100 * row.errors for row in bounded], marker="o", label="stream")
    axes.axhline(100 * whole.errors, color="black", linestyle="--", label="offline")
    axes.set_xscale("symlog", linthresh=100)
    axes.set_xlim(-5, 1.1 * max(x))
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("word errors, %")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)
    save_png(figure, path)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--strings", type=natural, default=100)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/latency.png"))
    arguments = parser.parse_args()
    with one_line_errors():
        recogniser = load(arguments.model, threads=1)
        if not recogniser.vocabulary.is_sequence:
            raise UsageError(f"{arguments.model}: a classifier; give a model of sequences")
        digits = CORPORA["fsdd"].utterances("test")
        how = Composition(strings=arguments.strings)
        strings = list(compose(digits, recogniser.rate, how))
        print(
            "| latency | word errors | real-time factor | wait: median, 90 % |\n|---|---|---|---|"
        )
        rows = []
        for latency_ms in LATENCIES_MS:
            rows.append(measure(recogniser, strings, latency_ms))
            print(rows[-1].markdown(), flush=True)
        draw(rows, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
