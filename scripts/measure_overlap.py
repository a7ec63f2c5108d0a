"""Measure how much context the windows of long audio need to say what the whole would say.

    python scripts/measure_overlap.py [-m MODEL] [--corpus fsdd] [--recordings 6] [--minutes 3]

Clips of a corpus are strung together, with pauses in faint noise, into recordings that fit the
network as a whole. For several contexts the frames joined from windows are compared with the
whole's: the greatest difference of a probability, frames whose best token differs, and recordings
whose text differs, by decoder. `cut` is the whole's own frames decoded in segments: what is lost
by the cutting alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from command_line import natural, one_line_errors, parser_of

import speechseq
from speechseq.corpora import CORPORA
from speechseq.decoding import DECODERS, decoder_for
from speechseq.errors import DataError, UsageError
from speechseq.long_audio import windows
from speechseq.manifest import Utterance, read_utterance
from speechseq.model_file import DEFAULT_MODEL
from speechseq.padding import pad
from speechseq.recipe import DecodingSettings
from speechseq.recogniser import Recogniser
from speechseq.segments import Segmenter

CONTEXTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
LONGEST_PAUSE_SECONDS = 1.5
NOISE = 0.001
"""Deviation of the noise under clips and pauses: -60 dB."""


@dataclass(frozen=True)
class Difference:
    """What joined frames (frames, tokens) differ in from the whole's."""

    probability: float
    frames: int
    texts: tuple[bool, ...]


def string(clips: Sequence[np.ndarray], rate: int, seconds: float, seed: int) -> np.ndarray:
    """Return clips in random order, with pauses of random length between, as samples."""
    rng = np.random.default_rng(seed)
    parts, size = [], 0
    while size < seconds * rate:
        pause = np.zeros(int(rng.uniform(0, LONGEST_PAUSE_SECONDS) * rate), np.float32)
        parts += [clips[int(rng.integers(len(clips)))], pause]
        size += len(parts[-1]) + len(parts[-2])
    samples = np.concatenate(parts)
    return (samples + NOISE * rng.standard_normal(size)).astype(np.float32)


def decoders(recogniser: Recogniser) -> list[str]:
    """Name the decoders this model's vocabulary goes with."""
    found = []
    for name in DECODERS:
        try:
            recogniser.decoding_with(name)
        except DataError:
            continue
        found.append(name)
    return found


def text_of(recogniser: Recogniser, name: str, pieces: Iterable[np.ndarray]) -> str:
    """Return the text of pieces (frames, tokens), cut into segments."""
    vocabulary = recogniser.vocabulary
    segmenter = Segmenter(
        vocabulary,
        decoder_for(vocabulary, name),
        recogniser.frame_seconds,
        spells=DecodingSettings(decoder=name).freely,
    )
    texts = (vocabulary.decode(segment.hypothesis.tokens) for segment in segmenter(pieces))
    return " ".join(filter(None, texts))


def compare(
    recogniser: Recogniser, samples: np.ndarray, contexts: Sequence[float]
) -> Iterator[Difference]:
    """Yield what the whole's own frames in segments differ in, then those of each context."""
    vocabulary = recogniser.vocabulary
    whole = recogniser.network(*pad([samples]))[0][0]
    names = decoders(recogniser)
    expected = [vocabulary.decode(decoder_for(vocabulary, name)(whole).tokens) for name in names]
    for context in (None, *contexts):
        pieces = [whole]
        if context is not None:
            cut = windows([samples], recogniser.recipe, context_seconds=context)
            pieces = list(recogniser.log_probs(cut))
        joined = np.concatenate(pieces)
        yield Difference(
            float(np.abs(np.exp(joined) - np.exp(whole)).max()),
            int((joined.argmax(axis=1) != whole.argmax(axis=1)).sum()),
            tuple(
                text_of(recogniser, name, pieces) != text
                for name, text in zip(names, expected, strict=True)
            ),
        )


def print_table(recogniser: Recogniser, recordings: Sequence[np.ndarray]) -> None:
    """Print one row a context, over all recordings."""
    names = decoders(recogniser)
    found = [list(compare(recogniser, samples, CONTEXTS)) for samples in recordings]
    seconds = sum(map(len, recordings)) / recogniser.rate
    print(f"{len(recordings)} recordings, {seconds / 60:.1f} min")
    head = "".join(f" {f'texts, {name}':>16}" for name in names)
    print(f"{'context':>8} {'probability':>12} {'frames':>8}{head}")
    for name, row in zip(
        ("cut", *(f"{c:g} s" for c in CONTEXTS)), zip(*found, strict=True), strict=True
    ):
        worst = max(difference.probability for difference in row)
        frames = sum(difference.frames for difference in row)
        texts = np.sum([difference.texts for difference in row], axis=0)
        print(f"{name:>8} {worst:12.6f} {frames:8}" + "".join(f" {count:16}" for count in texts))


def main() -> None:
    """String up a corpus' clips and print the table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    add("--corpus", default="fsdd", choices=sorted(CORPORA))
    add("--recordings", type=natural, default=6)
    add("--minutes", type=float, default=3.0, help="length of a recording")
    arguments = parser.parse_args()
    if not 1 <= arguments.minutes <= 10:
        parser.error("--minutes: 1 to 10 go here")
    with one_line_errors():
        recogniser = speechseq.load(arguments.model, threads=1)
        if not recogniser.vocabulary.is_sequence:
            raise UsageError(f"{arguments.model}: a classifier; give a model of sequences")
        utterances = sorted(CORPORA[arguments.corpus].utterances("train"), key=lambda u: u.key)
        recordings = [
            string(
                _clips(utterances, recogniser.rate, seed),
                recogniser.rate,
                60 * arguments.minutes,
                seed,
            )
            for seed in range(arguments.recordings)
        ]
        print_table(recogniser, recordings)


def _clips(utterances: Sequence[Utterance], rate: int, seed: int) -> list[np.ndarray]:
    """Read some of the clips."""
    some = np.random.default_rng(seed).permutation(len(utterances))[:200]
    return [read_utterance(utterances[number], rate) for number in some]


if __name__ == "__main__":
    main()
