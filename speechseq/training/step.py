"""A training under way: one step, one epoch's end, and what is kept of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechseq.errors import DataError
from speechseq.files import remove_leftovers
from speechseq.manifest import write_manifest
from speechseq.model_file import RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary
from speechseq.training.checkpoint import (
    FOLDER,
    Progress,
    has_checkpoint,
    load_newest,
    save_checkpoint,
    write_tensors,
)
from speechseq.training.data import Batch, Batches, Share
from speechseq.training.distributed import World
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.loss import Sums, weight_of
from speechseq.training.notes import Note
from speechseq.training.objective import Objective, from_features
from speechseq.training.preflight import Split
from speechseq.training.run_folder import BAD_BATCH
from speechseq.training.validation import Validation, validate


@dataclass
class Training:
    """Everything a step, a validation or a checkpoint needs.

    `parallel` is the network from its features on, shared with the other processes of `world`.
    While the weights are `moving`, they are not worth a checkpoint.
    """

    recipe: Recipe
    run: Path
    device: torch.device
    world: World
    vocabulary: Vocabulary
    data: Batches
    validation: Split
    network: SpeechNetwork
    parallel: nn.Module
    objective: Objective
    averaged: SpeechNetwork
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps: int
    note: Note
    progress: Progress = field(default_factory=Progress)
    validated: Validation | None = None
    moving: bool = False

    def finished(self) -> bool:
        """Tell whether all epochs are done, or patience is at its end."""
        settings, progress = self.recipe.training, self.progress
        impatient = bool(settings.patience) and progress.stale >= settings.patience
        return progress.epoch >= settings.epochs or impatient

    def batches(self) -> Iterator[list[Batch]]:
        """Yield, for each step of this epoch still to be done, the pieces of its batch."""
        share = Share(self.world.rank, self.world.size, self.recipe.training.accumulate)
        return self.data.batches(self.progress.epoch, self.progress.batch, share)

    def step(self, pieces: Sequence[Batch], stop: bool = False) -> bool:
        """Move the weights, and after them their average, by one batch, taken in pieces.

        Returns whether any process was asked to stop: all of them see the same answer.

        Raises:
            DataError: too many steps in a row had no finite gradient.
        """
        progress, settings = self.progress, self.recipe.training
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, progress.step, self.steps)
        # Dropout's chance follows from the step too, so a resumed step repeats exactly.
        chance = (self.recipe.seed * 1_000_003 + progress.step) * self.world.size
        torch.manual_seed(chance + self.world.rank)
        labels, frames, stops = self.world.total(self._counts(pieces, stop))
        if not labels:  # all that this step should have heard was damaged
            progress.empty += 1
            self._count()
            return bool(stops > 0)
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            # Only the last piece's gradients travel.
            with nullcontext() if last else self.world.apart(self.parallel):
                part = self._sums(self.parallel, piece).over(labels, frames, settings)
                # Gradients are averaged over processes, and the parts' sum is the mean.
                scaled = self.scaler.scale(part * piece.weight * self.world.size)
                scaled.backward()  # type: ignore[no-untyped-call]
            loss += part.detach() * piece.weight
        self._move(float(self.world.total(loss)), pieces)
        return bool(stops > 0)

    def _counts(self, pieces: Sequence[Batch], stop: bool) -> Tensor:
        """Count labels and output frames of this process' pieces; add its wish to stop."""
        labels = frames = 0.0
        for piece in pieces:
            heard = self.recipe.model.output_frames(piece.lengths).sum()
            labels += piece.weight * int(weight_of(piece.label_lengths))
            frames += piece.weight * int(
                heard if self.vocabulary.is_sequence else len(piece.lengths)
            )
        return torch.tensor([labels, frames, float(stop)], device=self.device)

    def _sums(self, network: nn.Module, batch: Batch) -> Sums:
        if not self.network.training:
            self.network.train()
        return self.objective.sums(network, batch, self.progress.step)

    def _move(self, loss: float, pieces: Sequence[Batch]) -> None:
        """Step along the gradients, where they are finite."""
        progress, settings = self.progress, self.recipe.training
        if progress.epoch < settings.frozen_epochs:
            for parameter in self.network.encoder.parameters():
                parameter.grad = None
        self.scaler.unscale_(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm))
        if math.isfinite(norm) and math.isfinite(loss):
            self.moving = True
            self.scaler.step(self.optimiser)
            self.moving = False
            progress.loss_sum += loss
            progress.gradient_norm = norm
            progress.skipped_in_a_row = 0
        else:
            self._skip(pieces, settling=self.scaler.is_enabled() and math.isfinite(loss))
        if self.scaler.is_enabled():
            self.scaler.update()
        self._count()
        _average(self.averaged, self.network, settings.ema, progress.step)

    def _count(self) -> None:
        self.progress.step += 1
        self.progress.batch += 1

    def _skip(self, pieces: Sequence[Batch], *, settling: bool) -> None:
        """Count, and name, a batch that gave no finite loss or gradient; stop at too many.

        While fp16's loss scale is `settling`, gradients overflow in a sound batch, too.
        """
        progress = self.progress
        progress.skipped += 1
        if settling and self.scaler.get_scale() > 1:
            return
        progress.skipped_in_a_row += 1
        own = [u for piece in pieces if piece.weight for u in piece.utterances]
        batch = self.world.gather(own)
        names = ", ".join(utterance.key for utterance in batch[:4])
        self.note(
            f"step {progress.step} skipped: loss or gradient not finite; {names}"
            + (f" and {len(batch) - 4} more" if len(batch) > 4 else "")
        )
        if progress.skipped_in_a_row >= self.recipe.training.stop_after_skips:
            if self.world.writes:
                write_manifest(self.run / BAD_BATCH, batch)
            raise DataError(
                f"{self.run / BAD_BATCH}: {progress.skipped_in_a_row} steps in a row without a "
                f"finite loss and gradient, the last one's utterances are here; look at them, or "
                f"lower training.learning_rate"
            )

    def try_largest(self) -> str:
        """Run the batch that takes most memory forth and back, and forget it; say what it took.

        Raises:
            DataError: it does not fit.
        """
        what = "of the first epoch"
        try:
            batch = self.data.largest()
            rows = batch.lengths.tolist()
            share = -(-len(rows) // (self.world.size * self.recipe.training.accumulate))
            longest = max(rows) * self.recipe.features.hop_seconds
            named = f", {batch.utterances[0].key} among them" if batch.utterances else ""
            what = f"{share} utterances of up to {longest:.1f} s{named}"
            sums = self._sums(from_features(self.network, self.recipe), _first(batch, share))
            loss = sums.over(sums.labels, sums.frames, self.recipe.training)
            loss.backward()  # type: ignore[no-untyped-call]
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise DataError(
                f"training: the largest batch ({what}) does not fit into memory; raise "
                f"training.accumulate (now {self.recipe.training.accumulate}) or lower "
                f"training.batch"
            ) from None
        finally:
            self.optimiser.zero_grad(set_to_none=True)
        if self.device.type != "cuda":
            return f"largest batch: {what}"
        used = torch.cuda.max_memory_allocated(self.device) / 1e9
        return f"largest batch: {what}; {used:.2f} GB on the device"

    def status(self) -> str:
        """Return what to show of the epoch so far."""
        return f"epoch {self.progress.epoch + 1} loss {self._mean_loss():.3f}"

    def _mean_loss(self) -> float:
        progress = self.progress
        return progress.loss_sum / max(progress.batch - progress.skipped - progress.empty, 1)

    def end_epoch(self) -> dict[str, Any]:
        """Validate, keep the weights where they are wanted; return the epoch's metrics."""
        progress, settings = self.progress, self.recipe.training
        ended = progress.epoch + 1
        row: dict[str, Any] = {
            "epoch": ended,
            "step": progress.step,
            "loss": self._mean_loss(),
            "learning_rate": learning_rate(self.recipe, progress.step - 1, self.steps),
            "gradient_norm": progress.gradient_norm,
            "skipped_steps": progress.skipped,
            "seconds": round(progress.seconds, 2),
        }
        self.validated = None
        if ended % settings.validate_every == 0 or ended == settings.epochs:
            self.validated = validate(
                self.averaged,
                self.validation,
                self.vocabulary,
                recipe=self.recipe,
                device=self.device,
                world=self.world,
            )
            row |= self.validated.row()
        # Only now: a process that dies in the validation leaves an epoch that is still to be ended.
        progress.epoch, progress.batch = ended, 0
        progress.loss_sum, progress.skipped, progress.empty = 0.0, 0, 0
        if self.validated:
            self._keep_weights((self.validated.error, self.validated.loss))
            self._warn_of_blanks(self.validated)
        return row

    def _keep_weights(self, score: tuple[float, float]) -> None:
        self.progress.stale += 1
        wanted = self.recipe.training.weights == "last"
        if score < self.progress.best_score:
            self.progress.best_score, self.progress.stale = score, 0
            wanted = True
        if wanted and self.world.writes:
            write_tensors(self.run / RUN_WEIGHTS, self.averaged.state_dict(), {})

    def _warn_of_blanks(self, validated: Validation) -> None:
        """Say so where the network still spells nothing when it should have begun to."""
        late = self.progress.epoch >= max(BLANK_EPOCHS, self.recipe.training.epochs / 5)
        if late and self.vocabulary.is_sequence and not any(validated.hypotheses):
            self.note(
                f"epoch {self.progress.epoch}: the network gives nothing but blanks; try "
                f"model.layer_norm=true, a smaller training.batch, less augmentation, another "
                f"training.learning_rate, or more epochs"
            )

    def checkpoint(self) -> None:
        """Write all that resuming needs."""
        self.progress.scaler = dict(self.scaler.state_dict())
        if self.world.writes:
            save_checkpoint(
                self.run,
                self.progress,
                network=self.network,
                averaged=self.averaged,
                optimiser=self.optimiser,
                keep=self.recipe.training.keep_checkpoints,
            )

    def take_up(self) -> None:
        """Go on from the newest checkpoint; from the start, where none was written yet."""
        if self.world.writes:
            remove_leftovers(self.run)
            remove_leftovers(self.run / FOLDER)
        if not has_checkpoint(self.run):
            self.note(f"{self.run}: no checkpoint yet; starting at step 0")
            return
        self.progress = load_newest(
            self.run,
            network=self.network,
            averaged=self.averaged,
            optimiser=self.optimiser,
            note=self.note,
        )
        if self.scaler.is_enabled() and self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
        over = self.progress.epoch >= self.recipe.training.epochs
        at = "behind the last epoch" if over else f"at epoch {self.progress.epoch + 1}"
        self.note(f"resumed {at}, step {self.progress.step}/{self.steps}")


BLANK_EPOCHS = 5
"""CTC begins by spelling nothing; only after so many epochs is that a bad sign."""


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; on the CPU torch says so in words alone."""
    said = any(words in str(error) for words in ("out of memory", "allocate memory"))
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _first(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch, as wide as it was."""
    labels = int(batch.label_lengths[:rows].sum())
    return Batch(
        batch.log_mels[:rows],
        batch.lengths[:rows],
        batch.labels[:labels],
        batch.label_lengths[:rows],
        batch.rows[:rows],
    )


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine down to nearly zero.

    one_cycle warms up over `warm_up` of the steps; cosine starts at the top.

    Source: Smith and Topin 2018, Super-Convergence; Loshchilov and Hutter 2017, SGDR.
    """
    settings = recipe.training
    warm = round(settings.warm_up * steps) if settings.schedule == "one_cycle" else 0
    if step < warm:
        return settings.learning_rate * (0.04 + 0.96 * step / warm)
    share = (step - warm) / max(steps - warm, 1)
    return settings.learning_rate * (0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 1e-4)


def _average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the network's; faster early on, with little to keep."""
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
