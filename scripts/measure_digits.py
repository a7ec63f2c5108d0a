"""The digits model on strings of digits, in noise, by other voices, and where none is spoken.

    python scripts/measure_digits.py [MODEL] [--work runs/digits_strings]

Composes 300 strings of one to ten digits from FSDD's test clips (seed 0), mixes them with the noise
recordings of Speech Commands, which no training of digits hears, and counts the words heard in
noise, in silence and in speech without digits. Real voices besides: AN4's utterances of digits by
the speakers that `list_words.py --without-speakers 24` leaves out, and the digits among the
validation clips of Speech Commands. Prints Markdown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from command_line import one_line_errors, parser_of

from speechseq.audio import read_audio
from speechseq.compose import Composition, compose, write_strings
from speechseq.corpora import CORPORA
from speechseq.corpora.clips import clips_in
from speechseq.corpora.fsdd import WORDS
from speechseq.evaluation import evaluate
from speechseq.manifest import Utterance, read_manifest, read_utterance
from speechseq.model_file import DEFAULT_MODEL
from speechseq.recipe import DataSettings
from speechseq.recogniser import Recogniser, load
from speechseq.splits import load_split

SNRS: tuple[float | None, ...] = (None, 20, 15, 10, 5, 0)
PIECE_SECONDS = 10.0
"""Noise is recognised in pieces so long."""

LEVELS_DB = (-50.0, -30.0, -15.0)
"""Levels of the noise, against full scale."""

HALF_MINUTES = 120
"""The long recording of noise is put together of so many."""

OTHER_SPEAKERS = 24
"""So many of AN4's speakers are heard in no training of digits."""

SPEECH_CLIPS = 600


def noises(rate: int) -> list[np.ndarray]:
    """Return the noise recordings of Speech Commands."""
    corpus = CORPORA["speech_commands"]
    folder = corpus.locate() / corpus.noise
    return [read_audio(path, rate) for path in clips_in(folder).values()]


def strings(work: Path, rate: int, snr_db: float | None) -> list[Utterance]:
    """Return the composed strings at a signal-to-noise ratio; they are made once."""
    folder = work / f"{rate}_hz" / ("clean" if snr_db is None else f"{snr_db:g}_db")
    manifest = folder / "strings.jsonl"
    if not manifest.exists():
        how = Composition(snr_db=snr_db)
        digits = CORPORA["fsdd"].utterances("test")
        write_strings(compose(digits, rate, how, noises(rate)), folder, rate)
    return read_manifest(manifest)


def words_a_minute(recogniser: Recogniser, clips: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return how many words are heard in a minute of clips, and how many minutes they are."""
    minutes = sum(map(len, clips)) / recogniser.rate / 60
    heard = sum(len(recogniser.transcribe(clip).words) for clip in clips)
    return heard / minutes, minutes


def noise_pieces(rate: int) -> list[np.ndarray]:
    """Return the noise recordings in pieces, each at every one of LEVELS_DB."""
    size = round(PIECE_SECONDS * rate)
    pieces = []
    for noise in noises(rate):
        for start in range(0, len(noise) - size // 2, size):
            pieces += at_levels(noise[start : start + size])
    return pieces


def at_levels(noise: np.ndarray) -> list[np.ndarray]:
    """Return noise (samples,) at every one of LEVELS_DB."""
    level = max(float(np.sqrt(np.mean(noise**2))), 1e-9)
    return [np.clip(noise * np.float32(10 ** (db / 20) / level), -1, 1) for db in LEVELS_DB]


def long_noise(rate: int) -> np.ndarray:
    """Return half-minutes of the noise recordings, each at a level of its own, as one recording."""
    rng = np.random.default_rng(0)
    found, size = noises(rate), 30 * rate
    parts = []
    for _ in range(HALF_MINUTES):
        noise = found[rng.integers(len(found))]
        noise = np.resize(noise, max(len(noise), size))
        start = rng.integers(len(noise) - size + 1)
        part = noise[start : start + size]
        level = 10 ** (rng.uniform(min(LEVELS_DB), max(LEVELS_DB)) / 20)
        parts.append(part * np.float32(level / np.sqrt(np.mean(part**2))))
    return np.clip(np.concatenate(parts), -1, 1)


def other_voices() -> dict[str, list[Utterance]]:
    """Return utterances of digits alone by real speakers whom no training of digits hears."""
    held_out = DataSettings(corpus="an4", validation_speakers=OTHER_SPEAKERS)
    return {
        name: [u for u in utterances if set(WORDS).issuperset(u.text.split())]
        for name, utterances in (
            ("AN4's strings", load_split(held_out, "validation", seed=0)),
            ("Speech Commands", CORPORA["speech_commands"].utterances("validation")),
        )
    }


def other_speech(corpus: str, split: str, rate: int) -> list[np.ndarray]:
    """Return clips of a corpus whose texts hold no digit."""
    found = [
        u for u in CORPORA[corpus].utterances(split) if not set(WORDS) & set(u.text.lower().split())
    ]
    return [read_utterance(u, rate) for u in found[:: max(len(found) // SPEECH_CLIPS, 1)]]


def measure(recogniser: Recogniser, work: Path) -> None:
    """Print the three tables."""
    print("| noise | digit error rate | strings right |\n|---|---|---|")
    for snr_db in SNRS:
        report = evaluate(recogniser, strings(work, recogniser.rate, snr_db))
        assert report.wer
        name = "none" if snr_db is None else f"{snr_db:g} dB below"
        print(f"| {name} | {report.wer.percent()} | {report.accuracy.percent()} |", flush=True)
    print("\n| other voices | digit error rate | all right | utterances |\n|---|---|---|---|")
    for name, utterances in other_voices().items():
        report = evaluate(recogniser, utterances)
        assert report.wer
        scores = f"{report.wer.percent()} | {report.accuracy.percent()}"
        print(f"| {name} | {scores} | {len(utterances)} |", flush=True)
    print("\n| no digits in it | words a minute | minutes |\n|---|---|---|")
    rate = recogniser.rate
    for name, clips in (
        ("noise", noise_pieces(rate)),
        ("one long recording of noise", [long_noise(rate)]),
        ("digital silence", [np.zeros(round(PIECE_SECONDS * rate), np.float32)] * 12),
        ("Arabic commands", other_speech("arabic_speech_commands", "validation", rate)),
        ("English commands", other_speech("speech_commands", "validation", rate)),
    ):
        heard, minutes = words_a_minute(recogniser, clips)
        print(f"| {name} | {heard:.1f} | {minutes:.1f} |", flush=True)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--work", type=Path, default=Path("runs/digits_strings"))
    arguments = parser.parse_args()
    with one_line_errors():
        measure(load(arguments.model), arguments.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
