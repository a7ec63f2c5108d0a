"""What was recognised: words with their times and confidences, out of decoded tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from speechseq.decoding import Hypothesis, mean_confidence
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary

Network = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``samples (batch, samples), lengths -> log_probs (batch, frames, tokens), lengths``, arrays."""


@dataclass(frozen=True)
class Word:
    """A recognised word; `start` and `end` are seconds, `confidence` is its probability."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Recognition:
    """What was recognised in `duration` seconds of audio."""

    text: str
    words: tuple[Word, ...]
    confidence: float
    duration: float


class Listener(Protocol):
    """What recognises as it hears, piece by piece; what it has said never changes."""

    @property
    def seconds(self) -> float:
        """Seconds heard so far."""

    @property
    def resting(self) -> bool:
        """Whether nothing is being said: a pause has passed since, or nothing was said yet."""

    @property
    def sure(self) -> Recognition:
        """All that is sure so far."""

    def hear(self, samples: np.ndarray) -> str:
        """Take the next mono samples (samples,) at the stream's rate; return what is sure now.

        Raises:
            AudioError: they are not one-dimensional.
        """

    def finish(self) -> str:
        """Return the rest: no more is heard."""

    def unsure(self) -> tuple[Word, ...]:
        """Return the words after the sure ones, as they are if no more is heard."""

    def so_far(self) -> Recognition:
        """Return all that was heard: what is sure, and what may still change."""


def text_of(words: Iterable[Word]) -> str:
    """Return the words' text."""
    return " ".join(word.text for word in words)


def frame_seconds(recipe: Recipe) -> float:
    """Return the seconds from one frame of log-probabilities to the next."""
    return recipe.step_samples / recipe.features.rate


LETTER_GAP_SECONDS = 0.2
"""No letter of a word counts as later than that behind the one before it.

CTC leaves open when a word's last letter is told: some networks wait with it for the next word,
through whole seconds of silence.
"""


def letter_gap(recipe: Recipe) -> int:
    """Return LETTER_GAP_SECONDS in frames of log-probabilities."""
    return round(LETTER_GAP_SECONDS / frame_seconds(recipe))


class WordFinder:
    """Gathers decoded tokens into words, and leaves out those that are not sure enough."""

    def __init__(self, vocabulary: Vocabulary, recipe: Recipe):
        self._vocabulary = vocabulary
        self._frame_seconds = frame_seconds(recipe)
        self._letter_gap = letter_gap(recipe)
        self._edge_seconds = recipe.features.edge_seconds
        self._least = recipe.decoding.least_confidence

    def __call__(self, hypothesis: Hypothesis, duration: float) -> tuple[Word, ...]:
        """Return the words of what was decoded in `duration` seconds of audio."""
        found = (self._word(hypothesis, group, duration) for group in self._groups(hypothesis))
        return tuple(word for word in found if word.confidence >= self._least)

    def _groups(self, hypothesis: Hypothesis) -> Iterator[list[int]]:
        """Yield the places of tokens between spaces; of each token, where tokens are words."""
        group: list[int] = []
        by_character = self._vocabulary.kind == "characters"
        for place, token in enumerate(hypothesis.tokens):
            if not by_character:
                yield [place]
            elif self._vocabulary.tokens[token] != " ":
                group.append(place)
            elif group:
                yield group
                group = []
        if group:
            yield group

    def _word(self, hypothesis: Hypothesis, group: list[int], duration: float) -> Word:
        starts, ends = hypothesis.starts, hypothesis.ends
        late = sum(
            max(starts[place] - ends[before] - self._letter_gap, 0)
            for before, place in pairwise(group)
        )
        confidences = [hypothesis.token_confidences[place] for place in group]
        return Word(
            text=self._vocabulary.decode([hypothesis.tokens[place] for place in group]),
            start=self._seconds(starts[group[0]], duration),
            end=self._seconds(ends[group[-1]] - late, duration),
            confidence=mean_confidence(confidences),
        )

    def _seconds(self, frame: int, duration: float) -> float:
        """Return when a frame begins, in the utterance without the silence put around it."""
        seconds = frame * self._frame_seconds - self._edge_seconds
        return min(round(max(seconds, 0.0), 3), math.floor(duration * 1000) / 1000)
