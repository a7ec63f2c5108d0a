"""Pictures: matplotlib, imported where one is drawn, and PNG files that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechseq.errors import SpeechseqError, installing
from speechseq.files import atomic_write


def new_figure(path: str | Path, width: float, height: float) -> Any:
    """Return a figure, inches wide and high, that is to be saved at `path`.

    Raises:
        SpeechseqError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpeechseqError(f"{path}: pictures need matplotlib; {installing('train')}") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, path: str | Path, *, overwrite: bool = True) -> None:
    """Write a figure as a PNG file, atomically.

    Raises:
        DataError: the file cannot be written, or is there and `overwrite` is false.
    """
    with atomic_write(path, overwrite=overwrite) as file:
        figure.canvas.print_png(file)
