"""How good more recordings would make a recogniser: a power law through runs on less of them.

Source: Hestness et al. 2017, Deep Learning Scaling is Predictable, Empirically.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechseq.corpora import CORPORA
from speechseq.errors import DataError, ModelError, choose
from speechseq.model_file import RUN_DATA, RUN_MODEL, RUN_RECIPE, RUN_VOCABULARY
from speechseq.pictures import new_figure, save_png
from speechseq.recipe_file import read_recipe
from speechseq.run_table import kept_row, read_metrics

LEAST_EXPONENT = 0.01
"""Errors that fall slower with the clips do not fall: 1,000 times as many would save 7 %."""

TIMES = (2, 4, 8)
"""The forecast is for so many times the most clips that were tried."""

LEAST_SIZES, LEAST_VALIDATED = 3, 100
"""A forecast from fewer sizes of data, or from errors on fewer words or clips, is a weak one."""

MOST_COUNTED = 10**12
"""More clips or words are in no data; a file that says so is damaged."""

DRAWS = 2000
"""Draws of the validation errors, for the forecast's interval."""


@dataclass(frozen=True)
class Point:
    """A run: how many clips it learnt from, its error (a share of 1) on so many words or clips.

    `task` is what was learnt: the classes, or which corpus' texts. `root` is where data of one's
    own lie, `checksum` tells what was validated on, if that is known; `finished` says that the
    model file is there.
    """

    run: str
    start: str
    clips: int
    error: float
    validated: int
    task: tuple[str, ...] = ()
    root: str = ""
    checksum: str = ""
    finished: bool = False

    def goes_with(self, other: Point) -> bool:
        """Tell whether both learnt the same from parts of the same data."""
        same = self.root == other.root or (self.checksum and self.checksum == other.checksum)
        return self.task == other.task and bool(same)


@dataclass(frozen=True)
class Law:
    """error = factor · clips ** -exponent, through the points of one way to start."""

    start: str
    points: Sequence[Point]
    factor: float
    exponent: float

    def __call__(self, clips: float) -> float:
        """Return the error that so many clips would give."""
        return min(self.factor * clips**-self.exponent, 1.0)

    def interval(self, clips: float) -> tuple[float, float]:
        """Return the 95 % interval of that error, over draws of the validation words or clips.

        It does not hold what the law itself may have wrong.
        """
        rng = np.random.default_rng(0)
        found = []
        for _ in range(DRAWS):
            errors = [_drawn(p, rng) for p in self.points]
            factor, exponent = _fit([p.clips for p in self.points], errors, self.points)
            found.append(min(factor * clips**-exponent, 1.0))
        low, high = np.quantile(found, [0.025, 0.975]).tolist()
        return low, high


def read_point(run: str | os.PathLike[str]) -> Point:
    """Read what a run learnt from and its best validation error.

    Raises:
        ModelError: it is not a run folder, was not validated, does not say what it learnt from, or
            learnt from other corpora's clips, too, which do not grow with its own.
    """
    run = Path(run)
    if not (run / RUN_RECIPE).is_file():
        raise ModelError(f"{run}: not a run folder (no {RUN_RECIPE}); name one that was trained")
    recipe = read_recipe(run / RUN_RECIPE)
    data, training = recipe.data, recipe.training
    best, base = kept_row(read_metrics(run), training.weights), training.base
    try:
        sizes = json.loads((run / RUN_DATA).read_text(encoding="utf-8"))
        # Of sequences the error is of words; runs of before they were counted name utterances.
        unit = "words" if data.tokens != "classes" else "utterances"
        validated = int(sizes["validation"].get(unit, sizes["validation"]["utterances"]))
        clips = int(sizes["train"]["utterances"])
        checksum = str(sizes["validation"].get("sha256", ""))
        told = json.loads((run / RUN_VOCABULARY).read_text(encoding="utf-8"))["tokens"]
        tokens = tuple(map(str, told))
        if not 1 <= min(clips, validated) <= max(clips, validated) <= MOST_COUNTED:
            raise ValueError(f"{run / RUN_DATA}: {clips} clips, {validated} {unit}")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise ModelError(f"{run}: does not say what it learnt from; train it again") from None
    if best is None:
        raise ModelError(f"{run}: was not validated yet; train on and try again")
    if beside := (*data.same_words, *data.unknown_words):
        raise ModelError(
            f"{run}: learnt from {', '.join(beside)}, too, which its number of clips holds; "
            f"forecast from runs without"
        )
    start = f"from {base}" if base else "from scratch"
    return Point(
        str(run),
        start,
        clips,
        best["validation_error"],
        validated,
        task=tokens if data.tokens == "classes" else (data.corpus,),
        root="" if choose(CORPORA, data.corpus, "data.corpus").folder else data.root,
        checksum=checksum,
        finished=(run / RUN_MODEL).is_file(),
    )


def fit_laws(points: Sequence[Point]) -> list[Law]:
    """Fit one law to the runs of each way to start: from scratch, or from a base.

    Raises:
        DataError: there are not two sizes of data with any of them, or they are of several corpora.
    """
    for point in points:
        if not point.goes_with(points[0]):
            raise DataError(
                f"{point.run}: learnt other things than {points[0].run}; forecast from runs on "
                f"parts of the same data"
            )
    laws = []
    for start in dict.fromkeys(point.start for point in points):
        own = sorted((p for p in points if p.start == start), key=lambda p: p.clips)
        if len({p.clips for p in own}) > 1:
            factor, exponent = _fit([p.clips for p in own], [p.error for p in own], own)
            laws.append(Law(start, own, factor, exponent))
    if not laws:
        raise DataError(
            "forecast: needs runs on two sizes of data or more; train with data.clips_per_class=N"
        )
    return laws


def _fit(
    clips: Sequence[int], errors: Sequence[float], points: Sequence[Point]
) -> tuple[float, float]:
    """Return factor and exponent of the line through the logarithms, by least squares.

    Half an error is added, so that none has a logarithm; few errors are uncertain, and weigh less.
    """
    counts = np.array([e * p.validated + 0.5 for e, p in zip(errors, points, strict=True)])
    shares = counts / np.array([p.validated + 1.0 for p in points])
    slope, offset = np.polyfit(np.log(clips), np.log(shares), 1, w=np.sqrt(counts))
    return float(np.exp(offset)), float(-slope)


def _drawn(point: Point, rng: np.random.Generator) -> float:
    """Return a point's error on another draw of its words or clips; of words it may exceed 1."""
    likely = (point.error * point.validated + 0.5) / (point.validated + 1.0)
    if point.error > 1:
        return float(rng.poisson(likely * point.validated) / point.validated)
    return float(rng.binomial(point.validated, min(likely, 1.0)) / point.validated)


def weaknesses(laws: Sequence[Law]) -> Iterator[str]:
    """Yield what makes a forecast worth less than it looks, a line each."""
    for law in laws:
        for point in law.points:
            if not point.finished:
                yield f"{point.run}: its training is not finished; more epochs may lower its error"
        if (sizes := len({p.clips for p in law.points})) < LEAST_SIZES:
            yield (
                f"{law.start}: {sizes} sizes of data show no law to be one; add a run on another "
                f"data.clips_per_class"
            )
        if (least := min(p.validated for p in law.points)) < LEAST_VALIDATED:
            yield (
                f"{law.start}: its errors are of {least} validation words or clips alone; hold "
                f"out more for a surer forecast"
            )


def forecast_text(laws: Sequence[Law]) -> str:
    """Return what was measured and what more clips would give, as lines for a terminal."""
    return "\n".join(line for law in laws for line in _lines(law))


def _lines(law: Law) -> list[str]:
    lines = [f"{law.start}:"]
    lines += [f"  {p.clips:>7,} clips  {100 * p.error:6.2f} %  {p.run}" for p in law.points]
    if law.exponent < LEAST_EXPONENT:
        return [*lines, "  more clips did not help here; nothing can be forecast"]
    most = law.points[-1].clips
    for times in TIMES:
        low, high = law.interval(times * most)
        lines.append(
            f"  {times * most:>7,} clips  about {100 * law(times * most):.2f} % "
            f"({100 * low:.2f}–{100 * high:.2f})"
        )
    halved = 2 ** (1 / law.exponent)
    return [*lines, f"  {halved:.1f} times the clips halve the errors"]


def draw_forecast(laws: Sequence[Law], path: str | Path, *, overwrite: bool = False) -> None:
    """Draw errors over clips, both logarithmic, with the laws and their intervals, as a PNG file.

    Raises:
        SpeechseqError: matplotlib is not installed.
        DataError: the file cannot be written, or is there and `overwrite` is false.
    """
    figure = new_figure(path, 7.0, 4.6)
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    axes = figure.add_subplot()
    for number, law in enumerate(laws):
        _draw(axes, law, f"C{number}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, form in ((axes.xaxis, "{x:,.0f}"), (axes.yaxis, "{x:g}")):
        axis.set_major_formatter(StrMethodFormatter(form))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))  # 6, and not 6 × 10⁰
    axes.set_xlabel("clips to learn from")
    axes.set_ylabel("validation error (%)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    save_png(figure, path, overwrite=overwrite)


def _draw(axes: Any, law: Law, colour: str) -> None:
    clips = [p.clips for p in law.points]
    axes.plot(clips, [100 * p.error for p in law.points], "o", color=colour, label=law.start)
    wide = np.geomspace(clips[0], max(TIMES) * clips[-1], 40)
    axes.plot(wide, [100 * law(n) for n in wide], "--", color=colour, linewidth=1.2)
    beyond = np.geomspace(clips[-1], max(TIMES) * clips[-1], 8)
    low, high = zip(*(law.interval(n) for n in beyond), strict=True)
    shares = [[100 * max(value, 1e-6) for value in values] for values in (low, high)]
    axes.fill_between(beyond, *shares, color=colour, alpha=0.15)
