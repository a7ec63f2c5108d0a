"""Measure how soon `speechseq transcribe` answers, and its real-time factor, beside PyTorch.

    python scripts/bench_start.py [-m MODEL] [CLIP] [--repeat 7]

Start: whole commands in fresh processes, taken in turn so that whatever else the machine does
falls on all of them alike; medians. Speed: one process, one thread, the model already open.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of

import speechseq
from speechseq.corpora import CORPORA
from speechseq.errors import SpeechseqError, UsageError
from speechseq.manifest import Utterance, read_manifest, read_utterance
from speechseq.model_file import DEFAULT_MODEL, find_model
from speechseq.recogniser import Recogniser

SAMPLES = Path(__file__).parents[1] / "data" / "samples" / "samples.jsonl"

COMMAND = "speechseq transcribe CLIP"
TORCH = "python -c 'import torch'"
START_AIM = 0.2
"""Greatest share of TORCH's time that COMMAND should take."""

SPEED_AIM = 0.004
"""Greatest real-time factor on one thread."""

LONG_SECONDS = 10.0


def find_clips() -> tuple[str, list[Utterance]]:
    """Return FSDD's test clips where FSDD is found, else the project's samples, and their name."""
    try:
        return "FSDD test clips", CORPORA["fsdd"].utterances("test")
    except SpeechseqError:
        return "samples", read_manifest(SAMPLES)


def start_commands(model: str, clip: str) -> dict[str, list[str]]:
    """Return the commands to time, by the name they are shown under."""
    python = [sys.executable, "-c"]
    opened = f"import onnxruntime; onnxruntime.InferenceSession({str(find_model(model))!r})"
    commands = {
        "python -c pass": [*python, "pass"],
        "+ numpy": [*python, "import numpy"],
        "+ soundfile, soxr": [*python, "import numpy, soundfile, soxr"],
        "+ onnxruntime": [*python, "import numpy, soundfile, soxr, onnxruntime"],
        "+ an open model": [*python, f"import numpy, soundfile, soxr; {opened}"],
        COMMAND: [sys.executable, "-m", "speechseq", "transcribe", "-m", model, clip],
    }
    if find_spec("torch"):
        commands[TORCH] = [*python, "import torch"]
    return commands


def time_commands(commands: dict[str, list[str]], repeat: int) -> dict[str, float]:
    """Return the median seconds of each command over `repeat` rounds, after one to warm up.

    Raises:
        UsageError: a command fails.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeat + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UsageError(f"{name}: {done.stderr.strip()}; run it alone to see more")
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_start(seconds: dict[str, float], repeat: int) -> None:
    """Print the commands' medians, and the command's share of PyTorch's import."""
    print(f"start: median of {repeat} fresh processes, in turn")
    for name, value in seconds.items():
        print(f"  {name:30} {1000 * value:8.0f} ms")
    if TORCH not in seconds:
        print("  PyTorch is not installed: no ratio; pip install '.[train]'")
        return
    ratio = seconds[COMMAND] / seconds[TORCH]
    print(f"  {'transcribe / import torch':30} {ratio:8.3f}     (aim: at most {START_AIM})")


def real_time_factors(recogniser: Recogniser, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return seconds of work for a second of audio for each of `clips`, after one to warm up."""
    recogniser.transcribe_batch(clips[:1])
    factors = []
    for clip in clips:
        began = time.perf_counter()
        recogniser.transcribe_batch([clip])
        factors.append((time.perf_counter() - began) / (len(clip) / recogniser.rate))
    return np.array(factors)


def print_speed(model: str, name: str, utterances: Sequence[Utterance], repeat: int) -> None:
    """Print the real-time factor over all clips, and on LONG_SECONDS of them on end."""
    recogniser = speechseq.load(model, threads=1)
    clips = [read_utterance(utterance, recogniser.rate) for utterance in utterances]
    size = round(LONG_SECONDS * recogniser.rate)
    joined = np.resize(np.concatenate(clips), size).astype(np.float32)
    sizes = np.array([len(clip) for clip in clips])
    factors = real_time_factors(recogniser, clips)
    whole = float((factors * sizes).sum() / sizes.sum())
    long = float(np.median(real_time_factors(recogniser, [joined] * repeat)))
    print("speed: real-time factor of samples to text, one thread")
    print(
        f"  {f'{len(clips)} {name}':30} {whole:8.5f}     (aim: at most {SPEED_AIM}; "
        f"{1000 * whole * sizes.mean() / recogniser.rate:.2f} ms a clip)"
    )
    print(f"  {f'{LONG_SECONDS:g} s of them on end':30} {long:8.5f}     (median of {repeat})")


def main() -> None:
    """Measure start and speed of a model and print both."""
    parser = parser_of(__doc__)
    parser.add_argument("clip", nargs="?", help="audio file (default: of FSDD, or a sample)")
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    parser.add_argument("--repeat", type=natural, default=7, help="rounds to take the median of")
    arguments = parser.parse_args()
    with one_line_errors():
        name, utterances = find_clips()
        clip = arguments.clip or max(utterances, key=lambda u: u.duration).audio_filepath
        commands = start_commands(arguments.model, clip)
        print_start(time_commands(commands, arguments.repeat), arguments.repeat)
        print_speed(arguments.model, name, utterances, arguments.repeat)


if __name__ == "__main__":
    main()
