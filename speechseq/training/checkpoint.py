"""Checkpoints: all that a resumed training needs, in one safetensors file, no pickle.

The file is whole or not there: it is written under another name and renamed. Chance needs no
state (see `training.data`), so tensors and a few numbers are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from speechseq.errors import ModelError
from speechseq.files import atomic_write
from speechseq.training.notes import Note

FOLDER = "checkpoints"
PATTERN = "step-*.safetensors"


@dataclass
class Progress:
    """Where a training stands: `batch` batches of `epoch` are done, `step` steps in all.

    `loss_sum` is over the batches of this epoch, `skipped` counts those of them whose gradient
    was not finite, `skipped_in_a_row` the last ones, `empty` those without anything to learn.
    `best_score` is the lowest validation score so far, `stale` the validations since it, `seconds`
    the time trained, over all resumptions, `scaler` the state of fp16's loss scaling.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    gradient_norm: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    empty: int = 0
    best_score: tuple[float, float] = (float("inf"), float("inf"))
    stale: int = 0
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether a run was checkpointed yet."""
    return any((folder / FOLDER).glob(PATTERN))


def save_checkpoint(
    folder: Path,
    progress: Progress,
    *,
    network: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
    keep: int,
) -> Path:
    """Write a checkpoint into the run folder and delete all but the newest `keep`."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"averaged.{name}": tensor for name, tensor in averaged.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    path = folder / FOLDER / f"step-{progress.step:08d}.safetensors"
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})
    for old in sorted(path.parent.glob(PATTERN))[:-keep]:
        if old != path:  # a damaged one may bear a later step's name
            old.unlink()
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text as a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(plain, metadata))


def load_newest(
    folder: Path,
    *,
    network: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
    note: Note,
) -> Progress:
    """Fill network, averaged weights and optimiser from the newest readable checkpoint.

    A damaged one is named through `note`, and the one before it is taken.

    Raises:
        ModelError: the run folder holds no usable checkpoint.
    """
    for path in sorted((folder / FOLDER).glob(PATTERN), reverse=True):
        try:
            tensors, progress = _read(path)
            _fill(tensors, network, averaged, optimiser)
            return progress
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            note(f"{path}: damaged ({reason}); taking the checkpoint before it")
    raise ModelError(f"{folder}: holds no usable checkpoint; train again without --resume")


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    with safe_open(path, "pt") as file:
        values = json.loads((file.metadata() or {})["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    values["best_score"] = tuple(values["best_score"])
    return tensors, Progress(**values)


def _fill(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    averaged: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    network.load_state_dict(_below("network.", tensors))
    averaged.load_state_dict(_below("averaged.", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimiser.", tensors).items():
        number, _, field = name.partition(".")
        states.setdefault(int(number), {})[field] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
