"""Make data/samples/: spoken digits by espeak-ng, 16 kHz mono wav files and their manifest.

    python scripts/make_samples.py [-o data/samples]

espeak-ng is needed for this alone (apt install espeak-ng); the files it gives are committed. The
same version of espeak-ng gives the same bytes every time.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from command_line import one_line_errors, parser_of

from speechseq.audio import read_audio, write_wav
from speechseq.errors import UsageError
from speechseq.manifest import Utterance, write_manifest

RATE = 16000
EDGE_SECONDS = 0.1
"""Silence kept before the first and after the last sound."""

SILENCE = 10 ** (-45 / 20)
"""Samples under this share of the loudest one count as silence."""

MANIFEST = "samples.jsonl"

SAMPLES = (
    ("zero", "en-us"),
    ("two", "en-gb"),
    ("three", "en-us+f3"),
    ("five", "en-gb-scotland"),
    ("six", "en-us+m3"),
    ("seven", "en-gb-x-rp+f2"),
    ("eight", "en-us+f4"),
    ("nine", "en-029"),
    ("four two", "en-gb+m7"),
    ("one two three", "en-us"),
    ("nine one one", "en-us+f2"),
    ("seven zero eight", "en-gb-x-gbclan"),
)
"""What is said, and the espeak-ng voice that says it."""


def find_espeak() -> str:
    """Return the path of espeak-ng.

    Raises:
        UsageError: it is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise UsageError("espeak-ng: not found; apt install espeak-ng (or brew install espeak-ng)")
    return program


def speak(program: str, text: str, voice: str) -> np.ndarray:
    """Return `text` said by `voice`: float32 (samples,) at RATE, cut to the sound and its edges.

    Raises:
        UsageError: espeak-ng has no such voice, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        command = [program, "-v", voice, "-s", "150", "-w", str(path), text]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.is_file():
            reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            raise UsageError(f"espeak-ng: voice {voice}: {reason}; see espeak-ng --voices=en")
        return trim(read_audio(path, RATE))


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut silence off both ends of (samples,), down to EDGE_SECONDS."""
    level = np.abs(samples)
    loud = np.flatnonzero(level > SILENCE * level.max())
    edge = round(EDGE_SECONDS * RATE)
    return samples[max(loud[0] - edge, 0) : loud[-1] + 1 + edge]


def make_samples(folder: Path) -> list[Utterance]:
    """Write the wav files and the manifest into `folder`; return what the manifest lists.

    Raises:
        UsageError: espeak-ng is not installed or fails.
    """
    program = find_espeak()
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for text, voice in SAMPLES:
        name = f"{text.replace(' ', '_')}.wav"
        samples = speak(program, text, voice)
        write_wav(folder / name, samples, RATE)
        seconds = round(len(samples) / RATE, 3)
        utterances.append(Utterance(name, seconds, text, f"espeak-ng {voice}", split="test"))
    write_manifest(folder / MANIFEST, utterances)
    return utterances


def main() -> None:
    """Make the samples and print one line for each."""
    parser = parser_of(__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("data/samples"), metavar="DIR")
    arguments = parser.parse_args()
    with one_line_errors():
        utterances = make_samples(arguments.output)
    for utterance in utterances:
        size = (arguments.output / utterance.audio_filepath).stat().st_size
        print(
            f"{utterance.audio_filepath:24} {utterance.duration:6.3f} s  {size / 1000:5.1f} kB  "
            f"{utterance.speaker}"
        )


if __name__ == "__main__":
    main()
