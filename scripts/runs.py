"""What studies and models come from: runs that are trained once, and tables on pages."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from speechseq.files import atomic_write
from speechseq.model_file import RUN_DATA, RUN_MODEL, RUN_RECIPE, RUN_VOCABULARY, RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.run_table import read_metrics
from speechseq.training.encoder import load_network, parameters
from speechseq.training.export import export
from speechseq.training.loop import train
from speechseq.training.notes import Note
from speechseq.training.run_folder import holds_run, read_run, refuse_run

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


def reweighted(run: Path, weights: Mapping[str, Tensor], target: Path) -> None:
    """Write a run that is another with other weights, its model file too.

    Raises:
        ModelError: `target` holds a run already.
    """
    refuse_run(target)
    target.mkdir(parents=True, exist_ok=True)
    with atomic_write(target / RUN_WEIGHTS) as file:
        file.write(save(dict(weights)))
    for name in (RUN_DATA, RUN_VOCABULARY, RUN_RECIPE):
        shutil.copyfile(run / name, target / name)
    export(target, target / RUN_MODEL, note=lambda text: print(text, file=sys.stderr))


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
