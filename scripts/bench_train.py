"""Measure training: what it adds to the bare network, and how it does beside a plain script.

    python scripts/bench_train.py [--recipe recipes/fsdd/single.yaml] [--batches 0] [key=value …]

One run, three tables: (1) an epoch of the real training against forward, loss and backward of the
bare network on the same batches, made beforehand; (2) clips per second against a plain script as
in most tutorials (features clip by clip in a DataLoader, random padded batches, the built-in cell
on packed sequences) of the same sizes, without augmentation on either side, nor, in both, a second
view, a teacher and further losses; (3) log-mels in
batches against librosa's. What is compared takes turns, batch by batch, so that whatever else the
machine does falls on both alike.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from command_line import natural, one_line_errors, parser_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

from speechseq.manifest import Utterance, read_utterance
from speechseq.padding import pad
from speechseq.recipe import AugmentSettings, Recipe
from speechseq.recipe_file import read_recipe
from speechseq.splits import training_splits
from speechseq.training.base import settings_of_base
from speechseq.training.distributed import World
from speechseq.training.encoder import CELLS
from speechseq.training.features import LogMel
from speechseq.training.front_ends import FRONT_ENDS
from speechseq.training.loop import prepare
from speechseq.training.loss import loss_of
from speechseq.training.step import Training

Item = tuple[Tensor, Tensor]
"""One clip of the plain script: features (frames, mels) and token numbers."""

EPOCH_AIM = 1.15
"""Greatest ratio of an epoch to the bare network's forward and backward."""


def in_turn(first: Callable[[int], Any], second: Callable[[int], Any], count: int) -> list[float]:
    """Do both works for 0 to `count` - 1, taking turns; return the seconds of each."""
    seconds = [0.0, 0.0]
    for number in range(count):
        for which, work in enumerate((first, second)):
            began = time.perf_counter()
            work(number)
            seconds[which] += time.perf_counter() - began
    return seconds


def line(name: str, value: str) -> None:
    """Print one row of a table."""
    print(f"  {name:50} {value:>9}")


def alike(recipe: Recipe) -> Recipe:
    """Return a recipe without what its training alone would pay for: what is compared has it not.

    These are a second view, a teacher and further losses; and the weights of a base, whose settings
    stay.
    """
    recipe = settings_of_base(recipe)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, pronunciations=""),
        model=dataclasses.replace(recipe.model, phones=0.0),
        training=dataclasses.replace(
            recipe.training,
            base="",
            frozen_epochs=0,
            teacher="",
            accumulate=1,
            consistency=0.0,
            intermediate=0.0,
            auxiliary=0.0,
            logit_adjustment=0.0,
        ),
    )


def begin(recipe: Recipe, folder: str) -> Training:
    """Return a training ready for its first step, its features cached."""
    quiet: Any = lambda *_: None  # noqa: E731
    run = Path(folder, recipe.name)
    cpu = torch.device("cpu")
    return prepare(recipe, run, device=cpu, world=World(), resume=False, note=quiet, show=quiet)


# ---- an epoch against the bare network ----


def bench_epoch(recipe: Recipe, folder: str, batches: int) -> None:
    """Print an epoch's time beside the bare network's on the same batches."""
    training = begin(recipe, folder)
    network = copy.deepcopy(training.network).train()
    ready = []
    for (batch,) in itertools.islice(training.batches(), batches or None):
        frames = network.features.finish(batch.log_mels, batch.lengths)
        ready.append((frames, batch.lengths, batch.labels, batch.label_lengths))

    def bare(number: int) -> None:
        frames, lengths, labels, label_lengths = ready[number]
        network.zero_grad(set_to_none=True)
        outcome = network.from_features(frames, lengths)
        loss = loss_of(*outcome, labels, label_lengths, recipe.training)
        loss.backward()  # type: ignore[no-untyped-call]

    bare(0)
    real = training.batches()
    ours, theirs = in_turn(lambda _: training.step(next(real)), bare, len(ready))
    began = time.perf_counter()
    training.end_epoch()
    training.checkpoint()
    after = time.perf_counter() - began
    print(f"{recipe.name}: {len(ready)} of {training.data.steps_of(0)} batches of an epoch")
    line("training (batches, augmentation, steps, average)", f"{ours:.2f} s")
    line("bare network: forward, loss, backward", f"{theirs:.2f} s")
    line(f"ratio (aim: at most {EPOCH_AIM})", f"{ours / theirs:.3f}")
    line("validation and checkpoint at an epoch's end", f"{after:.2f} s")


# ---- against a plain script ----


class PlainClips(Dataset[Item]):
    """Reads a clip and computes its log-mels whenever it is asked for."""

    def __init__(self, utterances: list[Utterance], labels: list[Tensor], recipe: Recipe):
        self.utterances, self.labels, self.settings = utterances, labels, recipe.features
        self.mel = LogMel(recipe.features).spectrogram  # torchaudio's MelSpectrogram

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, number: int) -> Item:
        samples = torch.from_numpy(read_utterance(self.utterances[number], self.settings.rate))
        edge = self.settings.edge_samples
        power = self.mel(nn.functional.pad(samples, (edge, edge)))
        frames = (power + self.settings.floor).log().T
        return (frames - frames.mean(0)) / (frames.std(0) + 1e-5), self.labels[number]


def plain_collate(items: list[Item]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pad clips to the longest: frames, lengths, labels one after the other, their lengths."""
    frames, labels = zip(*items, strict=True)
    return (
        pad_sequence(list(frames), batch_first=True),
        torch.tensor([len(clip) for clip in frames]),
        torch.cat(labels),
        torch.tensor([len(label) for label in labels]),
    )


class PlainNetwork(nn.Module):
    """The recipe's front end and sizes, with the built-in cell on packed sequences."""

    def __init__(self, recipe: Recipe, tokens: int):
        super().__init__()
        model = recipe.model
        self.front_end = FRONT_ENDS[model.front_end](recipe.features.mels, model)
        self.cell = CELLS[model.cell](
            self.front_end.dims,
            model.hidden,
            model.layers,
            batch_first=True,
            bidirectional=model.bidirectional,
            dropout=model.dropout if model.layers > 1 else 0.0,
        )
        self.output = nn.Linear(model.hidden * (2 if model.bidirectional else 1), tokens)
        self.classify = model.head == "classify"

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames, lengths = self.front_end(frames, lengths)
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True)
        if self.classify:
            states = states.sum(1, keepdim=True) / lengths.view(-1, 1, 1)
            lengths = torch.ones_like(lengths)
        return self.output(states).log_softmax(dim=-1), lengths


def plain_steps(training: Training) -> Iterator[int]:
    """Train the plain script; yield the clips of each step when it is done."""
    recipe = training.recipe
    utterances = training_splits(recipe.data, recipe.seed)[0]
    tokens = [torch.tensor(training.vocabulary.encode(u.text)) for u in utterances]
    clips = PlainClips(utterances, tokens, recipe)
    loader = DataLoader(clips, recipe.training.batch, shuffle=True, collate_fn=plain_collate)
    network = PlainNetwork(recipe, len(training.vocabulary))
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.training.learning_rate)
    while True:
        for frames, lengths, labels, label_lengths in loader:
            log_probs, sizes = network(frames, lengths)
            loss = loss_of(log_probs, sizes, labels, label_lengths)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), recipe.training.clip_norm)
            optimiser.step()
            yield len(lengths)


def bench_plain(recipe: Recipe, folder: str, batches: int) -> None:
    """Print clips per second of the real training and of the plain script."""
    bare = dataclasses.replace(recipe, name=f"{recipe.name}-bare", augment=AugmentSettings())
    training = begin(bare, folder)
    steps, real = plain_steps(training), training.batches()
    next(steps)
    clips = [0, 0]

    def step(_: int) -> None:
        batch = next(real)
        training.step(batch)
        clips[0] += sum(len(piece.lengths) for piece in batch)

    def plain_step(_: int) -> None:
        clips[1] += next(steps)

    epoch = training.data.steps_of(0)
    ours, theirs = in_turn(step, plain_step, min(batches or epoch, epoch))
    rates = clips[0] / ours, clips[1] / theirs
    print(f"without augmentation, batches of {recipe.training.batch}")
    line("training", f"{rates[0]:.0f} clips/s")
    line("plain script", f"{rates[1]:.0f} clips/s")
    line("ratio", f"{rates[0] / rates[1]:.2f}")


# ---- log-mels ----


def librosa_log_mel(samples: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return librosa's log-mels (frames, mels) of one clip (samples,)."""
    settings = recipe.features
    power = librosa.feature.melspectrogram(
        y=np.pad(samples, settings.edge_samples),
        sr=settings.rate,
        n_fft=settings.transform_samples,
        hop_length=settings.hop_samples,
        win_length=settings.window_samples,
        fmin=settings.low_hz,
        fmax=settings.top_hz,
        n_mels=settings.mels,
        htk=settings.mel_scale == "htk",
        norm="slaney" if settings.mel_scale == "slaney" else None,
        pad_mode="constant",
    )
    return np.log(power.T + settings.floor)


def bench_log_mels(recipe: Recipe, count: int = 640, size: int = 64) -> None:
    """Print clips per second of LogMel in batches of like length and of librosa, clip by clip."""
    found = training_splits(recipe.data, recipe.seed)[0]
    chosen = found[:: max(len(found) // count, 1)][:count]
    clips = [read_utterance(utterance, recipe.features.rate) for utterance in chosen]
    clips.sort(key=len)
    groups = [clips[at : at + size] for at in range(0, len(clips), size)]
    log_mel = LogMel(recipe.features)

    def batched(number: int) -> Tensor:
        with torch.inference_mode():
            return log_mel(*map(torch.from_numpy, pad(groups[number])))[0]

    def one_by_one(number: int) -> list[np.ndarray]:
        return [librosa_log_mel(clip, recipe) for clip in groups[number]]

    apart = np.abs(batched(0)[len(groups[0]) - 1].numpy() - one_by_one(0)[-1])
    ours, theirs = in_turn(batched, one_by_one, len(groups))
    print(f"log-mels of {len(clips)} clips; of one, at most {apart.max():.0e} apart")
    line(f"LogMel, batches of {size}", f"{len(clips) / ours:.0f} clips/s")
    line("librosa, one by one", f"{len(clips) / theirs:.0f} clips/s")
    line("ratio", f"{theirs / ours:.2f}")


def main() -> None:
    """Run the three comparisons on a recipe."""
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/fsdd/single.yaml"))
    parser.add_argument("settings", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--batches", type=int, default=0, help="of each; 0 is an epoch")
    parser.add_argument("--threads", type=natural, default=1, help="PyTorch's (default: 1)")
    arguments = parser.parse_args()
    if arguments.batches < 0:
        parser.error("--batches: 0 or more goes here")
    torch.set_num_threads(arguments.threads)
    with one_line_errors():
        recipe = alike(read_recipe(arguments.recipe, arguments.settings))
        with tempfile.TemporaryDirectory() as folder:
            bench_epoch(recipe, folder, arguments.batches)
            bench_plain(recipe, folder, arguments.batches)
        bench_log_mels(recipe)


if __name__ == "__main__":
    main()
