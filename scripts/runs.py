"""What studies and models come from: runs that are trained once, and tables on pages."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from speechseq.files import atomic_write
from speechseq.model_file import RUN_MODEL, RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.run_table import read_metrics
from speechseq.training.encoder import load_network, parameters
from speechseq.training.loop import train
from speechseq.training.notes import Note
from speechseq.training.run_folder import holds_run, read_run

BEGIN, END = "<!-- measured -->\n", "\n<!-- end -->"


def trained(recipe: Recipe, run: Path, *, device: str, note: Note = lambda text: None) -> Path:
    """Train into a run folder, or go on with what was stopped there; what is done stays.

    Raises: as `train`.
    """
    if not (run / RUN_MODEL).is_file():
        began = time.perf_counter()
        train(recipe, run, device=device, resume=holds_run(run), note=note)
        print(f"{run.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return run


def cost(run: Path) -> tuple[int, float]:
    """Return a run's parameters and seconds an epoch."""
    recipe, vocabulary = read_run(run)
    network = load_network(run / RUN_WEIGHTS, recipe, vocabulary)
    last = read_metrics(run)[-1]
    return parameters(network), last["seconds"] / last["epoch"]


def write_table(page: Path, text: str) -> None:
    """Put what was measured between its marks on a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    with atomic_write(page) as file:
        file.write(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}".encode())
