"""A stretch of shards to a buffer: decoded, at chosen speeds, as log-mels, planned into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from speechseq.audio import read_audio
from speechseq.corpora.shards import Sample
from speechseq.errors import AudioError, DataError
from speechseq.manifest import Utterance
from speechseq.padding import pad
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary
from speechseq.training.augment import change_speed
from speechseq.training.data import SORT_JITTER, Example, TrainingData
from speechseq.training.feature_cache import LogMels
from speechseq.training.features import LogMel
from speechseq.training.preflight import lack_of, space_of

CHUNK = 32
"""Utterances decoded at a time, so that only features are held for the whole buffer."""

GROUP_SAMPLES = 1 << 17
"""Padded samples that go through the filter bank together; more leave the processor's cache."""


@dataclass(frozen=True)
class Clip:
    """An utterance ready for the network: its label and its samples or log-mels."""

    utterance: Utterance
    label: list[int]
    values: np.ndarray


class Frames:
    """Log-mels (frames, mels) of one clip after the other, in one array that grows where it is.

    Clips put together at the end would be held twice.
    """

    def __init__(self, mels: int):
        self.array = np.zeros((0, mels), np.float32)
        self.lengths: list[int] = []

    def add(self, clip: np.ndarray) -> None:
        """Put a clip at the end."""
        at, (size, mels) = len(self.array), clip.shape
        self.array.resize((at + size, mels), refcheck=False)
        self.array[at:] = clip
        self.lengths.append(size)

    def log_mels(self) -> LogMels:
        """Return them as the log-mels of clips at one speed; nothing is added afterwards."""
        lengths = np.array(self.lengths, dtype=np.int64).reshape(-1, 1)
        return LogMels(self.array, np.cumsum(lengths, axis=0) - lengths, lengths)


@dataclass(frozen=True)
class Buffer:
    """A stretch of an epoch: its utterances, the batches they make, and why some were dropped."""

    data: TrainingData
    batches: Sequence[Sequence[Example]]
    dropped: Sequence[str]


@dataclass(frozen=True)
class Reader:
    """What makes buffers of samples; none is longer than `longest_seconds`."""

    recipe: Recipe
    vocabulary: Vocabulary
    noises: Sequence[np.ndarray]
    longest_seconds: float

    def buffer(
        self, samples: Iterator[Sample | str], size: int, rows: int, chance: np.random.Generator
    ) -> Buffer:
        """Take the next `size` samples; batches have up to `rows` examples."""
        speeds = chance.choice(self.recipe.augment.speeds, size).tolist()
        frames, usable = Frames(self.recipe.features.mels), list[int]()
        utterances, labels, dropped = list[Utterance](), list[list[int]](), list[str]()
        for clip in self._clips(samples, speeds):
            usable.append(len(utterances) if isinstance(clip, Clip) else -1)
            if isinstance(clip, str):
                dropped.append(clip)
                continue
            frames.add(clip.values)
            utterances.append(clip.utterance)
            labels.append(clip.label)
        log_mels, space = frames.log_mels(), space_of(self.recipe, self.vocabulary)
        data = TrainingData(utterances, log_mels, labels, self.noises, self.recipe, space)
        return Buffer(data, self._batches(log_mels, usable, rows, chance), dropped)

    def opening(self, samples: Iterator[Sample | str], size: int) -> LogMels:
        """Return the log-mels of the next `size` samples at the speed they were spoken.

        Raises:
            DataError: none of them can be used; the first's problem is said.
        """
        frames, problem = Frames(self.recipe.features.mels), ""
        for clip in self._clips(samples, [1.0] * size):
            if isinstance(clip, Clip):
                frames.add(clip.values)
            else:
                problem = problem or clip
        if not frames.lengths:
            raise DataError(f"training: no utterance of the first {size} can be used: {problem}")
        return frames.log_mels()

    def _clips(
        self, samples: Iterator[Sample | str], speeds: Sequence[float]
    ) -> Iterator[Clip | str]:
        """Yield the next utterances' log-mels, each at its speed, or why it is dropped."""
        log_mel = LogMel(self.recipe.features)
        for at in range(0, len(speeds), CHUNK):
            chosen = speeds[at : at + CHUNK]
            found = [
                self._decoded(sample, speed)
                # Samples end early when nobody waits for them any more.
                for sample, speed in zip(islice(samples, len(chosen)), chosen, strict=False)
            ]
            clips = [clip for clip in found if isinstance(clip, Clip)]
            frames = iter(_log_mels([clip.values for clip in clips], log_mel))
            for clip in found:
                yield self._checked(clip, next(frames)) if isinstance(clip, Clip) else clip

    def _decoded(self, sample: Sample | str, speed: float) -> Clip | str:
        if isinstance(sample, str):
            return sample
        name, rate = sample.utterance.audio_filepath, self.recipe.features.rate
        try:
            label = self.vocabulary.encode(sample.utterance.text)
            samples = read_audio(sample.audio, rate)
        except (AudioError, DataError) as error:
            return f"{name}: {error}"
        if len(samples) / rate > self.longest_seconds + 0.1:
            return f"{name}: {len(samples) / rate:.1f} s are longer than the index' longest"
        return Clip(sample.utterance, label, change_speed(samples, rate, speed))

    def _checked(self, clip: Clip, frames: np.ndarray) -> Clip | str:
        lack = lack_of(self.recipe, clip.utterance, clip.label, len(frames))
        if lack:
            return f"{clip.utterance.audio_filepath}: {lack}"
        return Clip(clip.utterance, clip.label, frames)

    def _batches(
        self, log_mels: LogMels, usable: Sequence[int], rows: int, chance: np.random.Generator
    ) -> list[list[Example]]:
        """Join a buffer's utterances, sort them by length, roughly, and cut them into batches.

        `usable` are their numbers, -1 for those that were dropped: how many batches there are
        does not depend on that.
        """
        sizes = joined_sizes(len(usable), self.recipe.augment.join)
        order = np.split(chance.permutation(usable), np.cumsum(sizes)[:-1])
        examples = [[(int(n), 0) for n in numbers if n >= 0] for numbers in order]
        examples = [example for example in examples if example]
        lengths = np.array([sum(log_mels.lengths[pair] for pair in e) for e in examples])
        jitter = chance.uniform(1 - SORT_JITTER, 1 + SORT_JITTER, len(examples))
        parts = np.array_split(np.argsort(lengths * jitter), -(-len(sizes) // rows))
        batches = [[examples[n] for n in part] for part in parts]
        return [batches[n] for n in chance.permutation(len(batches))]


def joined_sizes(utterances: int, join: int) -> list[int]:
    """Return how many utterances each example strings together: 1, 2, … `join`, 1, 2, …

    As utterances are in random order, that is as good as chance, and known beforehand.
    """
    full, rest = divmod(utterances, join * (join + 1) // 2)
    sizes = [*range(1, join + 1)] * full
    for size in range(1, join + 1):
        if rest > 0:
            sizes.append(min(size, rest))
            rest -= size
    return sizes


def _log_mels(clips: Sequence[np.ndarray], log_mel: LogMel) -> list[np.ndarray]:
    """Return the log-mels (frames, mels) of samples, computed for neighbours in length at once."""
    found: dict[int, np.ndarray] = {}
    waiting = sorted(range(len(clips)), key=lambda number: len(clips[number]), reverse=True)
    while waiting:
        rows = max(GROUP_SAMPLES // len(clips[waiting[0]]), 1)
        group, waiting = waiting[:rows], waiting[rows:]
        samples, lengths = pad([clips[number] for number in group])
        with torch.inference_mode():
            frames, sizes = log_mel(torch.from_numpy(samples), torch.from_numpy(lengths))
        for number, row, size in zip(group, frames.numpy(), sizes.tolist(), strict=True):
            found[number] = row[:size]
    return [found[number] for number in range(len(clips))]
