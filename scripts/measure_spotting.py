"""How well a classifier spots its words in a stream: `speechseq listen` with it, measured.

    python scripts/measure_spotting.py [MODEL] [--strings 100]

Strings of one to six validation clips of Speech Commands, each of one speaker, words and others,
lie in noise of its recordings' last fifth, which training does not hear. Then that noise alone, an
hour of half-minutes of whole recordings, and read speech (LibriSpeech). Prints Markdown.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Set

import numpy as np
from command_line import natural, one_line_errors, parser_of
from measure_digits import at_levels, long_noise, noises

from speechseq.compose import Composition, compose
from speechseq.corpora import CORPORA
from speechseq.errors import UsageError
from speechseq.manifest import NOISE_TRAINING_SHARE, read_utterance
from speechseq.metrics import interval, total_rate, word_errors
from speechseq.recogniser import Recogniser, load
from speechseq.tokens import NO_TEXT

SNRS: tuple[float | None, ...] = (None, 20, 10, 5)
GAPS = (-0.3, 1.0)
MARGINS = (0.6, 1.5)
"""Seconds between clips, which have silence of their own, and around all of them."""


def spotted(recogniser: Recogniser, samples: np.ndarray) -> str:
    """Return what a stream of the model says."""
    stream = recogniser.stream()
    stream.hear(samples)
    stream.finish()
    return stream.sure.text


def unheard_noises(rate: int) -> list[np.ndarray]:
    """Return the part of each noise recording that is kept from training."""
    return [noise[round(NOISE_TRAINING_SHARE * len(noise)) :] for noise in noises(rate)]


def strings(
    recogniser: Recogniser, count: int, snr_db: float | None
) -> Iterator[tuple[str, str, str]]:
    """Yield strings' texts, what was spotted in them, and who spoke."""
    words = tuple(token for token in recogniser.vocabulary.tokens if token not in NO_TEXT)
    corpus = CORPORA["speech_commands"]
    clips = corpus.utterances("validation", words=words, unknown=True)
    around = unheard_noises(recogniser.rate)
    how = Composition(
        strings=count, longest=6, gap_seconds=GAPS, margin_seconds=MARGINS, snr_db=snr_db
    )
    for samples, text, speaker in compose(clips, recogniser.rate, how, around):
        yield text, spotted(recogniser, samples), speaker


def alone(rate: int, words: Set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and samples of sounds that hold none of the words."""
    for noise in unheard_noises(rate):
        for piece in at_levels(noise):
            yield "noise", piece
    yield "half-minutes of all noise", long_noise(rate)
    for split in ("train-clean-100", "test-other"):
        for utterance in CORPORA["librispeech"].utterances(split):
            if words.isdisjoint(utterance.text.split()):
                yield "read speech", read_utterance(utterance, rate)


def measure(recogniser: Recogniser, count: int) -> None:
    """Print both tables."""
    print("| noise | command errors | wrong | missed | too many | of |\n|---|---|---|---|---|---|")
    for snr_db in SNRS:
        texts, found, speakers = zip(*strings(recogniser, count, snr_db), strict=True)
        errors = word_errors(texts, found)
        low, high = interval([e.errors for e in errors], [e.total for e in errors], speakers)
        rate = f"{100 * total_rate(errors):.1f} % ({100 * low:.1f}–{100 * high:.1f})"
        kinds = [(e.substitutions, e.deletions, e.insertions, e.total) for e in errors]
        name = "none" if snr_db is None else f"{snr_db:g} dB below"
        print(f"| {name} | {rate} | " + " | ".join(map(str, np.sum(kinds, axis=0))) + " |")
    said: Counter[str] = Counter()
    minutes: defaultdict[str, float] = defaultdict(float)
    for name, samples in alone(recogniser.rate, set(recogniser.vocabulary.tokens)):
        said[name] += len(spotted(recogniser, samples).split())
        minutes[name] += len(samples) / recogniser.rate / 60
    print("\n| none of the words in it | words a minute | minutes |\n|---|---|---|")
    for name, all_of_it in minutes.items():
        print(f"| {name} | {said[name] / all_of_it:.2f} | {all_of_it:.1f} |")


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default="commands-en")
    parser.add_argument("--strings", type=natural, default=100, metavar="N")
    arguments = parser.parse_args()
    with one_line_errors():
        recogniser = load(arguments.model)
        if recogniser.vocabulary.is_sequence:
            raise UsageError(f"{arguments.model}: spells sequences; give a classifier")
        measure(recogniser, arguments.strings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
