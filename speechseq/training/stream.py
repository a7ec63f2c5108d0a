"""Training on shards: streamed through a buffer, so that memory does not grow with the corpus.

An epoch's order of shards follows from (seed, epoch), and process r of n takes each n-th of them,
from the r-th on. A buffer is the next so many utterances of a process' shards; its examples,
their speeds and its batches follow from (seed, epoch, process, buffer). How many steps that makes
follows from the index alone, so that every process knows it, and resuming steps over what was
heard without reading it. With another number of processes an epoch is another order: a run that
is resumed so inside an epoch may hear some utterances of that epoch twice and some not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event
from typing import Any, TypeVar

import numpy as np

from speechseq.corpora import CORPORA
from speechseq.corpora.shards import CORPUS, Index, Sample, index_path, read_index, read_shard
from speechseq.errors import DataError
from speechseq.manifest import Utterance
from speechseq.recipe import Recipe
from speechseq.splits import corpus_options, load_split
from speechseq.tokens import BLANK_TOKEN, Vocabulary
from speechseq.training.buffer import Buffer, Reader, joined_sizes
from speechseq.training.data import Batch, Example, Share, TrainingData, collate
from speechseq.training.distributed import World
from speechseq.training.feature_cache import LogMels
from speechseq.training.noise import noise_log_mels
from speechseq.training.notes import Note, Show
from speechseq.training.preflight import (
    Ready,
    counted,
    make_split,
    size_of,
    spells_joins,
)

MOST_NAMED = 20
"""Utterances a run names when it drops them; of more it says how many."""

LONGEST_LINE = 500
"""Characters of such a line; a text may be anything."""

IDLE_FRAMES = 64
"""Length of the silence that keeps a process in step whose shards are over."""

Item = TypeVar("Item")


@dataclass
class Dropped:
    """How many utterances of an epoch a process dropped, and why the first ones."""

    count: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, lines: Sequence[str]) -> None:
        """Take more in."""
        self.count += len(lines)
        self.lines = [*self.lines, *lines][:MOST_NAMED]


@dataclass
class StreamData:
    """The training set as batches, from shards; as `TrainingData` to the loop.

    `ranks` is how many processes share it; `gather` collects what they dropped.
    """

    index: Index
    vocabulary: Vocabulary
    noises: Sequence[np.ndarray]
    recipe: Recipe
    ranks: int = 1
    gather: Callable[[Sequence[Any]], list[Any]] = list
    note: Note = lambda text: None
    _named: set[str] = field(default_factory=set)

    def steps(self, epochs: int) -> int:
        """Count the batches of so many epochs."""
        return sum(map(self.steps_of, range(epochs)))

    def steps_of(self, epoch: int) -> int:
        """Count the batches of one epoch: those of the process that has most."""
        return max(sum(self._steps(epoch, rank)) for rank in range(self.ranks))

    def batches(self, epoch: int, first: int, share: Share) -> Iterator[list[Batch]]:
        """Yield the pieces of each step of an epoch that are this process', from step `first`.

        Raises:
            DataError: a shard cannot be read any more.
        """
        number, inside = 0, first
        steps = self._steps(epoch, share.rank)
        while number < len(steps) and inside >= steps[number]:
            inside -= steps[number]
            number += 1
        step, dropped, over = first, Dropped(), Event()
        for buffer in _ahead(self.buffers(epoch, share.rank, number, over), over):
            self._tell(buffer.dropped)
            dropped.add(buffer.dropped)
            for examples in buffer.batches[inside:]:
                yield self._pieces(buffer.data, examples, (epoch, step), share)
                step += 1
            inside = 0
        for _ in range(step, self.steps_of(epoch)):
            yield [self._silence(1, IDLE_FRAMES, weight=0.0)] * share.pieces
        self._tell_all(f"epoch {epoch + 1}{', since it was taken up' * bool(first)}", dropped)

    def largest(self) -> Batch:
        """Return a batch of silence as long as the longest utterance, or as the mean joined ones.

        Nothing is read for it. Its rows share their memory.
        """
        mean = self.index.seconds / self.index.utterances
        seconds = max(self.index.longest_seconds, self.recipe.augment.join * mean)
        seconds /= min(self.recipe.augment.speeds)
        features = self.recipe.features
        frames = features.frames(round(seconds * features.rate))
        return self._silence(self.recipe.training.batch, frames)

    def buffers(
        self, epoch: int, rank: int, first: int, over: Event | None = None
    ) -> Iterator[Buffer]:
        """Yield a process' buffers of an epoch, from number `first` on.

        Once `over` is set, the one being read ends early.
        """
        sizes = self._sizes(epoch, rank)
        samples, rows = self._samples(epoch, rank, sum(sizes[:first])), self._rows(rank)
        if over is not None:
            samples = takewhile(lambda _: not over.is_set(), samples)
        for number in range(first, len(sizes)):
            chance = np.random.default_rng([self.recipe.seed, epoch, rank, number])
            yield self._reader.buffer(samples, sizes[number], rows, chance)

    def opening(self) -> LogMels:
        """Return the log-mels of the first buffer, at the speed they were spoken: for CMVN.

        Raises:
            DataError: none of its utterances can be used.
        """
        return self._reader.opening(self._samples(0, 0, 0), self._sizes(0, 0)[0])

    @property
    def _reader(self) -> Reader:
        longest = self.index.longest_seconds
        return Reader(self.recipe, self.vocabulary, self.noises, longest)

    # ---- what is known beforehand ----

    def _order(self, epoch: int, rank: int) -> list[int]:
        """Return the numbers of a process' shards in the order of the epoch."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        return rng.permutation(len(self.index.shards))[rank :: self.ranks].tolist()

    def _sizes(self, epoch: int, rank: int) -> list[int]:
        """Return the sizes of a process' buffers."""
        shards, size = self.index.shards, self.recipe.data.buffer_utterances
        full, rest = divmod(sum(shards[n].utterances for n in self._order(epoch, rank)), size)
        return [size] * full + [rest] * bool(rest)

    def _steps(self, epoch: int, rank: int) -> list[int]:
        """Return how many batches each of a process' buffers makes."""
        sizes, join = self._sizes(epoch, rank), self.recipe.augment.join
        # Nearly all are of one size.
        steps = {n: -(-len(joined_sizes(n, join)) // self._rows(rank)) for n in set(sizes)}
        return [steps[n] for n in sizes]

    def _rows(self, rank: int) -> int:
        """Return how many examples of a step's batch are a process' own."""
        return len(range(rank, self.recipe.training.batch, self.ranks))

    # ---- reading ----

    def _samples(self, epoch: int, rank: int, skip: int) -> Iterator[Sample | str]:
        """Yield a process' samples of an epoch, or why there is none, from number `skip` on."""
        for number in self._order(epoch, rank):
            shard = self.index.shards[number]
            if skip < shard.utterances:
                yield from read_shard(self.index.locate(shard), shard.utterances, skip)
            skip = max(skip - shard.utterances, 0)

    # ---- steps ----

    def _pieces(
        self,
        data: TrainingData,
        examples: Sequence[Example],
        at: tuple[int, int],
        share: Share,
    ) -> list[Batch]:
        """Make a step's pieces; this process' examples have its places in the whole batch."""
        placed: Mapping[int, Example] = {
            share.rank + share.ranks * number: example for number, example in enumerate(examples)
        }
        wanted = share.rows(self.recipe.training.batch)
        pieces = [[row for row in rows if row in placed] for rows in wanted]
        return [
            data.batch(placed, *at, rows) if rows else self._silence(1, IDLE_FRAMES, weight=0.0)
            for rows in pieces
        ]

    def _silence(self, rows: int, frames: int, weight: float = 1.0) -> Batch:
        """Return a batch of silence; half of its output frames are to spell a token."""
        count, first = 1, 0
        if self.vocabulary.is_sequence:
            count, first = max(self.recipe.model.output_frames(frames) // 2, 1), 1
        features = self.recipe.features
        silence = np.full((frames, features.mels), np.log(features.floor), np.float32)
        one = collate([silence], [[first] * count])
        return Batch(
            one.log_mels.expand(rows, -1, -1),
            one.lengths.repeat(rows),
            one.labels.repeat(rows),
            one.label_lengths.repeat(rows),
            tuple(range(rows)),
            (Utterance(str(self.index.path.parent / self.index.longest), 0.0, ""),) * bool(weight),
            weight,
        )

    # ---- what was dropped ----

    def _tell(self, dropped: Sequence[str]) -> None:
        """Name what was dropped, each utterance once, and not too many."""
        for line in dropped:
            name = line.partition(": ")[0]
            if name not in self._named and len(self._named) < MOST_NAMED:
                self._named.add(name)
                self.note(f"dropped {line[:LONGEST_LINE]}")

    def _tell_all(self, when: str, dropped: Dropped) -> None:
        """Name what other processes dropped, too, and say how much it was in all."""
        parts = self.gather([dropped])
        for part in parts:
            self._tell(part.lines)
        if count := sum(part.count for part in parts):
            whole = self.index.utterances
            self.note(f"{when}: {count} of {whole} utterances dropped")


def streamed(
    recipe: Recipe,
    vocabulary: Vocabulary | None,
    world: World,
    *,
    note: Note,
    show: Show,
) -> Ready:
    """Make ready to stream the training shards; a new run gets its vocabulary from their index.

    Raises:
        DataError: shards are missing, too few for the processes, or cannot be learnt from.
    """
    place = CORPUS.locate(recipe.data.root)
    index = read_index(index_path(place, recipe.data.train_split))
    _check(index, recipe, world.size)
    vocabulary = vocabulary or vocabulary_of_index(recipe, index)
    with world.first_here():
        held = load_split(recipe.data, "validation", recipe.seed)
        validation = make_split(recipe, vocabulary, held, (1.0,), show, told=True)
    noises = noise_log_mels(recipe, CORPORA[recipe.data.corpus])
    data = StreamData(index, vocabulary, noises, recipe, world.size, world.gather, note)
    says = [
        f"train: {index.utterances} utterances, {index.seconds / 3600:.2f} h, streamed from "
        f"{len(index.shards)} shards by {world.size} process{'es' * (world.size > 1)}, "
        f"{recipe.data.buffer_utterances} at a time",
        counted("validation", validation),
        f"{vocabulary.kind}: {len(vocabulary)}; steps of the first epoch: {data.steps_of(0):,}",
    ]
    sizes = {
        "train": {
            "utterances": index.utterances,
            "seconds": round(index.seconds, 3),
            "shards": [shard.sha256 for shard in index.shards],
        },
        "validation": size_of(held),
    }
    return Ready(vocabulary, data, validation, (data.opening(), (1.0,)), says, sizes)


NOT_STREAMED = (
    ("data", "others"),
    ("data", "same_words"),
    ("data", "unknown_words"),
    ("data", "pronunciations"),
    ("data", "clips_per_class"),
    ("data", "without_words"),
    ("data", "validation_speakers"),
    ("augment", "splice"),
    ("augment", "noise_alone"),
    ("training", "logit_adjustment"),
)
"""Settings that need the list of all utterances."""


def _check(index: Index, recipe: Recipe, ranks: int) -> None:
    """Check what can be known before a long training begins."""
    for section, name in NOT_STREAMED:
        if getattr(getattr(recipe, section), name):
            raise DataError(f"{section}.{name}: not for streamed shards; leave it out")
    corpus_options(CORPUS, recipe.data)
    if len(index.shards) < ranks:
        raise DataError(
            f"{index.path}: {len(index.shards)} shards for {ranks} processes; shard it again with "
            f"a smaller --shard-megabytes, or start fewer"
        )
    if recipe.training.batch < ranks:
        raise DataError(f"training.batch: {recipe.training.batch} for {ranks} processes; raise it")
    for shard in index.shards:
        index.locate(shard)
    validation = index_path(index.path.parent, recipe.data.validation_split)
    own = {shard.sha256 for shard in index.shards}
    if any(shard.sha256 in own for shard in read_index(validation).shards):
        raise DataError(f"{index.path}: shares shards with {validation.name}; make other splits")


def vocabulary_of_index(recipe: Recipe, index: Index) -> Vocabulary:
    """Return the vocabulary that the index' texts give, without reading them.

    Raises:
        DataError: the index lists no words or labels, as there were too many.
    """
    kind = recipe.data.tokens
    found = {"characters": index.characters, "words": index.words, "classes": index.labels}[kind]
    words = not recipe.decoding.freely
    if found is None or (words and index.words is None):
        raise DataError(
            f"{index.path}: lists no {'words' if words else kind}, as there are too many; use "
            f"data.tokens characters and decoding.decoder greedy"
        )
    if kind == "classes":
        return Vocabulary.from_texts(kind, found)
    # They are normalised already; once more, a space alone would become nothing.
    tokens = sorted({*found, *([" "] if spells_joins(recipe) else [])})
    return Vocabulary(kind, (BLANK_TOKEN, *tokens), tuple(index.words or ()) if words else ())


def _ahead(items: Iterator[Item], over: Event) -> Iterator[Item]:
    """Yield the items, each made in another thread while the one before it is used.

    `over` is set when no more are wanted.
    """
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item
        finally:
            over.set()
