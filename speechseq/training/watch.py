"""What a training leaves to look at: metrics as JSON lines, TensorBoard, a line an epoch."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from speechseq.files import atomic_write, writing
from speechseq.model_file import RUN_METRICS
from speechseq.training.step import Training

EXAMPLES = 5
"""Decoded validation utterances shown after each validation."""

PIXELS = 6
"""Edge of a token at a frame in the picture of posteriors."""

TOKENS = 64
"""Most tokens of that picture, the likeliest: one of every word there is would fill the memory."""

Write = Callable[[dict[str, Any]], None]


def line_of(row: dict[str, Any], epochs: int) -> str:
    """Return an epoch's metrics as a line for a terminal."""
    line = f"epoch {row['epoch']}/{epochs}  {row['seconds']:.0f} s  loss {row['loss']:.4f}"
    if "validation_loss" in row:
        line += (
            f"  validation: loss {row['validation_loss']:.4f}, "
            f"accuracy {100 * row['validation_accuracy']:.2f} %, "
            f"error {100 * row['validation_error']:.2f} %"
        )
    if row["skipped_steps"]:
        line += f"  {row['skipped_steps']} steps skipped: loss or gradient not finite"
    return line


@contextmanager
def metrics_of(training: Training) -> Iterator[Write]:
    """Yield a writer of metrics: JSON lines and TensorBoard. Rows of epochs not yet done go.

    Only the process that writes files does; the others' rows are the same.
    """
    if not training.world.writes:
        yield lambda row: None
        return
    path = training.run / RUN_METRICS
    rows = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    kept = [row for row in rows if _epoch_of(row) <= training.progress.epoch]
    with atomic_write(path) as file:
        file.write("".join(f"{row}\n" for row in kept).encode())
    folder, step = training.run / "tensorboard", training.progress.step
    with writing(folder):
        # The last epoch's row stands at the step itself, and stays.
        board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(row: dict[str, Any]) -> None:
        with writing(path), path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        with writing(folder):
            for name, value in row.items():
                board.add_scalar(name, value, row["step"])
            _show_validation(board, training, row["step"])
            board.flush()

    with _raised_once():
        try:
            yield write
        finally:
            with writing(folder):
                board.close()


@contextmanager
def _raised_once() -> Iterator[None]:
    """Keep TensorBoard's thread from printing a full disk, which it raises in `write`, too."""
    before = threading.excepthook

    def quiet(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = before


def _show_validation(board: SummaryWriter, training: Training, step: int) -> None:
    """Show a few decoded utterances, and the posteriors of one as a picture."""
    if training.validated is None:
        return
    references = training.validation.references
    pairs = list(zip(references, training.validated.hypotheses, strict=True))
    shown = pairs[:: max(len(pairs) // EXAMPLES, 1)][:EXAMPLES]
    text = "".join(f"| {said} | {heard} |\n" for said, heard in shown)
    board.add_text("validation", f"| said | recognised |\n|---|---|\n{text}", step)
    posteriors = training.validated.posteriors
    if len(posteriors):
        likeliest = np.sort(np.argsort(posteriors.max(axis=0))[-TOKENS:])
        picture = np.kron(posteriors[:, likeliest].T, np.ones((PIXELS, PIXELS)))
        board.add_image("posteriors (tokens down, frames across)", picture[None], step)


def _epoch_of(row: str) -> float:
    """Return a row's epoch; infinity for one that a kill or a disk tore apart, which goes, too."""
    try:
        return float(json.loads(row)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf
