"""What each lever gives: small trainings that differ from one base in one setting each.

    python scripts/study_levers.py [--work runs/levers] [--seeds 0 1] [--only classes]

Two bases: forty Arabic words from a few clips of each (a classifier), and FSDD's digits spelt by
CTC, two of the six speakers left out. Every run is measured on validation utterances, of speakers
that training does not hear, and set against the base's run of the same seed, one by one.
Writes the tables into recipes/levers/README.md. Runs that are there already are taken as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command_line import one_line_errors, parser_of
from runs import cost, trained, write_table

from speechseq.errors import UsageError
from speechseq.evaluation import Report, evaluate
from speechseq.metrics import LEAST_GROUPS, interval
from speechseq.model_file import RUN_MODEL
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import load_split
from speechseq.training.run_folder import read_run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "recipes" / "levers" / "README.md"
BASE = "the base"

Levers = Mapping[str, Sequence[str]]
"""Name of a change -> what it sets."""


@dataclass(frozen=True)
class Study:
    """A recipe, what the base changes in it, and the levers to be pulled one at a time."""

    recipe: Path
    base: tuple[str, ...]
    levers: Levers


STUDIES = {
    "classes": Study(
        ROOT / "recipes" / "arabic_speech_commands" / "commands.yaml",
        (
            "data.clips_per_class=20", "training.epochs=40", "training.consistency=0",
            "training.validate_every=5", "training.base=''", "training.learning_rate=0.002",
            "model.cell=lstm", "model.hidden=128", "model.conv_blocks=0", "augment.filter_db=0",
        ),
        {
            "PCEN in place of log-mels": ("features.kind=pcen",),
            "last state in place of attention": ("model.pooling=last", "model.attention_heads=1"),
            "mean of the states": ("model.pooling=mean", "model.attention_heads=1"),
            "one head of attention in place of four": ("model.attention_heads=1",),
            "GRU of as many parameters": ("model.cell=gru", "model.hidden=152"),
            "no layer norm": ("model.layer_norm=false",),
            "residual connections": ("model.residual=true",),
            "33 frames a second in place of 25": ("model.time_stride=3",),
            "50 frames a second": ("model.time_stride=2",),
            "stacked frames in place of convolutions": ("model.front_end=stack",),
            "two blocks of convolutions more": ("model.conv_blocks=2",),
            "no SpecAugment": ("augment.frequency_masks=0", "augment.time_masks=0"),
            "twice the masks": ("augment.frequency_masks=4", "augment.time_masks=4"),
            "no label smoothing": ("training.label_smoothing=0",),
            "mixup": ("augment.mixup=0.2",),
            "taught by commands-ar (and its many clips)": ("training.teacher=commands-ar",),
            "no speeds": ("augment.speeds=[1.0]",),
            "no vocal-tract warps": ("augment.vocal_tract=0",),
            "no reverberation": ("augment.reverberation_probability=0",),
            "no noise": ("augment.noise_probability=0",),
            "a filter of its own for each clip": ("augment.filter_db=5",),
            "no averaged weights": ("training.ema=0",),
            "two views that agree, half the epochs": (
                "training.consistency=0.5", "training.epochs=20",
            ),
            "commands-en to start from": ("training.base=commands-en", "training.frozen_epochs=3"),
        },
    ),
    "sequences": Study(
        ROOT / "recipes" / "fsdd" / "single.yaml",
        ("data.validation_speakers=2", "training.epochs=20", "training.validate_every=5"),
        {
            "PCEN in place of log-mels": ("features.kind=pcen",),
            "synthetic voices as more speakers": ("data.same_words=synthetic_words",),
            "up to 60 ms cut off the ends": ("augment.cut_seconds=0.06",),
            "GRU of as many parameters": ("model.cell=gru", "model.hidden=140"),
            "no layer norm": ("model.layer_norm=false",),
            "label smoothing 0.1": ("training.label_smoothing=0.1",),
            "a third of the loss on the first layer": ("training.intermediate=0.3",),
            "which letters there are, as a second task": ("training.auxiliary=0.3",),
            "two views that agree, half the epochs": (
                "training.consistency=0.2", "training.epochs=10",
            ),
            "strings of one": ("augment.join=1",),
            "25 frames a second in place of 50": ("model.time_stride=4",),
            "batches of 8 in place of 16": ("training.batch=8",),
            "letters spelt freely (greedy)": ("decoding.decoder=greedy",),
            "residual connections": ("model.residual=true",),
            "a projection to 60": ("model.projection=60",),
            "stacked frames in place of convolutions": ("model.front_end=stack",),
            "vocal-tract warps of 12 % in place of 6": ("augment.vocal_tract=0.12",),
            "reverberation": ("augment.reverberation_probability=0.3",),
            "a filter of its own for each string": ("augment.filter_db=5",),
            "batches of 32": ("training.batch=32",),
            "no averaged weights": ("training.ema=0",),
        },
    ),
}  # fmt: skip


def run_of(work: Path, study: str, lever: str, seed: int) -> Path:
    """Return the run folder of a lever and a seed."""
    return work / study / f"{lever.replace(' ', '_').replace('%', 'percent')}_{seed}"


def train_all(work: Path, name: str, seeds: Sequence[int]) -> None:
    """Train what is not there yet; the base first."""
    study = STUDIES[name]
    for seed in seeds:
        for lever, settings in {BASE: (), **study.levers}.items():
            recipe = read_recipe(study.recipe, [f"seed={seed}", *study.base, *settings])
            trained(recipe, run_of(work, name, lever, seed), device="cpu")


def wrong(report: Report) -> np.ndarray:
    """Return 1 for every utterance that is not exactly right (utterances,)."""
    return np.array([float(item.reference != item.hypothesis) for item in report.items])


def measured(work: Path, name: str, seeds: Sequence[int]) -> Iterator[str]:
    """Yield the table of a study, row by row; the utterances of all seeds stand in one row.

    What was not trained, or not to its end, is left out.

    Raises:
        UsageError: that is the base.
    """
    yield "| change | right | against the base, points | parameters | s an epoch |"
    yield "|---|---|---|---|---|"
    base = np.zeros(0)
    for lever in (BASE, *STUDIES[name].levers):
        runs = [run_of(work, name, lever, seed) for seed in seeds]
        if not all((run / RUN_MODEL).is_file() for run in runs):
            if lever == BASE:
                raise UsageError(f"{name}: {BASE} is not trained; do so first, without --tables")
            print(f"{name}: {lever}: not trained, left out", file=sys.stderr)
            continue
        reports = [_evaluated(run) for run in runs]
        found = np.concatenate([wrong(report) for report in reports])
        base = found if lever == BASE else base
        change = "" if lever == BASE else _change(reports, base - found)
        size, seconds = cost(runs[0])
        right = f"{100 * (1 - found.mean()):.2f} %"
        yield f"| {lever} | {right} | {change} | {size:,} | {seconds:.1f} |"


def _evaluated(run: Path) -> Report:
    recipe, _ = read_run(run)
    return evaluate(load(run), load_split(recipe.data, "validation", recipe.seed))


def _change(reports: Sequence[Report], fewer: np.ndarray) -> str:
    """Return how many points more are right, with a 95 % interval.

    It is over speakers where there are three or more, else over clips.
    """
    items = [item for report in reports for item in report.items]
    speakers = [item.speaker for item in items]
    # The errors of all seeds on a clip are drawn at once: they are not so many clips.
    over = speakers if len(set(speakers) - {""}) >= LEAST_GROUPS else [item.file for item in items]
    # The bootstrap is of a rate from 0 to 1: -1 to 1 is moved there and back.
    low, high = interval(((fewer + 1) / 2).tolist(), [1.0] * len(fewer), over)
    return f"{100 * fewer.mean():+.2f} ({100 * (2 * low - 1):+.2f} to {100 * (2 * high - 1):+.2f})"


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/levers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=sorted(STUDIES), help="train for this one, write nothing")
    parser.add_argument("--tables", action="store_true", help="train nothing, write what is there")
    arguments = parser.parse_args()
    with one_line_errors():
        for name in [] if arguments.tables else [arguments.only] if arguments.only else STUDIES:
            train_all(arguments.work, name, arguments.seeds)
        if not arguments.only:
            tables = [
                "\n".join(measured(arguments.work, name, arguments.seeds)) for name in STUDIES
            ]
            write_table(PAGE, "\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
