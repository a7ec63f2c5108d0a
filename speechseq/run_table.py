"""Runs at a glance: what was trained, how large it is, how far it got and how good it is.

Reads run folders as `training` leaves them, finished or not, without PyTorch.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechseq.errors import DataError, ModelError, SpeechseqError
from speechseq.files import atomic_write
from speechseq.model_file import RUN_METRICS, RUN_MODEL, RUN_RECIPE, RUN_WEIGHTS
from speechseq.recipe import ModelSettings
from speechseq.recipe_file import read_recipe

_HEADER_BYTES = 1 << 24
"""Longest header of a weights file that is believed."""

Row = dict[str, Any]


@dataclass(frozen=True)
class RunSummary:
    """One run. `best_error` is the lowest validation error (WER, or 1 - accuracy), a share.

    What is not known yet, before the first validation or the first weights, is None; `seconds` is
    the time trained, over all resumptions.
    """

    run: str
    recipe: str
    model: str
    parameters: int | None
    epoch: int
    epochs: int
    best_error: float | None
    best_epoch: int | None
    seconds: float
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return asdict(self)


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """List the run folders at or below each folder, by name.

    Raises:
        DataError: a folder is missing, or holds no run.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; train something, or name another")
        runs = [path.parent for path in folder.rglob(RUN_RECIPE)]
        if not runs:
            raise DataError(f"{folder}: holds no run; train something, or name another")
        found.update(runs)
    return sorted(found)


def summarise(run: Path) -> RunSummary:
    """Read one run folder.

    Raises:
        SpeechseqError: it is not a run folder, or damaged.
    """
    recipe = read_recipe(run / RUN_RECIPE)
    rows = read_metrics(run)
    validated = [row for row in rows if "validation_error" in row]
    best = min(validated, key=lambda row: row["validation_error"], default=None)
    return RunSummary(
        run=str(run),
        recipe=recipe.name,
        model=_model(recipe.model),
        parameters=_parameters(run / RUN_WEIGHTS),
        epoch=int(rows[-1]["epoch"]) if rows else 0,
        epochs=recipe.training.epochs,
        best_error=best["validation_error"] if best else None,
        best_epoch=int(best["epoch"]) if best else None,
        seconds=float(rows[-1]["seconds"]) if rows else 0.0,
        finished=(run / RUN_MODEL).is_file(),
    )


def read_metrics(run: Path) -> list[Row]:
    """Read a run's metrics, one row an epoch; none where no epoch is done.

    A last line that a kill tore apart is left out, as resuming does.

    Raises:
        ModelError: a line is not a row of metrics.
    """
    path = run / RUN_METRICS
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[:-1]] + _whole(lines[-1:])
        for row in rows:
            numbers = (row["epoch"], row["seconds"], row.get("validation_error", 0.0))
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError("a number is not finite")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ModelError(f"{path}: damaged ({reason}); resume the run or delete it") from None
    return rows


def _whole(lines: Sequence[str]) -> list[Row]:
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return []


def _model(model: ModelSettings) -> str:
    """Say what the recurrent layers and the head are, as papers do."""
    cell = ("bi" if model.bidirectional else "") + model.cell
    head = model.head if model.head == "ctc" else f"{model.head} {model.pooling}"
    return f"{model.layers} x {cell} {model.hidden}, {head}"


def _parameters(path: Path) -> int | None:
    """Count the trained numbers of a safetensors file by its header alone."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, _HEADER_BYTES)))
        return sum(
            math.prod(tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__" and not name.startswith("features.")
        )
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged ({type(error).__name__}); resume the run") from None


def table_text(summaries: Sequence[RunSummary]) -> str:
    """Return runs as lines of a table."""
    cells = [
        ["run", "recipe", "model", "parameters", "epochs", "best error", "at", "time", "finished"],
        *(_cells(summary) for summary in summaries),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cells(run: RunSummary) -> list[str]:
    minutes, seconds = divmod(round(run.seconds), 60)
    return [
        run.run,
        run.recipe,
        run.model,
        "-" if run.parameters is None else f"{run.parameters:,}",
        f"{run.epoch}/{run.epochs}",
        "-" if run.best_error is None else f"{100 * run.best_error:.2f} %",
        "-" if run.best_epoch is None else str(run.best_epoch),
        f"{minutes}:{seconds:02}",
        "yes" if run.finished else "no",
    ]


PANELS: dict[str, tuple[tuple[str, ...], float]] = {
    "loss (dashed: validation)": (("loss", "validation_loss"), 1.0),
    "validation error, %": (("validation_error",), 100.0),
    "learning rate": (("learning_rate",), 1.0),
    "gradient norm": (("gradient_norm",), 1.0),
}
"""Panels of learning curves: the columns drawn, the first one solid, and their scale."""


def draw_curves(runs: Sequence[Path], path: Path, *, overwrite: bool = False) -> None:
    """Draw the learning curves of runs into a PNG file, one colour a run; a dot marks the best.

    Raises:
        ModelError: a run has no epoch yet, or is damaged.
        DataError: the file is there and `overwrite` is not given.
        SpeechseqError: matplotlib is not installed.
    """
    curves = {str(run): read_metrics(run) for run in runs}
    for run, rows in curves.items():
        if not rows:
            raise ModelError(f"{run}: no epoch is done yet; wait, or leave it out")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpeechseqError(
            f"{path}: pictures need matplotlib; pip install 'speechseq[train]'"
        ) from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, (columns, scale)) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for number, rows in enumerate(curves.values()):
            _draw_panel(axes, rows, columns, scale=scale, colour=f"C{number}")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    lines = [axes.plot([], [], color=f"C{number}")[0] for number in range(len(curves))]
    labels = [name.replace("$", r"\$") for name in curves]
    figure.legend(lines, labels, loc="outside lower center", ncols=2)
    with atomic_write(path, overwrite=overwrite) as file:
        FigureCanvasAgg(figure).print_png(file)


def _draw_panel(
    axes: Any, rows: Sequence[Row], columns: Sequence[str], *, scale: float, colour: str
) -> None:
    for column, style in zip(columns, ("-", "--"), strict=False):
        points = [(row["epoch"], scale * row[column]) for row in rows if column in row]
        axes.plot(*zip(*points, strict=True), style, color=colour) if points else None
    if "validation_error" in columns and points:
        axes.plot(*min(points, key=lambda point: point[1]), "o", color=colour)
