"""train(recipe): from a recipe to a run folder that holds a shippable model file.

Read it from top to bottom: data, preflight, network, steps, validation, export.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from speechseq.corpora import CORPORA
from speechseq.decoding import decoder_for
from speechseq.errors import DataError
from speechseq.files import atomic_write
from speechseq.manifest import shared_audio
from speechseq.metrics import accuracy, total_rate, word_errors
from speechseq.recipe import Recipe
from speechseq.splits import training_splits
from speechseq.tokens import Vocabulary
from speechseq.training.augment import spec_augment
from speechseq.training.checkpoint import (
    FOLDER,
    PATTERN,
    Progress,
    load_newest,
    save_checkpoint,
    write_tensors,
)
from speechseq.training.data import (
    Batch,
    Example,
    TrainingData,
    noise_log_mels,
    validation_batches,
)
from speechseq.training.encoder import SpeechNetwork, choose_device, load_network
from speechseq.training.export import export_run
from speechseq.training.preflight import (
    Split,
    drop_infeasible,
    fit_cmvn,
    make_split,
    preflight,
    spells_joins,
    vocabulary_of,
)
from speechseq.training.run_folder import METRICS, MODEL, WEIGHTS, begin_run, read_run, refuse_run

CHECKPOINT_SECONDS = 600
"""A long epoch is checkpointed this often inside it, too."""

Note = Callable[[str], None]
Show = Callable[[str, int, int], None]


def train(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    note: Note = lambda text: None,
    show: Show = lambda what, done, of: None,
) -> Path:
    """Train a recipe into the folder `run` and return the exported model file.

    The folder gets the resolved recipe, vocabulary, metrics (JSON lines, TensorBoard), versions,
    checkpoints, the best weights and ``model.onnx``. SIGINT and SIGTERM leave a checkpoint.

    Raises:
        DataError: corpus, split or text is missing or cannot be learnt from.
        ModelError: `run` holds a run already, or, with `resume`, none.
        KeyboardInterrupt: stopped by a signal, after the checkpoint is written.
        GateFailed: the exported file does not compute what the network computes.
    """
    with _flushed_denormals():
        training = prepare(recipe, run, device=device, resume=resume, note=note, show=show)
        run_epochs(training, note, show)
    recipe, vocabulary = training.recipe, training.vocabulary
    best = load_network(run / WEIGHTS, recipe, len(vocabulary))
    clips = [u for u in training.validation.utterances if u.audio_filepath]
    return export_run(best, recipe, vocabulary, run / MODEL, utterances=clips, note=note)


def run_epochs(training: Training, note: Note, show: Show) -> None:
    """Run the epochs that are left; each ends with a validation, a checkpoint and a line.

    Raises:
        KeyboardInterrupt: stopped by a signal, after a checkpoint.
    """
    saved = time.perf_counter()
    with _metrics(training.run, training.progress) as write, _stop_requested() as stopped:
        while not training.finished():
            began = time.perf_counter()
            for batch in training.batches():
                training.step(batch)
                show(training.status(), training.progress.batch, len(training.plan))
                if stopped() or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    training.progress.seconds += time.perf_counter() - began
                    began = saved = time.perf_counter()
                    training.checkpoint()
                if stopped():
                    at = training.progress.step
                    note(f"stopped at step {at}; go on with --resume {training.run}")
                    raise KeyboardInterrupt
            training.progress.seconds += time.perf_counter() - began
            row = training.end_epoch()
            write(row)
            training.checkpoint()
            note(_line(row, training.recipe.training.epochs))


def prepare(
    recipe: Recipe, run: Path, *, device: str, resume: bool, note: Note, show: Show
) -> Training:
    """Read the data, build the network (or take up the newest checkpoint) and say what is ahead.

    Raises: as `train`.
    """
    where = choose_device(device)
    if resume:
        recipe, vocabulary = read_run(run)
    else:
        refuse_run(run)
    torch.manual_seed(recipe.seed)
    utterances, held = training_splits(recipe.data, recipe.seed)
    if shared := shared_audio(utterances, held):
        raise DataError(
            f"data: train and validation share {len(shared)} clips, {min(shared)} first"
        )
    if not resume:
        vocabulary = vocabulary_of(recipe, utterances)
    split = make_split(recipe, vocabulary, utterances, recipe.augment.speeds, show)
    split = drop_infeasible(recipe, split, note)
    data = TrainingData(
        split.log_mels,
        split.labels,
        noise_log_mels(recipe, CORPORA[recipe.data.corpus]),
        recipe,
        space=[vocabulary.tokens.index(" ")] if spells_joins(recipe) else [],
    )
    network = SpeechNetwork(recipe, len(vocabulary)).to(where)
    fit_cmvn(network, split.log_mels, recipe.augment.speeds)
    training = Training(
        recipe=recipe,
        run=run,
        device=where,
        vocabulary=vocabulary,
        data=data,
        validation=make_split(recipe, vocabulary, held, (1.0,), show),
        network=network,
        averaged=copy.deepcopy(network).eval(),
        optimiser=torch.optim.AdamW(
            network.parameters(),
            lr=recipe.training.learning_rate,
            weight_decay=recipe.training.weight_decay,
        ),
        steps=data.steps(recipe.training.epochs),
    )
    lines = preflight(split, training.validation, vocabulary, network=network, steps=training.steps)
    for line in lines:
        note(line)
    if resume:
        training.take_up(note)
    else:
        begin_run(run, recipe, vocabulary)
    return training


@dataclass
class Training:
    """A training under way: everything a step, a validation or a checkpoint needs."""

    recipe: Recipe
    run: Path
    device: torch.device
    vocabulary: Vocabulary
    data: TrainingData
    validation: Split
    network: SpeechNetwork
    averaged: SpeechNetwork
    optimiser: torch.optim.Optimizer
    steps: int
    progress: Progress = field(default_factory=Progress)
    plan: Sequence[Sequence[Example]] = ()

    def finished(self) -> bool:
        """Tell whether all epochs are done, or patience is at its end."""
        settings, progress = self.recipe.training, self.progress
        impatient = bool(settings.patience) and progress.stale >= settings.patience
        return progress.epoch >= settings.epochs or impatient

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of this epoch that are still to be done."""
        self.plan = self.data.epoch(self.progress.epoch)
        for number in range(self.progress.batch, len(self.plan)):
            yield self.data.batch(self.plan[number], self.progress.epoch, number)

    def step(self, batch: Batch) -> None:
        """Move the weights, and after them their average, by one batch."""
        progress, settings = self.progress, self.recipe.training
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, progress.step, self.steps)
        # Dropout's chance follows from the step too, so a resumed step repeats exactly.
        torch.manual_seed(self.recipe.seed * 1_000_003 + progress.step)
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm))
        if math.isfinite(norm):
            self.optimiser.step()
            progress.loss_sum += float(loss.detach())
            progress.gradient_norm = norm
        else:
            progress.skipped += 1
        progress.step += 1
        progress.batch += 1
        _average(self.averaged, self.network, settings.ema, progress.step)

    def _loss(self, batch: Batch) -> Tensor:
        augment, recipe = self.recipe.augment, self.recipe
        self.network.train()
        lengths = batch.lengths.to(self.device)
        log_mels = batch.log_mels.to(self.device, non_blocking=True)
        frames = spec_augment(
            self.network.features.finish(log_mels, lengths),
            batch.lengths,
            augment,
            mask_frames=round(augment.time_mask_seconds / recipe.features.hop_seconds),
            rng=np.random.default_rng([recipe.seed, self.progress.step, 1]),
        )
        return loss_of(
            *self.network.from_features(frames, lengths),
            batch.labels.to(self.device),
            batch.label_lengths.to(self.device),
            recipe.training.label_smoothing,
        )

    def status(self) -> str:
        """Return what to show of the epoch so far."""
        progress = self.progress
        return f"epoch {progress.epoch + 1} loss {self._mean_loss():.3f}"

    def _mean_loss(self) -> float:
        return self.progress.loss_sum / max(self.progress.batch - self.progress.skipped, 1)

    def end_epoch(self) -> dict[str, Any]:
        """Validate, keep the weights if they are the best so far; return the epoch's metrics."""
        progress, settings = self.progress, self.recipe.training
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "loss": self._mean_loss(),
            "learning_rate": learning_rate(self.recipe, progress.step - 1, self.steps),
            "gradient_norm": progress.gradient_norm,
            "skipped_steps": progress.skipped,
            "seconds": round(progress.seconds, 2),
        }
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.loss_sum, progress.skipped = 0.0, 0
        due = progress.epoch % settings.validate_every == 0
        if due or progress.epoch == settings.epochs:
            row |= validate(
                self.averaged, self.validation, self.vocabulary, self.recipe, self.device
            )
            self._keep_best((row["validation_error"], row["validation_loss"]))
        return row

    def _keep_best(self, score: tuple[float, float]) -> None:
        self.progress.stale += 1
        if score < self.progress.best_score:
            self.progress.best_score, self.progress.stale = score, 0
            write_tensors(self.run / WEIGHTS, self.averaged.state_dict(), {})

    def checkpoint(self) -> None:
        """Write all that resuming needs."""
        save_checkpoint(
            self.run,
            self.progress,
            network=self.network,
            averaged=self.averaged,
            optimiser=self.optimiser,
            keep=self.recipe.training.keep_checkpoints,
        )

    def take_up(self, note: Note) -> None:
        """Go on from the newest checkpoint; from the start, where none was written yet."""
        if not any((self.run / FOLDER).glob(PATTERN)):
            note(f"{self.run}: no checkpoint yet; starting at step 0")
            return
        self.progress = load_newest(
            self.run,
            network=self.network,
            averaged=self.averaged,
            optimiser=self.optimiser,
            note=note,
        )
        note(f"resumed at epoch {self.progress.epoch + 1}, step {self.progress.step}/{self.steps}")


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


def loss_of(
    log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, smoothing: float
) -> Tensor:
    """Return the mean loss of a batch's labels: CTC, or cross-entropy of one class a clip.

    Every label weighs the same; a mean over utterances would let short ones outweigh long ones.
    `log_probs` is (batch, frames, tokens); smoothing mixes in the mean log-probability of all
    tokens, as cross-entropy's label smoothing does.

    Source: Graves et al. 2006 (CTC); Szegedy et al. 2016 (label smoothing).
    """
    mask = torch.arange(log_probs.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    even = -(log_probs.mean(dim=2) * mask).sum() / lengths.sum()
    if log_probs.shape[1] == 1:
        true = nn.functional.nll_loss(log_probs[:, 0], labels)
    else:
        total = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), labels, lengths, label_lengths, reduction="sum"
        )
        true = total / label_lengths.sum()
    return (1 - smoothing) * true + smoothing * even


def _average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the network's; faster early on, with little to keep."""
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)


def validate(
    network: SpeechNetwork,
    split: Split,
    vocabulary: Vocabulary,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, float]:
    """Return loss, accuracy and the error to choose by (WER, or 1 - accuracy) on a split."""
    network.eval()
    decode = decoder_for(vocabulary, recipe.decoding.decoder)
    hypotheses = [""] * len(split.references)
    loss_sum = 0.0
    with torch.inference_mode():
        for numbers, batch in validation_batches(split.log_mels, split.labels, 64):
            lengths = batch.lengths.to(device)
            frames = network.features.finish(batch.log_mels.to(device), lengths)
            log_probs, sizes = network.from_features(frames, lengths)
            loss = loss_of(
                log_probs, sizes, batch.labels.to(device), batch.label_lengths.to(device), 0.0
            )
            loss_sum += float(loss) * len(numbers)
            for number, row, size in zip(
                numbers, log_probs.cpu().numpy(), sizes.tolist(), strict=True
            ):
                hypotheses[number] = vocabulary.decode(decode(row[:size]).tokens)
    right = accuracy(split.references, hypotheses)
    error = 1 - right
    if vocabulary.is_sequence:
        error = total_rate(word_errors(split.references, hypotheses))
    return {
        "validation_loss": loss_sum / len(hypotheses),
        "validation_accuracy": right,
        "validation_error": error,
    }


def _line(row: dict[str, Any], epochs: int) -> str:
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
def _flushed_denormals() -> Iterator[None]:
    """Let numbers near zero be zero: gates and averages reach them, and they are slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _metrics(run: Path, progress: Progress) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a writer of metrics: JSON lines and TensorBoard. Rows after a resumed point go."""
    path = run / METRICS
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [row for row in rows if _step_of(row) <= progress.step]
    with atomic_write(path) as file:
        file.write("".join(f"{row}\n" for row in kept).encode())
    board = SummaryWriter(str(run / "tensorboard"), purge_step=progress.step or None)

    def write(row: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        for name, value in row.items():
            board.add_scalar(name, value, row["step"])
        board.flush()

    try:
        yield write
    finally:
        board.close()


def _step_of(row: str) -> float:
    """Return a row's step; infinity for a row that a kill tore apart, which goes, too."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a question: has SIGINT or SIGTERM come? A second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
