"""Utterances to batches: the feature cache, length buckets, and what an epoch looks like.

All chance is a function of (seed, epoch, batch, row): a row of a batch can be made again without
what comes before it. That makes resuming exact, and a batch the same however many processes share
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from speechseq.audio import SUFFIXES, read_audio
from speechseq.errors import DataError
from speechseq.files import CACHE_VARIABLE, atomic_write, cache_folder
from speechseq.manifest import NOISE_TRAINING_SHARE, Corpus, Utterance, read_utterance
from speechseq.recipe import FeatureSettings, Recipe
from speechseq.recogniser import pad
from speechseq.training.augment import (
    ALONE_SECONDS,
    NOISE_TILTS,
    augment,
    change_speed,
    coloured_noise,
    cut_ends,
    join,
    noise_alone,
    splice,
    uneven_noise,
)
from speechseq.training.features import LogMel

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and of how many."""

NOISE_SECONDS = 10.0
"""Length of each coloured noise, and of the pieces recordings of noise are cut into."""

UNEVEN_NOISES = 24
"""How many noises are made that swell and fade, each with a spectrum of its own."""

SORT_JITTER = 0.1
"""Share by which lengths are disturbed before sorting, so that batches differ between epochs."""


@dataclass(frozen=True)
class LogMels:
    """Log-mels of many clips in one array `frames` (total frames, mels), in RAM or mapped.

    Clip n at speed s is ``frames[starts[n, s] : starts[n, s] + lengths[n, s]]``.
    """

    frames: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def clip(self, number: int, speed: int = 0) -> np.ndarray:
        """Return the log-mels (frames, mels) of one clip at one speed."""
        start = self.starts[number, speed]
        return self.frames[start : start + self.lengths[number, speed]]


def cached_log_mels(
    utterances: Sequence[Utterance],
    features: FeatureSettings,
    speeds: Sequence[float] = (1.0,),
    *,
    ram_gigabytes: float,
    progress: Progress | None = None,
) -> LogMels:
    """Return the log-mels of every utterance at every speed, computed once and kept on disk.

    The cache is named by a hash of what the numbers depend on: settings, speeds, and each
    source's path, size and time. Up to `ram_gigabytes` it is read into RAM, else mapped.

    Raises:
        AudioError: an utterance cannot be read.
        DataError: the cache cannot be written.
    """
    key = _cache_key(utterances, features, speeds)
    folder = cache_folder()
    data, index = folder / f"{key}.f32", folder / f"{key}.json"
    if not index.is_file() or not data.is_file():
        _build_cache(data, index, utterances, features, speeds, progress)
    table = json.loads(index.read_text())
    lengths = np.array(table["lengths"], dtype=np.int64)
    starts = (np.cumsum(lengths.ravel()) - lengths.ravel()).reshape(lengths.shape)
    shape = (int(lengths.sum()), features.mels)
    if data.stat().st_size != shape[0] * shape[1] * 4:
        raise DataError(f"{data}: is not whole; delete it and train again")
    frames: np.ndarray = np.memmap(data, np.float32, "r", shape=shape)
    if frames.nbytes <= ram_gigabytes * 1e9:
        frames = np.array(frames)
    return LogMels(frames, starts, lengths)


_AFTER_LOG_MELS = ("kind", "coefficients", "deltas", "cmvn")
"""Feature settings that the cached log-mels do not depend on."""


def _cache_key(
    utterances: Sequence[Utterance], features: FeatureSettings, speeds: Sequence[float]
) -> str:
    """Hash what log-mels depend on; MFCCs, deltas and CMVN are computed from them later."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in asdict(features).items() if k not in _AFTER_LOG_MELS}
    digest.update(json.dumps(["log-mels 1", settings, list(speeds)]).encode())
    sizes: dict[str, tuple[int, int]] = {"": (0, 0)}
    for u in utterances:
        if u.audio_filepath not in sizes:
            source = Path(u.audio_filepath)
            status = source.stat() if source.exists() else None
            sizes[u.audio_filepath] = (status.st_size, status.st_mtime_ns) if status else (-1, -1)
        digest.update(
            repr(
                (u.audio_filepath, u.offset, u.duration, u.volume, sizes[u.audio_filepath])
            ).encode()
        )
    return digest.hexdigest()[:32]


def _build_cache(
    data: Path,
    index: Path,
    utterances: Sequence[Utterance],
    features: FeatureSettings,
    speeds: Sequence[float],
    progress: Progress | None,
) -> None:
    lengths = []
    try:
        with atomic_write(data) as file:
            for number, clip in enumerate(_compute(utterances, features, speeds)):
                lengths.append([len(frames) for frames in clip])
                for frames in clip:
                    file.write(np.ascontiguousarray(frames).data)
                if progress:
                    progress("features", number + 1, len(utterances))
        with atomic_write(index) as file:
            file.write(json.dumps({"lengths": lengths, "mels": features.mels}).encode())
    except DataError as error:
        raise DataError(f"{error}, or set {CACHE_VARIABLE} to another folder") from None


def _compute(
    utterances: Sequence[Utterance], features: FeatureSettings, speeds: Sequence[float]
) -> Iterator[list[np.ndarray]]:
    """Yield each utterance's log-mels (frames, mels), one array a speed."""
    log_mel = LogMel(features)
    for utterance in utterances:
        samples = read_utterance(utterance, features.rate)
        clips, lengths = pad([change_speed(samples, features.rate, speed) for speed in speeds])
        with torch.inference_mode():
            frames, sizes = log_mel(torch.from_numpy(clips), torch.from_numpy(lengths))
        yield [row[:size].numpy() for row, size in zip(frames, sizes.tolist(), strict=True)]


def noise_log_mels(recipe: Recipe, corpus: Corpus) -> list[np.ndarray]:
    """Return log-mels (frames, mels) of noise to mix in: made noise, and the corpus' own."""
    if not recipe.augment.noise_probability:
        return []
    rate = recipe.features.rate
    rng = np.random.default_rng(recipe.seed)
    size = round(NOISE_SECONDS * rate)
    clips = [coloured_noise(size, tilt, rng) for tilt in NOISE_TILTS]
    clips += [uneven_noise(size, rate, rng) for _ in range(UNEVEN_NOISES)]
    folder = corpus.locate(recipe.data.root) / corpus.noise if corpus.noise else None
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                recording = read_audio(path, rate)
                clips.append(recording[: round(NOISE_TRAINING_SHARE * len(recording))])
    log_mel = LogMel(replace(recipe.features, edge_seconds=0.0))
    with torch.inference_mode():
        return [log_mel(*map(torch.from_numpy, pad([clip])))[0][0].numpy() for clip in clips]


@dataclass(frozen=True)
class Batch:
    """Padded log-mels (batch, frames, mels), their lengths, and labels one after the other.

    `rows` are the places of its examples in the whole step's batch, `utterances` what they are
    made of. A batch that only keeps a process in step with the others has `weight` 0.
    """

    log_mels: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    rows: tuple[int, ...] = ()
    utterances: tuple[Utterance, ...] = ()
    weight: float = 1.0


Example = list[tuple[int, int]]
"""One training example: the (utterance, speed) pairs it strings together."""


@dataclass(frozen=True)
class Share:
    """Which of a step's examples are this process' own, and in how many pieces it takes them.

    However the examples are shared out, they are the same, and so is the step.
    """

    rank: int = 0
    ranks: int = 1
    pieces: int = 1

    def rows(self, size: int) -> list[list[int]]:
        """Return the places of this process' examples in a batch of `size`, for each piece."""
        stride = self.ranks * self.pieces
        return [list(range(self.rank + self.ranks * n, size, stride)) for n in range(self.pieces)]


class Batches(Protocol):
    """What training asks of its data; `TrainingData` lists it, `stream.StreamData` streams it."""

    def steps(self, epochs: int) -> int:
        """Count the batches of so many epochs."""

    def steps_of(self, epoch: int) -> int:
        """Count the batches of one epoch."""

    def batches(self, epoch: int, first: int, share: Share) -> Iterator[list[Batch]]:
        """Yield the pieces of each step of an epoch that are this process', from step `first`."""

    def largest(self) -> Batch:
        """Return a batch of a step that takes most memory."""


@dataclass(frozen=True)
class TrainingData:
    """The training set as batches; `labels` are each utterance's token numbers.

    `space` stands between joined ones; `none` are the classes of none of the words, unknown first.
    """

    utterances: Sequence[Utterance]
    log_mels: LogMels
    labels: Sequence[Sequence[int]]
    noises: Sequence[np.ndarray]
    recipe: Recipe
    space: Sequence[int] = ()
    none: Sequence[int] = ()

    def epoch(self, epoch: int) -> list[list[Example]]:
        """Plan an epoch: every utterance once, in batches of like length, in random order."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        examples = self._examples(rng)
        lengths = np.array([self._frames(example) for example in examples])
        order = np.argsort(lengths * rng.uniform(1 - SORT_JITTER, 1 + SORT_JITTER, len(lengths)))
        size = self.recipe.training.batch
        batches = [
            [examples[number] for number in order[at : at + size]]
            for at in range(0, len(order), size)
        ]
        return [batches[number] for number in rng.permutation(len(batches))]

    def steps(self, epochs: int) -> int:
        """Count the batches of so many epochs; joining makes every epoch's number its own."""
        if self.recipe.augment.join == 1:
            return epochs * len(self.epoch(0))
        return sum(len(self.epoch(epoch)) for epoch in range(epochs))

    def steps_of(self, epoch: int) -> int:
        """Count the batches of one epoch."""
        return len(self.epoch(epoch))

    def shares(self, classes: int) -> Tensor:
        """Return what share of an epoch's examples each class has (classes,)."""
        found = [self._label(example)[0] for batch in self.epoch(0) for example in batch]
        return torch.bincount(torch.tensor(found), minlength=classes) / len(found)

    def batches(self, epoch: int, first: int, share: Share) -> Iterator[list[Batch]]:
        """Yield the pieces of each step of an epoch that are this process', from step `first`."""
        plan = self.epoch(epoch)
        for number in range(first, len(plan)):
            yield [
                self.batch(plan[number], epoch, number, rows)
                for rows in share.rows(len(plan[number]))
            ]

    def largest(self) -> Batch:
        """Return the batch of the first epoch that takes most memory."""
        plan = self.epoch(0)
        sizes = [len(batch) * max(map(self._frames, batch)) for batch in plan]
        number = int(np.argmax(sizes))
        return self.batch(plan[number], 0, number, range(len(plan[number])))

    def batch(
        self,
        examples: Sequence[Example] | Mapping[int, Example],
        epoch: int,
        number: int,
        rows: Sequence[int],
    ) -> Batch:
        """Make the given rows of one batch of a plan: joined, augmented and padded.

        Without rows, the batch's first example comes with weight 0.
        """
        chosen = [examples[row] for row in rows or [0]]
        chances = (
            np.random.default_rng([self.recipe.seed, epoch, number, row]) for row in rows or [0]
        )
        return collate(
            [self._clip(example, rng) for example, rng in zip(chosen, chances, strict=True)],
            [self._label(example) for example in chosen],
            rows=tuple(rows or [0]),
            utterances=tuple(self.utterances[pair[0]] for example in chosen for pair in example),
            weight=1.0 if rows else 0.0,
        )

    def _examples(self, rng: np.random.Generator) -> list[Example]:
        count, speeds = self.log_mels.lengths.shape
        chosen = np.stack([rng.permutation(count), rng.integers(speeds, size=count)], axis=1)
        pairs: list[tuple[int, int]] = [tuple(pair) for pair in chosen.tolist()]
        examples: list[Example] = []
        while pairs:
            size = int(rng.integers(1, self.recipe.augment.join + 1))
            examples.append(pairs[:size])
            pairs = pairs[size:]
        alone = round(self.recipe.augment.noise_alone * len(examples))
        return examples + self._splices(chosen, rng) + [[] for _ in range(alone)]

    def _splices(self, chosen: np.ndarray, rng: np.random.Generator) -> list[Example]:
        """Pair utterances of two different words, to be spliced to clips of none."""
        count = round(self.recipe.augment.splice * len(chosen))
        if not count:
            return []
        labels = np.array([label[0] for label in self.labels])
        known = chosen[~np.isin(labels[chosen[:, 0]], self.none)]
        pairs = known[rng.integers(len(known), size=(count, 2))]
        different = labels[pairs[:, 0, 0]] != labels[pairs[:, 1, 0]]
        return [[tuple(pair) for pair in example] for example in pairs[different].tolist()]

    def _frames(self, example: Example) -> int:
        """Return how long an example is, or for noise alone may be; gaps are left out."""
        if not example:
            return self.recipe.features.frames(round(ALONE_SECONDS[1] * self.recipe.features.rate))
        total = sum(int(self.log_mels.lengths[pair]) for pair in example)
        return total // 2 if self._is_splice(example) else total

    def _is_splice(self, example: Example) -> bool:
        """Tell whether two utterances become one clip; strings of them are for CTC."""
        return bool(self.recipe.augment.splice) and len(example) == 2

    def _clip(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        features, settings = self.recipe.features, self.recipe.augment
        if not example:
            return noise_alone(self.noises[int(rng.integers(len(self.noises)))], features, rng)
        pieces = [self.log_mels.clip(*pair) for pair in example]
        if self._is_splice(example):
            pieces = [splice(*pieces)]
        if settings.cut_seconds:
            pieces = [cut_ends(piece, features, settings.cut_seconds, rng) for piece in pieces]
        reach = round(settings.join_gap_seconds / features.hop_seconds)
        overlap = round(settings.join_overlap_seconds / features.hop_seconds)
        gaps = rng.integers(-overlap, reach + 1, size=len(pieces) - 1).tolist()
        joined = pieces[0] if len(pieces) == 1 else join(pieces, features, gaps)
        return augment(joined, features, settings, self.noises, rng)

    def _label(self, example: Example) -> list[int]:
        if self._is_splice(example):
            return [self.none[0]]
        labels: list[int] = []
        for number, _ in example:
            own = self.labels[number]
            labels += [*self.space, *own] if labels and own else own
        return labels


def collate(clips: Sequence[np.ndarray], labels: Sequence[Sequence[int]], **more: Any) -> Batch:
    """Pad log-mels (frames, mels) to one array, zeros last, and string the labels together.

    `more` are the other fields of `Batch`.
    """
    lengths = torch.tensor([len(clip) for clip in clips])
    log_mels = np.zeros((len(clips), int(lengths.max()), clips[0].shape[1]), np.float32)
    for row, clip in enumerate(clips):
        log_mels[row, : len(clip)] = clip
    return Batch(
        torch.from_numpy(log_mels),
        lengths,
        torch.tensor([number for label in labels for number in label]),
        torch.tensor([len(label) for label in labels]),
        **more,
    )


def validation_batches(
    log_mels: LogMels, labels: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield every utterance once, unaugmented, sorted by length; with each batch its numbers."""
    order = np.argsort(log_mels.lengths[:, 0], kind="stable")
    for at in range(0, len(order), size):
        numbers = order[at : at + size]
        yield numbers, collate([log_mels.clip(n) for n in numbers], [labels[n] for n in numbers])
