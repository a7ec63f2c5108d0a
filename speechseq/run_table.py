"""Run folders as a table: what was trained, how far, how well; read without PyTorch.

A training may be writing the run meanwhile: files it has not written yet count as nothing done,
and a last row of metrics that a kill tore apart is left out, as resuming leaves it out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from speechseq.errors import ModelError, SpeechseqError
from speechseq.model_file import (
    AUXILIARY,
    RUN_METRICS,
    RUN_MODEL,
    RUN_RECIPE,
    RUN_VOCABULARY,
    RUN_WEIGHTS,
)
from speechseq.recipe import ModelSettings
from speechseq.recipe_checks import BOUNDS
from speechseq.recipe_file import read_recipe

HEADER_BYTES = 1 << 20
"""Longest header of a weights file that is read; the largest network needs a tenth."""

BESIDE = ("features.", AUXILIARY)
"""Beginning of the names of tensors that no model has: filter bank, CMVN; the second task."""

BEYOND_FLOATS = 2.0**128
"""No number of 32 bits, in which training computes, is as large."""

_MOST_AXES = 8
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

Row = dict[str, float]
"""The numbers of one epoch by name; it holds `epoch` and `seconds`, the others may be missing."""


@dataclass(frozen=True)
class RunSummary:
    """One run. `parameters` is None before there are weights, the best ones before a validation.

    `best_error` is a share of 1, the validation error (WER, or 1 - accuracy) of the weights that
    were kept, which are those of `best_epoch`; `seconds` is the time trained, over all
    resumptions; `finished` says that the model file is there.
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
        # A folder's name need not be Unicode, but JSON must.
        run = os.fsencode(self.run).decode("utf-8", errors="replace")
        return {**asdict(self), "run": run}


def read_runs(
    folders: Sequence[str | os.PathLike[str]],
) -> tuple[list[RunSummary], list[SpeechseqError]]:
    """Read every run at or below some folders, each once, in the order of their paths.

    What is damaged, unreadable or holds no run comes back as errors beside the others.
    """
    found: list[Path] = []
    errors: list[SpeechseqError] = []
    seen: set[str] = set()
    for folder in folders:
        found += _find_runs(Path(folder), seen, errors)
    summaries = []
    for run in sorted(found):
        try:
            summaries.append(summarise(run))
        except SpeechseqError as error:
            errors.append(error)
    return summaries, errors


def _find_runs(folder: Path, seen: set[str], errors: list[SpeechseqError]) -> list[Path]:
    """List the run folders at or below `folder`, links followed; `seen` holds where we were."""

    def unreadable(error: OSError) -> None:
        errors.append(ModelError(f"{error.filename}: cannot be read ({error.strerror}); check it"))

    if not folder.is_dir():
        errors.append(ModelError(f"{folder}: no such folder; train a recipe, or name another"))
        return []
    before, found, again = len(errors), [], False
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            again = True
            folders.clear()
            continue
        seen.add(real)
        if {RUN_RECIPE, RUN_VOCABULARY} <= {*files}:  # `init` writes a recipe alone
            found.append(Path(place))
    if not found and not again and len(errors) == before:
        errors.append(ModelError(f"{folder}: holds no run; train a recipe, or name another"))
    return found


def summarise(run: Path) -> RunSummary:
    """Read what one run folder says of its run.

    Raises:
        UsageError: its recipe cannot be read.
        ModelError: its metrics or weights are damaged.
    """
    recipe = read_recipe(run / RUN_RECIPE)
    rows, weights = read_metrics(run), run / RUN_WEIGHTS
    best = kept_row(rows, recipe.training.weights)
    return RunSummary(
        run=str(run),
        recipe=recipe.name,
        model=_model(recipe.model),
        parameters=count_parameters(weights) if weights.exists() else None,
        epoch=int(rows[-1]["epoch"]) if rows else 0,
        epochs=recipe.training.epochs,
        best_error=best["validation_error"] if best else None,
        best_epoch=int(best["epoch"]) if best else None,
        seconds=rows[-1]["seconds"] if rows else 0.0,
        finished=(run / RUN_MODEL).is_file(),
    )


def _model(model: ModelSettings) -> str:
    """Say what the recurrent layers and the head are, as papers do."""
    cell = ("bi" if model.bidirectional else "") + model.cell
    head = model.head if model.head == "ctc" else f"{model.head} {model.pooling}"
    return f"{model.layers} x {cell} {model.hidden}, {head}"


def read_metrics(run: Path) -> list[Row]:
    """Read the metrics of a run, a row an epoch; none where no epoch is done.

    Raises:
        ModelError: they cannot be read, or a row before the last one is damaged.
    """
    path = run / RUN_METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ModelError(f"{path}: cannot be read ({reason}); check the file") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            if number < len(lines):
                raise ModelError(
                    f"{path}: line {number} is not an epoch's metrics; delete the line"
                ) from None
    return rows


def _row(line: str) -> Row:
    values = json.loads(line).items()
    row = {name: float(value) for name, value in values if type(value) in (int, float)}
    low, high = BOUNDS["training.epochs"]
    if not low <= row["epoch"] <= high or not row["epoch"].is_integer():
        raise ValueError("no such epoch")
    if not 0 <= row["seconds"] < math.inf:
        raise ValueError("no such time")
    if row.get("validation_error", 0) < 0:
        raise ValueError("no such error")
    if any(math.isfinite(value) and abs(value) >= BEYOND_FLOATS for value in row.values()):
        raise ValueError("no such number")
    return row


def kept_row(rows: Sequence[Row], weights: str) -> Row | None:
    """Return the row whose weights were kept, of the best by validation or the last.

    The best has the least validation error, then loss, and is the first of those. None where
    nothing was validated.
    """
    if weights == "last":
        validated = [row for row in rows if math.isfinite(row.get("validation_error", math.nan))]
        return validated[-1] if validated else None
    best, least = None, (math.inf, math.inf)
    for row in rows:
        score = row.get("validation_error", math.nan), row.get("validation_loss", math.inf)
        if math.isfinite(score[0]) and score < least:
            best, least = row, score
    return best


def count_parameters(weights: Path) -> int:
    """Count the numbers learnt in a safetensors file, from its header; no tensor is read.

    The file is 8 bytes of header length (little-endian), the header in JSON, then the tensors.

    Raises:
        ModelError: it cannot be read, or is damaged or cut off.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    try:
        with open(weights, "rb") as file:
            return _count(file)
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read ({error.strerror}); check the file") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error if isinstance(error, _Damaged) else "no safetensors header"
        raise ModelError(f"{weights}: damaged ({reason}); train again") from None


class _Damaged(ValueError):
    """A weights file whose length or tensors do not fit its header."""


def _count(file: BinaryIO) -> int:
    rest = os.fstat(file.fileno()).st_size - 8
    length = int.from_bytes(file.read(8), "little")
    if rest < 0 or length > rest:
        raise _Damaged("its header is cut off")
    if length > HEADER_BYTES:
        raise _Damaged(f"its header would be {length} bytes long")
    header = json.loads(file.read(length).decode("utf-8"))
    header.pop("__metadata__", None)
    tensors = {name: _numbers_and_bytes(tensor, rest - length) for name, tensor in header.items()}
    there, stated = rest - length, sum(size for _, size in tensors.values())
    if there != stated:
        raise _Damaged(f"{there} bytes of tensors where {stated} should be")
    return sum(count for name, (count, _) in tensors.items() if not name.startswith(BESIDE))


def _numbers_and_bytes(tensor: dict[str, Any], most_bytes: int) -> tuple[int, int]:
    """Return how many numbers a tensor of the header holds, and in how many bytes."""
    shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
    if len(shape) > _MOST_AXES or not all(type(n) is int for n in (*shape, begin, end)):
        raise _Damaged("a tensor's shape is no shape")
    if not 0 <= begin <= end or not all(0 <= axis <= end for axis in shape):
        raise _Damaged("a tensor's shape is impossible")
    if end > most_bytes:
        raise _Damaged("it is cut off")
    count = math.prod(shape)
    if count * _DTYPE_BYTES[tensor["dtype"]] != end - begin:
        raise _Damaged("a tensor's shape and bytes differ")
    return count, end - begin


HEADS = ("run", "recipe", "model", "parameters", "epochs", "best error", "at", "time", "finished")
"""Heads of the table's columns."""

_TO_THE_LEFT = ("run", "recipe", "model", "finished")


def table_text(summaries: Sequence[RunSummary]) -> str:
    """Return runs as a table for a terminal: heads, then a line each; ``-`` is not known yet."""
    lines = [HEADS, *map(_cells, summaries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if head in _TO_THE_LEFT else f"{cell:>{width}}"
            for head, cell, width in zip(HEADS, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _cells(run: RunSummary) -> tuple[str, ...]:
    minutes, seconds = divmod(round(run.seconds), 60)
    return (
        printable(run.run),
        printable(run.recipe),
        run.model,
        "-" if run.parameters is None else f"{run.parameters:,}",
        f"{run.epoch}/{run.epochs}",
        "-" if run.best_error is None else f"{100 * run.best_error:.2f} %",
        "-" if run.best_epoch is None else str(run.best_epoch),
        f"{minutes}:{seconds:02}",
        "yes" if run.finished else "no",
    )


def printable(text: str) -> str:
    """Return a name with what would break a line or steer a terminal written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
