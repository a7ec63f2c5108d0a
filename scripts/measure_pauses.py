"""Measure streams of digits with long pauses between them against the whole files' texts.

    python scripts/measure_pauses.py [MODEL] [--strings 100]

A network of two directions tells a word's last letter late where a pause follows, even behind it.
Strings of WORDS of FSDD's validation digits, a third of the gaps LONG seconds and the others SHORT,
over a faint hiss, are heard at several latencies, in blocks of a fifth of these. Prints how many
come out unlike offline, with more words or fewer, and when words end by the recogniser, counted
from their clips' ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of

from speechseq.compose import by_speaker
from speechseq.errors import UsageError
from speechseq.manifest import Utterance, read_utterance
from speechseq.model_file import DEFAULT_MODEL
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import Recogniser, load
from speechseq.splits import load_split

RECIPE = Path(__file__).parents[1] / "recipes" / "fsdd" / "digits.yaml"
"""Whose validation clips are heard."""

WORDS = 12
LONG = (1.0, 4.0)
SHORT = (0.05, 0.5)
LONG_SHARE = 0.3
EDGE_SECONDS = 0.5
HISS = 1e-4
SEED = 11

LATENCIES_MS = (500.0, 1000.0, 2000.0)
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Paused:
    """A string (samples,), its words, and when each one's clip ends, in seconds."""

    samples: np.ndarray
    words: list[str]
    ends: list[float]


def strings(clips: Sequence[Utterance], count: int, rate: int) -> Iterator[Paused]:
    """Yield strings of one speaker's clips each; the same clips give the same strings."""
    rng = np.random.default_rng(SEED)
    speakers = list(by_speaker(clips).values())
    for number in range(count):
        own = speakers[number % len(speakers)]
        parts = [HISS * rng.standard_normal(round(EDGE_SECONDS * rate))]
        words, ends = [], []
        for _ in range(WORDS):
            clip = own[int(rng.integers(len(own)))]
            parts.append(read_utterance(clip, rate))
            words.append(clip.text)
            ends.append(sum(map(len, parts)) / rate)
            pause = rng.uniform(*(LONG if rng.random() < LONG_SHARE else SHORT))
            parts.append(HISS * rng.standard_normal(round(pause * rate)))
        yield Paused(np.concatenate(parts).astype(np.float32), words, ends)


def streamed(recogniser: Recogniser, samples: np.ndarray, latency_ms: float) -> list[str]:
    """Return the words that a stream tells."""
    stream = recogniser.stream(latency_ms=latency_ms)
    size = round(latency_ms / 5000 * recogniser.rate)
    for begin in range(0, len(samples), size):
        stream.hear(samples[begin : begin + size])
    stream.finish()
    return [word.text for word in stream.sure.words]


def measure(recogniser: Recogniser, made: Sequence[Paused]) -> None:
    """Print what is told offline, and what streams tell otherwise."""
    found = [recogniser.transcribe(string.samples).words for string in made]
    offline = [[word.text for word in words] for words in found]
    pairs = list(zip(made, found, strict=True))
    right = [(s, words) for s, words in pairs if s.words == [word.text for word in words]]
    print(f"offline {len(right)} of {len(made)} strings are right")
    late = [
        word.end - end
        for string, words in right
        for word, end in zip(words, string.ends, strict=True)
    ]
    if late:
        ends = ", ".join(f"{end:+.2f}" for end in np.quantile(late, QUANTILES))
        print(f"words end {ends} s behind their clips (5, 50, 95 % of them)")
    print("\n| latency | unlike offline | more words | fewer |\n|---|---|---|---|")
    for latency_ms in LATENCIES_MS:
        heard = [streamed(recogniser, string.samples, latency_ms) for string in made]
        longer = [len(ours) - len(whole) for ours, whole in zip(heard, offline, strict=True)]
        unlike = sum(ours != whole for ours, whole in zip(heard, offline, strict=True))
        more, fewer = sum(n > 0 for n in longer), sum(n < 0 for n in longer)
        print(f"| {latency_ms:g} ms | {unlike} | {more} | {fewer} |", flush=True)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--strings", type=natural, default=100, metavar="N")
    arguments = parser.parse_args()
    with one_line_errors():
        recogniser = load(arguments.model, threads=1)
        if not recogniser.vocabulary.is_sequence:
            raise UsageError(f"{arguments.model}: a classifier; give a model of sequences")
        recipe = read_recipe(RECIPE)
        clips = load_split(recipe.data, "validation", recipe.seed)
        measure(recogniser, list(strings(clips, arguments.strings, recogniser.rate)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
