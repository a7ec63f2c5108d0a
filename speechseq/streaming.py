"""Recognition while somebody speaks: which words are sure already, and never change again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from speechseq.audio import check_samples
from speechseq.decoding import Decoder, Hypothesis, after
from speechseq.recognition import Recognition, Word, WordFinder, text_of
from speechseq.segments import Confidence, Segment
from speechseq.stream_frames import Frames
from speechseq.tokens import Vocabulary

PAUSE_SECONDS = 1.0
"""A pause as long as this ends a word, and an utterance, whether or not a space was heard."""

SETTLE_SECONDS = 0.5
"""What is heard behind a word's end before it is sure, where a decoder weighs whole paths."""

PIECE_SECONDS = 10.0
"""Most that goes through a network at once, with what it has to hear before."""

MOST_SECONDS = 60.0
"""Frames without the end of a word are kept so long; then what was decoded of them is sure."""

SEEN = 0.5
"""How probable a word's last token is, on average over its frames, where it was seen."""


class Resampler:
    """Brings blocks of samples (samples,) from one rate to another, as they come.

    Up to 0.15 s wait in it for what follows.
    """

    def __init__(self, found: int, rate: int):
        self._stream = None
        if found != rate:
            import soxr  # as in speechseq.audio: only where it is needed

            self._stream = soxr.ResampleStream(found, rate, 1, dtype="float32")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return what there is at the other rate now, in [-1, 1]."""
        return self._next(samples)

    def finish(self) -> np.ndarray:
        """Return what still waited: no more comes."""
        return self._next(np.zeros(0, np.float32), last=True)

    def _next(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        if self._stream is None:
            return samples
        found: np.ndarray = self._stream.resample_chunk(samples, last=last)
        return np.clip(found, -1.0, 1.0)


class Settler:
    """Decodes a stream's frames, and cuts off what is sure.

    Frames are decoded behind the last cut only, and cut at the last end of a word: at a space, or
    behind a token, where tokens are words. A decoder that takes each frame's best token is never
    wrong there; another one is given SETTLE_SECONDS more, as the best path of all goes through
    that space if it still does by then. Behind a cut in a pause the last token of the word before
    it may come yet. `resting` tells whether nothing was said since a pause.
    """

    def __init__(
        self, vocabulary: Vocabulary, decode: Decoder, frame_seconds: float, *, freely: bool
    ):
        self._decode = self._behind = decode
        self._space = vocabulary.space
        self._by_word = vocabulary.kind != "characters"
        self._settle = 1 if freely else max(round(SETTLE_SECONDS / frame_seconds), 1)
        self._pause = max(round(PAUSE_SECONDS / frame_seconds), 2)
        self._most = round(MOST_SECONDS / frame_seconds)
        self._first = 0  # of the frames pending, in the stream
        self._pending = np.zeros((0, len(vocabulary)), np.float32)
        self.resting = True

    def hear(self, frames: np.ndarray) -> list[Segment]:
        """Take the next frames (frames, tokens); return what is sure now."""
        if not len(frames):
            return []
        self._pending = np.concatenate([self._pending, frames])
        found = self._behind(self._pending)
        size = len(self._pending)
        silent = size - (found.ends[-1] if found.ends else 0)
        if silent >= self._pause:
            self.resting = True
            return [self._take(size - silent // 2, size - silent // 2, pause=True)]
        self.resting = self.resting and not found.tokens
        ends = self._word_ends(found, size - self._settle)
        if size >= self._most and not ends:
            goes_on = found.tokens and found.ends[-1] == size and found.starts[-1]
            cut = found.starts[-1] if goes_on else size  # half a token would be said twice
            ends = [(cut, cut)]
        return [self._take(*ends[-1])] if ends else []

    def finish(self, frames: np.ndarray) -> list[Segment]:
        """Take the last frames; return the rest."""
        self._pending = np.concatenate([self._pending, frames])
        size = len(self._pending)
        return [self._take(size, size)] if size else []

    def unsure(self, frames: np.ndarray) -> Segment:
        """Decode what is not sure yet, and frames that may still change."""
        pending = np.concatenate([self._pending, frames])
        found = _moved(self._behind(pending), self._first)
        return Segment(found, self._first, self._first + len(pending))

    def _take(self, stop: int, go_on: int, *, pause: bool = False) -> Segment:
        """Cut off the frames before `stop`; the next to be decoded is `go_on`."""
        found = _moved(self._behind(self._pending[:stop]), self._first)
        segment = Segment(found, self._first, self._first + stop)
        self._first, self._pending = self._first + go_on, self._pending[go_on:]
        self._behind = self._after(found) if pause else self._decode
        return segment

    def _after(self, told: Hypothesis) -> Decoder:
        """Return the decoder of what follows a pause: a last token not seen there may come yet."""
        if not told.tokens:
            return self._behind
        seen = told.token_confidences[-1] >= SEEN
        return self._decode if seen else after(self._decode, told.tokens[-1])

    def _word_ends(self, found: Hypothesis, last: int) -> list[tuple[int, int]]:
        """Return the spaces that end by frame `last`; where tokens are words, their ends."""
        tokens = zip(found.tokens, found.starts, found.ends, strict=True)
        return [
            (end if self._by_word else start, end)
            for token, start, end in tokens
            if end <= last and (self._by_word or token == self._space)
        ]


def _moved(found: Hypothesis, frames: int) -> Hypothesis:
    """Return a hypothesis so many frames later."""
    starts = tuple(start + frames for start in found.starts)
    return replace(found, starts=starts, ends=tuple(end + frames for end in found.ends))


class Stream:
    """Recognises what it hears piece by piece; what it has said never changes."""

    def __init__(self, frames: Frames, settler: Settler, find_words: WordFinder, rate: int):
        self._frames = frames
        self._settler = settler
        self._find_words = find_words
        self._rate = rate
        self._samples = 0
        self._words: list[Word] = []
        self._confidence = Confidence()

    @property
    def seconds(self) -> float:
        """Seconds heard so far."""
        return self._samples / self._rate

    @property
    def resting(self) -> bool:
        """Whether nothing is being said: PAUSE_SECONDS have passed since, or nothing was."""
        return self._settler.resting

    @property
    def sure(self) -> Recognition:
        """All that is sure so far."""
        words = tuple(self._words)
        return Recognition(text_of(words), words, self._confidence.value, self.seconds)

    def hear(self, samples: np.ndarray) -> str:
        """Take the next mono samples (samples,) at the stream's rate; return what is sure now.

        Raises:
            AudioError: they are not one-dimensional.
        """
        check_samples(samples, "stream")
        found = []
        size = round(PIECE_SECONDS * self._rate)
        for begin in range(0, len(samples), size):
            piece = samples[begin : begin + size]
            self._samples += len(piece)
            found += self._add(self._settler.hear(self._frames.hear(piece)))
        return text_of(found)

    def finish(self) -> str:
        """Return the rest: no more is heard."""
        return text_of(self._add(self._settler.finish(self._frames.finish())))

    def unsure(self) -> tuple[Word, ...]:
        """Return the words after the sure ones, as they are if no more is heard."""
        return self._find_words(self._unsure().hypothesis, self.seconds)

    def so_far(self) -> Recognition:
        """Return all that was heard: what is sure, and what may still change."""
        rest = self._unsure()
        words = (*self._words, *self._find_words(rest.hypothesis, self.seconds))
        confidence = replace(self._confidence)
        confidence.add(rest)
        return Recognition(text_of(words), words, confidence.value, self.seconds)

    def _unsure(self) -> Segment:
        return self._settler.unsure(self._frames.peek())

    def _add(self, segments: Iterable[Segment]) -> list[Word]:
        """Add to what is sure; return its words."""
        added: list[Word] = []
        for segment in segments:
            self._confidence.add(segment)
            added += self._find_words(segment.hypothesis, self.seconds)
        self._words += added
        return added
