"""Learning curves of runs as one picture."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechseq.errors import ModelError
from speechseq.model_file import RUN_RECIPE
from speechseq.pictures import new_figure, save_png
from speechseq.recipe_file import read_recipe
from speechseq.run_table import Row, kept_row, printable, read_metrics

LEGEND_COLUMNS = 3
"""Most runs side by side in the legend."""

LEGEND_CHARACTERS = 105
"""Characters that fit a line of the legend."""

_INCHES = (11.0, 7.5)
_LEGEND_INCHES = 0.22  # a line of the legend
_FEW = 10  # runs that tab10 has colours for
_BEST: dict[str, Any] = {
    "marker": "o",
    "markersize": 6,
    "markeredgecolor": "white",
    "zorder": 3,
    "clip_on": False,  # an error of 0 lies on the edge
}
_TRAINING: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 1.0, "alpha": 0.8}


@dataclass(frozen=True)
class Curves:
    """The metrics of one run, a row an epoch, and what the legend calls it."""

    name: str
    rows: Sequence[Row]
    weights: str = "best"

    @property
    def kept(self) -> Row | None:
        """The row whose weights were kept."""
        return kept_row(self.rows, self.weights)

    def points(self, value: str) -> tuple[list[float], list[float]]:
        """Return the epochs that have a value, and the values; NaN for those beyond numbers."""
        rows = [row for row in self.rows if value in row]
        values = [row[value] if math.isfinite(row[value]) else math.nan for row in rows]
        return [row["epoch"] for row in rows], values


def read_curves(run: str | os.PathLike[str], name: str) -> Curves:
    """Read the metrics of a run folder that the legend calls `name`.

    Raises:
        ModelError: it is not a run folder, no epoch is done, or its metrics are damaged.
    """
    run = Path(run)
    if not (run / RUN_RECIPE).is_file():
        raise ModelError(f"{run}: not a run folder (no {RUN_RECIPE}); name one that was trained")
    rows = read_metrics(run)
    if not rows:
        raise ModelError(f"{run}: no epoch is done, so there is no curve; train on and try again")
    return Curves(name, rows, read_recipe(run / RUN_RECIPE).training.weights)


def legend_names(runs: Sequence[str]) -> list[str]:
    """Name runs after their folders; those whose folders share a name by the paths given."""
    names = [Path(os.path.abspath(run)).name for run in runs]
    count = Counter(names)
    return [run if count[name] > 1 else name for run, name in zip(runs, names, strict=True)]


def draw_curves(curves: Sequence[Curves], path: str | Path, *, overwrite: bool = False) -> None:
    """Draw losses, validation error, learning rate and gradient norm by epoch into a PNG file.

    Each run has a colour; a dot marks the epoch whose weights were kept.

    Raises:
        SpeechseqError: matplotlib is not installed.
        DataError: the file cannot be written, or is there and `overwrite` is false.
    """
    entries = [_entry(run) for run in curves]
    columns = _columns(entries)
    width, height = _INCHES
    height += _LEGEND_INCHES * -(-len(curves) // columns)
    figure = new_figure(path, width, height)
    (loss, error), (rate, norm) = figure.subplots(2, 2, sharex=True)
    for run, colour in zip(curves, _colours(len(curves)), strict=True):
        _draw(loss, run, "loss", color=colour, **_TRAINING)
        _draw(loss, run, "validation_loss", color=colour, best=True)
        _draw(error, run, "validation_error", color=colour, best=True, scale=100)
        _draw(rate, run, "learning_rate", color=colour)
        _draw(norm, run, "gradient_norm", color=colour)
    _title(loss, "loss: training (dashed), validation", log=True)
    _title(error, "validation error (%)")
    _title(rate, "learning rate")
    _title(norm, "gradient norm", log=True)
    for axes in (rate, norm):
        axes.set_xlabel("epoch")
    _legend(figure, entries, columns)
    save_png(figure, path, overwrite=overwrite)


def _colours(count: int) -> list[Any]:
    """Return as many colours as there are runs: well apart where they are few."""
    from matplotlib import colormaps

    if count <= _FEW:
        return [colormaps["tab10"](number) for number in range(count)]
    return [colormaps["turbo"](0.05 + 0.9 * number / (count - 1)) for number in range(count)]


def _draw(
    axes: Any, run: Curves, value: str, *, best: bool = False, scale: float = 1, **style: Any
) -> None:
    epochs, values = run.points(value)
    alone = "." if len(epochs) == 1 else ""
    axes.plot(epochs, [scale * v for v in values], **{"marker": alone, "linewidth": 1.4, **style})
    row = run.kept if best else None
    if row and value in row:
        axes.plot(row["epoch"], scale * row[value], color=style["color"], **_BEST)


def _title(axes: Any, title: str, *, log: bool = False) -> None:
    from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter

    axes.set_title(title)
    axes.grid(visible=True, alpha=0.25)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if log and any(value > 0 for line in axes.get_lines() for value in line.get_ydata()):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    else:
        axes.set_ylim(bottom=0)


def _legend(figure: Any, entries: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, **_BEST) for colour in _colours(len(entries))]
    legend = figure.legend(
        handles,
        ["run"] * len(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title="epoch kept",
    )
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)  # a name may hold a $, or begin with _, which hides a label
        text.set_text(entry)


def _entry(run: Curves) -> str:
    """Return what the legend says of a run; of a long name, its end."""
    best, name = run.kept, printable(run.name)
    said = f": {100 * best['validation_error']:.2f} % at {best['epoch']:.0f}" if best else ""
    room = LEGEND_CHARACTERS - len(said)
    return (name if len(name) <= room else f"…{name[1 - room :]}") + said


def _columns(entries: Sequence[str]) -> int:
    """Return how many entries, each with its line before it, fit beside each other."""
    return max(min(LEGEND_COLUMNS, len(entries), LEGEND_CHARACTERS // max(map(len, entries))), 1)
