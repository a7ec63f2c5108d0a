"""A classifier of clips in a stream: it looks at the last second again and again.

Source: Chen et al. 2014, Small-footprint Keyword Spotting using Deep Neural Networks: posteriors
smoothed over some looks, and a threshold. Here nothing is asked of the network where a window
holds but steady noise, so that a model without a class of silence can stay silent, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from speechseq.audio import check_samples
from speechseq.long_audio import NoiseFloor
from speechseq.recipe import Recipe
from speechseq.recognition import Recognition, Word, text_of
from speechseq.tokens import NO_TEXT, Vocabulary

LOOK_SECONDS = 0.1
"""From one look to the next."""

LOOKS = 3
"""So many looks together tell what was said (scripts/measure_spotting.py)."""

AGAIN_SECONDS = 0.3
"""So long after a clip that held a word it may be said again: until then it is still in sight."""

PAUSE_SECONDS = 1.0
"""So long after a word the speaker is at rest."""

LOOKS_AT_ONCE = 16
"""Most looks in one run of the network."""

Classify = Callable[[Sequence[np.ndarray]], np.ndarray]
"""``clips of equal length -> probabilities (clips, classes)``."""


class Spotter:
    """Says the words it spots as it hears piece by piece; what it has said never changes."""

    def __init__(self, classify: Classify, vocabulary: Vocabulary, recipe: Recipe):
        self._classify = classify
        self._rate = recipe.features.rate
        decoding = recipe.decoding
        self._least = max(decoding.spotting_confidence, decoding.least_confidence)
        self._labels = vocabulary.tokens
        self._are_words = np.array([label not in NO_TEXT for label in self._labels])
        self._clip = round(decoding.clip_seconds * self._rate)
        self._again = decoding.clip_seconds + AGAIN_SECONDS
        self._hop = round(LOOK_SECONDS * self._rate)
        self._floor = NoiseFloor(self._rate)
        self._looks: deque[np.ndarray] = deque(maxlen=LOOKS)
        # A word at the very start is in sight as early as any other.
        self._held = np.zeros(self._clip - self._hop, np.float32)
        self._looked = 0  # samples, up to the end of the last look
        self._samples = 0
        self._said: list[Word] = []
        self._ends: dict[str, float] = {}  # of each word, where it was said last

    @property
    def seconds(self) -> float:
        """Seconds heard so far."""
        return self._samples / self._rate

    @property
    def resting(self) -> bool:
        """Whether nothing is being said: PAUSE_SECONDS have passed since, or nothing was."""
        return not self._said or self.seconds - self._said[-1].end >= PAUSE_SECONDS

    @property
    def sure(self) -> Recognition:
        """All that was said so far; of its confidences, the mean."""
        mean = float(np.mean([word.confidence for word in self._said])) if self._said else 1.0
        return Recognition(text_of(self._said), tuple(self._said), mean, self.seconds)

    def hear(self, samples: np.ndarray) -> str:
        """Take the next mono samples (samples,) at the stream's rate; return the words spotted.

        Raises:
            AudioError: they are not one-dimensional.
        """
        check_samples(samples, "stream")
        self._samples += len(samples)
        return self._look_at(samples)

    def finish(self) -> str:
        """Return the rest: a word at the end is in sight for half a clip of silence more."""
        return self._look_at(np.zeros(self._clip // 2, np.float32)) if self._samples else ""

    def unsure(self) -> tuple[Word, ...]:
        """Return no word: what is not sure is not shown."""
        return ()

    def so_far(self) -> Recognition:
        """Return all that was said, as `sure`."""
        return self.sure

    def _look_at(self, samples: np.ndarray) -> str:
        before = len(self._said)
        most = self._hop * LOOKS_AT_ONCE
        for begin in range(0, len(samples), most):
            self._held = np.concatenate([self._held, samples[begin : begin + most]])
            for row in self._scores():
                self._looked += self._hop
                self._looks.append(row)
                self._said += self._spotted()
        return text_of(self._said[before:])

    def _scores(self) -> np.ndarray:
        """Return the probabilities (looks, classes) of all clips that are due, and let them go."""
        count = max((len(self._held) - self._clip) // self._hop + 1, 0)
        clips = [self._held[n * self._hop :][: self._clip] for n in range(count)]
        self._held = self._held[count * self._hop :]
        heard = [number for number, clip in enumerate(clips) if self._stands_out(clip, number)]
        scores = np.zeros((count, len(self._labels)))
        if heard:
            scores[heard] = self._classify([clips[n] for n in heard])
        return scores

    def _stands_out(self, clip: np.ndarray, number: int) -> bool:
        """Tell whether the clip of a coming look holds more than steady noise, where it is real."""
        end = self._looked + (number + 1) * self._hop
        first = max(self._clip - end, 0)
        real = clip[first : self._clip - max(end - self._samples, 0)]
        return len(real) > 0 and not self._floor.covers(real)

    def _spotted(self) -> list[Word]:
        """Return the word that the last looks agree on, if there is one and it is new."""
        means = np.mean(self._looks, axis=0) * self._are_words
        best = int(means.argmax())
        if len(self._looks) < LOOKS or not means[best] or means[best] < self._least:
            return []
        end, text = min(self._looked, self._samples) / self._rate, self._labels[best]
        if end - self._ends.get(text, -self._again) < self._again:
            return []
        self._ends[text] = end
        start = max((self._looked - self._clip) / self._rate, 0.0)
        return [Word(text, round(start, 3), round(end, 3), float(means[best]))]
