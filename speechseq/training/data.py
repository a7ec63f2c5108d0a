"""Utterances to batches: length buckets, and what an epoch looks like.

All chance is a function of (seed, epoch, batch, row): a row of a batch can be made again without
what comes before it. That makes resuming exact, and a batch the same however many processes share
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from speechseq.alignment import frames_needed
from speechseq.manifest import Utterance
from speechseq.recipe import Recipe
from speechseq.training.augment import ALONE_SECONDS, augment, cut_ends, join, noise_alone, splice
from speechseq.training.feature_cache import LogMels

SORT_JITTER = 0.1
"""Share by which lengths are disturbed before sorting, so that batches differ between epochs."""


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
        """Count the batches of so many epochs; joins and splices make each one's its own."""
        if self.recipe.augment.join == 1 and not self.recipe.augment.splice:
            return epochs * self.steps_of(0)
        return sum(self.steps_of(epoch) for epoch in range(epochs))

    def steps_of(self, epoch: int) -> int:
        """Count the batches of one epoch."""
        examples = self._examples(np.random.default_rng([self.recipe.seed, epoch]))
        return -(-len(examples) // self.recipe.training.batch)

    def shares(self, told_as: Sequence[int]) -> Tensor:
        """Return what share of an epoch's examples the class has that each score is told as."""
        found = [self._label(example)[0] for batch in self.epoch(0) for example in batch]
        told = torch.tensor(told_as)
        return torch.bincount(told[found], minlength=len(told))[told] / len(found)

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
        at = 0
        while at < count:
            size = int(rng.integers(1, self.recipe.augment.join + 1))
            examples.append(pairs[at : at + size])
            at += size
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
        return [
            [tuple(pair) for pair in example]
            for example in pairs.tolist()
            if self._makes_neither(*(self.utterances[number].text for number, _ in example))
        ]

    @staticmethod
    def _makes_neither(one: str, other: str) -> bool:
        """Tell whether a word's beginning and another's end are neither: "no" and "go" make one."""
        return one[:1] != other[:1] and one[-1:] != other[-1:]

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
            one, other = pieces
            pieces = [splice(one, other, rng)]
        if settings.cut_seconds:
            pieces = [cut_ends(piece, features, settings.cut_seconds, rng) for piece in pieces]
        reach = features.hops(settings.join_gap_seconds)
        overlap = features.hops(settings.join_overlap_seconds)
        gaps = rng.integers(-overlap, reach + 1, size=len(pieces) - 1).tolist()
        joined = pieces[0] if len(pieces) == 1 else join(pieces, features, gaps)
        if lacking := self._lacking(example, joined):
            wider = -(-lacking // len(gaps))
            joined = join(pieces, features, [max(gap, 0) + wider for gap in gaps])
        return augment(joined, features, settings, self.noises, rng)

    def _lacking(self, example: Example, joined: np.ndarray) -> int:
        """Return how many frames a string is too short for its text: each clip alone is not."""
        model = self.recipe.model
        if model.head != "ctc" or len(example) == 1:
            return 0
        needed = frames_needed(self._label(example)) - model.output_frames(len(joined))
        return max(needed, 0) * model.time_stride

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
        # Said, because no label at all would be of float32.
        torch.tensor([number for label in labels for number in label], dtype=torch.int64),
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
