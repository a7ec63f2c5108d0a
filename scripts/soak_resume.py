"""Kill a training at random moments, resume it each time, and compare it with an unbroken one.

    python scripts/soak_resume.py [--kills 30] [--seed 0] [--keep FOLDER]

Both trainings are `speechseq train` in processes of their own, on synthesised tones, with chance
in every place that has some. The moments go from the start of Python to the export; KILLS are the
kinds. Exit code 1 unless every resumption worked and weights and metrics are equal to the bit.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from command_line import natural, parser_of
from safetensors.numpy import load_file

from speechseq.audio import write_wav
from speechseq.manifest import Utterance, write_manifest
from speechseq.model_file import RUN_METRICS, RUN_MODEL, RUN_WEIGHTS

RATE = 8000
TONES = {"low": 300.0, "mid": 900.0, "high": 2500.0}
CLIPS, VALIDATED = 240, 80
EPOCHS = 20

RECIPE = f"""
name: soak
data: {{{{corpus: jsonl, root: "{{manifest}}", tokens: words}}}}
features: {{{{rate: {RATE}, mels: 40, low_hz: 60}}}}
model: {{{{hidden: 96, layers: 2, dropout: 0.3, front_end: stack, time_stride: 2}}}}
augment: {{{{speeds: [0.9, 1.0, 1.1], gain_db: 6, noise_probability: 0.5, join: 2,
  shift_seconds: 0.05, vocal_tract: 0.1, frequency_masks: 1, time_masks: 1}}}}
training: {{{{epochs: {EPOCHS}, batch: 8, learning_rate: 0.005, ema: 0.9, patience: {EPOCHS}}}}}
"""

CHECKPOINTS = "checkpoints"
READY = "largest batch"
"""What the last line before the first step begins with."""

POLL_SECONDS = 0.0005
SECONDS_WITHOUT_END = 300.0
STEP = re.compile(r"epoch (\d+) loss \S+ \S+ (\d+)/\d+")
RESUMED = re.compile(r"resumed at epoch \d+, step (\d+)/")


def write_corpus(folder: Path) -> Path:
    """Write tones in noise, and a recipe to train on them; return the recipe's path."""
    rng = np.random.default_rng(0)
    utterances = []
    for number, label in zip(range(CLIPS), itertools.cycle(TONES), strict=False):
        seconds = rng.uniform(0.25, 0.6)
        steps = np.arange(round(seconds * RATE)) / RATE
        wave = 0.3 * np.sin(2 * np.pi * TONES[label] * rng.uniform(0.95, 1.05) * steps)
        path = folder / f"{label}_{number}.wav"
        noise = 0.03 * rng.standard_normal(len(steps))
        write_wav(path, (wave + noise).astype(np.float32), RATE)
        split = "validation" if number >= CLIPS - VALIDATED else "train"
        speaker = f"s{number % 4}"
        utterances.append(Utterance(str(path), len(steps) / RATE, label, speaker, split=split))
    write_manifest(folder / "tones.jsonl", utterances)
    recipe = folder / "soak.yaml"
    recipe.write_text(RECIPE.format(manifest=folder / "tones.jsonl"), encoding="utf-8")
    return recipe


@dataclass
class Attempt:
    """One process that trains, and what it has written to its terminal so far."""

    process: subprocess.Popen[bytes]
    terminal: int
    text: str = ""
    began: float = field(default_factory=time.monotonic)

    def alive(self) -> bool:
        """Read what has come and tell whether the process still runs."""
        while select.select([self.terminal], [], [], 0)[0]:
            try:
                self.text += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        return self.process.poll() is None

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait for something; return False where the process ended before it.

        Raises:
            TimeoutError: neither comes.
        """
        while self.alive():
            if until():
                return True
            if time.monotonic() - self.began > SECONDS_WITHOUT_END:
                raise TimeoutError(f"nothing but this came:\n{self.text}")
            time.sleep(POLL_SECONDS)
        return False

    def sleep(self, seconds: float) -> bool:
        """Wait so long; return False where the process ended before."""
        end = time.monotonic() + seconds
        return self.wait(lambda: time.monotonic() >= end)


@contextmanager
def training(arguments: list[str], cache: Path) -> Iterator[Attempt]:
    """Start `speechseq train` with its stderr on a terminal, where it shows its steps."""
    ours, theirs = os.openpty()
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "SPEECHSEQ_CACHE": str(cache)}
    process = subprocess.Popen(
        [sys.executable, "-m", "speechseq", "train", *arguments, "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    try:
        yield Attempt(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@dataclass
class Soak:
    """A training that is killed over and over, and what came of it.

    `seconds` are those the unbroken training took: to its first step, for an epoch, to export.
    """

    recipe: Path
    run: Path
    cache: Path
    rng: random.Random
    seconds: tuple[float, float, float]
    landed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    from_start: int = 0
    damaged: int = 0
    repeated: int = 0
    failures: list[str] = field(default_factory=list)
    reached: int = 0

    def arguments(self) -> list[str]:
        """Return what to type next: the first command again, until there is a run to resume."""
        if (self.run / "recipe.yaml").exists():
            return ["--resume", str(self.run)]
        return [str(self.recipe), "-o", str(self.run)]

    def kill(self, kind: str) -> bool:
        """Start the training and kill it at a moment of a kind; False where it ended before."""
        if kind == "features":
            shutil.rmtree(self.cache, ignore_errors=True)
        with training(self.arguments(), self.cache) as attempt:
            hit = KILLS[kind](self, attempt)
            attempt.process.kill()
            code = attempt.process.wait()
            attempt.alive()
        hit = hit and code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL, 130):
            self.failures.append(f"exit code {code} before a kill: {attempt.text.strip()[-500:]}")
        self.count(attempt)
        self.landed[kind] += hit
        return hit

    def finish(self) -> None:
        """Let the training run to its end."""
        with training(self.arguments(), self.cache) as attempt:
            attempt.wait(lambda: False)
            attempt.alive()
            if attempt.process.returncode:
                self.failures.append(f"at the end: {attempt.text.strip()[-500:]}")
        self.count(attempt)

    def count(self, attempt: Attempt) -> None:
        """Read from a process' terminal where it took up the training and how far it came."""
        self.damaged += attempt.text.count("damaged")
        taken_up = RESUMED.search(attempt.text)
        at = int(taken_up[1]) if taken_up else 0
        if READY in attempt.text:
            self.resumed += bool(taken_up)
            self.from_start += not taken_up
            self.repeated += max(self.reached - at, 0)
            self.reached = at
        if shown := STEP.findall(attempt.text):
            epoch, batch = map(int, shown[-1])
            before = [row["step"] for row in read_rows(self.run) if row["epoch"] < epoch]
            self.reached = max(before, default=0) + batch

    def rows(self) -> int:
        """Count the epochs in the metrics."""
        return len(read_rows(self.run))


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run without their seconds; a torn last line is left out."""
    path = run / RUN_METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append({k: v for k, v in json.loads(line).items() if k != "seconds"})
        except ValueError:
            continue
    return rows


def partial(folder: Path) -> set[str]:
    """Return the names of files that are being written in a folder."""
    return {path.name for path in folder.glob(".*.tmp")} if folder.is_dir() else set()


def at_start(soak: Soak, attempt: Attempt) -> bool:
    """Kill while Python starts, imports, reads the data."""
    end = attempt.began + soak.rng.uniform(0, soak.seconds[0])
    return attempt.wait(lambda: time.monotonic() >= end or READY in attempt.text)


def at_features(soak: Soak, attempt: Attempt) -> bool:
    """Kill while features are written to the cache."""
    seen = attempt.wait(lambda: bool(partial(soak.cache)))
    return seen and attempt.sleep(soak.rng.uniform(0, 0.4))


def at_steps(soak: Soak, attempt: Attempt) -> bool:
    """Kill within two epochs of the first step: steps, mostly, and validations."""
    ready = attempt.wait(lambda: READY in attempt.text)
    return ready and attempt.sleep(soak.rng.uniform(0, 2 * soak.seconds[1]))


def at_row(soak: Soak, attempt: Attempt) -> bool:
    """Kill as soon as an epoch's metrics are there, so mostly before its checkpoint."""
    attempt.wait(lambda: READY in attempt.text)
    before = soak.rows()
    return attempt.wait(lambda: soak.rows() > before) and attempt.sleep(soak.rng.uniform(0, 0.01))


def in_writing(soak: Soak, attempt: Attempt, folder: Path) -> bool:
    """Kill while a file is being written in a folder, or where none was for three epochs.

    Files that an earlier kill left there do not count.
    """
    old, last = partial(folder), min(soak.rows() + 3, EPOCHS)
    seen = attempt.wait(lambda: bool(partial(folder) - old) or soak.rows() >= last)
    return seen and attempt.sleep(soak.rng.uniform(0, 0.004))


def at_weights(soak: Soak, attempt: Attempt) -> bool:
    """Kill while the best weights, or another file of the run, are written."""
    attempt.wait(lambda: READY in attempt.text)
    return in_writing(soak, attempt, soak.run)


def at_checkpoint(soak: Soak, attempt: Attempt) -> bool:
    """Kill while a checkpoint is written."""
    return in_writing(soak, attempt, soak.run / CHECKPOINTS)


def at_grace(soak: Soak, attempt: Attempt) -> bool:
    """Ask it to stop, as schedulers do, and kill it before, at or after its checkpoint."""
    if not (
        attempt.wait(lambda: READY in attempt.text)
        and attempt.sleep(0.2 + soak.rng.uniform(0, 2 * soak.seconds[1]))
    ):
        return False
    attempt.process.terminate()
    return attempt.sleep(soak.rng.uniform(0, 0.3))


def at_export(soak: Soak, attempt: Attempt) -> bool:
    """Kill between the last epoch's metrics and the end."""
    last = attempt.wait(lambda: READY in attempt.text and soak.rows() >= EPOCHS)
    return last and attempt.sleep(soak.rng.uniform(0, soak.seconds[2]))


KILLS: dict[str, Callable[[Soak, Attempt], bool]] = {
    "start": at_start,
    "features": at_features,
    "steps": at_steps,
    "weights": at_weights,
    "metrics": at_row,
    "checkpoint": at_checkpoint,
    "grace": at_grace,
    "export": at_export,
}
"""The kinds of moments, by the name they are shown under."""


def plan(kills: int, rng: random.Random) -> list[str]:
    """Choose the moments: some before there is a run, some after its last epoch, most between."""
    first, last = max(kills // 10, 1), max(kills // 6, 1)
    between = [kind for kind in KILLS if kind not in ("start", "export")]
    middle = list(itertools.islice(itertools.cycle(between), max(kills - first - last, 0)))
    rng.shuffle(middle)
    return [*(["start", "features"] * first)[:first], *middle, *["export"] * last][:kills]


def unbroken(recipe: Path, run: Path, cache: Path) -> tuple[float, float, float]:
    """Train without a kill; return the seconds to the first step, of an epoch, of the export.

    Raises:
        RuntimeError: it fails.
    """
    with training([str(recipe), "-o", str(run)], cache) as attempt:
        marks = [time.monotonic()]
        for reached in (
            lambda: READY in attempt.text,
            lambda: len(read_rows(run)) >= EPOCHS,
            lambda: False,
        ):
            attempt.wait(reached)
            marks.append(time.monotonic())
        if attempt.process.returncode:
            raise RuntimeError(attempt.text)
    start, epochs, end = np.diff(marks).tolist()
    return start, epochs / EPOCHS, end


def break_often(soak: Soak, kills: int) -> None:
    """Kill so many times; where one comes too late, the next one takes another moment."""
    for kind in plan(kills, soak.rng):
        for _ in range(3):
            if soak.rows() >= EPOCHS and kind not in ("start", "features"):
                kind = "export"
            if soak.kill(kind) or soak.failures:
                break
        print(f"  {kind:10} step {soak.reached:4} {soak.rows():3} epochs", file=sys.stderr)
        if soak.failures:
            return


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of two safetensors files; infinity for unlike names."""
    first, second = load_file(one), load_file(other)
    if first.keys() != second.keys():
        return float("inf")
    gaps = (np.abs(first[n].astype(float) - second[n].astype(float)).max() for n in first)
    return float(max(gaps))


def newest(run: Path) -> Path:
    """Return a run's newest checkpoint."""
    return max((run / CHECKPOINTS).glob("step-*.safetensors"))


def report(soak: Soak, whole: Path, kills: int) -> bool:
    """Print what was found; return whether all is as promised."""
    killed = soak.landed.total()
    gaps = {
        "best weights": difference(whole / RUN_WEIGHTS, soak.run / RUN_WEIGHTS),
        "checkpoint": difference(newest(whole), newest(soak.run)),
    }
    same_rows = read_rows(whole) == read_rows(soak.run)
    same_model = (whole / RUN_MODEL).read_bytes() == (soak.run / RUN_MODEL).read_bytes()
    worked = 0 if soak.failures else killed
    left = sum(len(partial(folder)) for folder in (soak.run, soak.run / CHECKPOINTS))
    for name, value in {
        "kills": f"{killed} of {kills}",
        **{f"  {kind}": count for kind, count in soak.landed.items()},
        "went on after a kill": f"{worked} of {killed}",
        "resumed from a checkpoint": soak.resumed,
        "begun at step 0": soak.from_start,
        "damaged checkpoints": soak.damaged,
        "steps repeated, at least": soak.repeated,
        **{f"largest difference, {name}": f"{gap:g}" for name, gap in gaps.items()},
        "metrics": f"{len(read_rows(whole))} rows, {'equal' if same_rows else 'DIFFERENT'}",
        "model.onnx": "equal" if same_model else "different",
        "temporary files left": left,
    }.items():
        print(f"{name:35} {value}")
    return killed == worked == kills and not any(gaps.values()) and same_rows


def soak_in(folder: Path, *, kills: int, seed: int) -> bool:
    """Train unbroken and killed in a folder, and report; True if all is as promised."""
    corpus, whole = folder / "corpus", folder / "whole"
    corpus.mkdir(parents=True)
    recipe = write_corpus(corpus)
    seconds = unbroken(recipe, whole, folder / "cache-whole")
    print("seconds: start {:.1f}, epoch {:.2f}, export {:.1f}".format(*seconds), file=sys.stderr)
    soak = Soak(recipe, folder / "broken", folder / "cache", random.Random(seed), seconds)
    break_often(soak, kills)
    if not soak.failures:
        soak.finish()
    if soak.failures:
        print(*soak.failures, sep="\n")
        return False
    return report(soak, whole, kills)


def main() -> None:
    """Soak and exit with 0 if every kill was survived to the bit."""
    parser = parser_of(__doc__)
    parser.add_argument("--kills", type=natural, default=30, help="default: 30")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to work in")
    arguments = parser.parse_args()
    if arguments.keep and arguments.keep.exists():
        parser.error(f"--keep {arguments.keep}: is there already; name another folder")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "soak"
        good = soak_in(folder.absolute(), kills=arguments.kills, seed=arguments.seed)
    sys.exit(not good)


if __name__ == "__main__":
    main()
