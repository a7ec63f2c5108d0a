"""Frames of a long recording to tokens, segment by segment, as if they were decoded at once."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from speechseq.decoding import Decoder, Hypothesis, mean_confidence
from speechseq.tokens import BLANK, Vocabulary

SEGMENT_SECONDS = 60.0
"""Frames are decoded when there are so many, and AHEAD_SECONDS more."""

AHEAD_SECONDS = 5.0
"""What a decoder hears behind the last place where it may be cut, so that it knows what follows."""

PAUSE_SECONDS = 0.5
"""The last pause between words of this length is cut, before the longest of shorter ones."""

_NO_TOKEN = -1
"""Stands behind the last token."""


@dataclass(frozen=True)
class Segment:
    """What was decoded in frames [first, last) of a recording; so its tokens' frames count."""

    hypothesis: Hypothesis
    first: int
    last: int

    @property
    def spoken_frames(self) -> int:
        """Number of its tokens' frames."""
        return sum(self.hypothesis.ends) - sum(self.hypothesis.starts)


@dataclass
class Confidence:
    """Gathers segments' confidences into the whole's, as `Hypothesis` defines it.

    Sums are of log-probabilities: over tokens' frames, and over frames of segments without any.
    """

    spoken: float = 0.0
    spoken_frames: int = 0
    silent: float = 0.0
    silent_frames: int = 0

    def add(self, segment: Segment) -> None:
        """Take one more segment in."""
        mean = math.log(max(segment.hypothesis.confidence, 1e-300))
        if frames := segment.spoken_frames:
            self.spoken += mean * frames
            self.spoken_frames += frames
        else:
            self.silent += mean * (segment.last - segment.first)
            self.silent_frames += segment.last - segment.first

    @property
    def value(self) -> float:
        """A probability; 1 where there was no frame."""
        if self.spoken_frames:
            return math.exp(self.spoken / self.spoken_frames)
        return math.exp(self.silent / max(self.silent_frames, 1))


def join(one: Segment, two: Segment) -> Segment:
    """Join two segments that meet; a token that the cut between them fell into is one again."""
    confidence = Confidence()
    confidence.add(one)
    confidence.add(two)
    a, b = one.hypothesis, two.hypothesis
    sure = a.token_confidences + b.token_confidences
    whole, behind = len(a.tokens), 0
    # CTC has a blank between two of the same, so these are one.
    if a.tokens[-1:] == b.tokens[:1] and a.ends[-1:] == b.starts[:1] == (two.first,):
        frames = a.ends[-1] - a.starts[-1], b.ends[0] - b.starts[0]
        merged = mean_confidence(sure[whole - 1 : whole + 1], frames)
        sure = (*sure[: whole - 1], merged, *sure[whole + 1 :])
        whole, behind = whole - 1, 1
    joined = Hypothesis(
        tokens=a.tokens + b.tokens[behind:],
        starts=a.starts + b.starts[behind:],
        ends=a.ends[:whole] + b.ends,
        token_confidences=sure,
        confidence=confidence.value,
    )
    return Segment(joined, one.first, two.last)


@dataclass(frozen=True)
class Cut:
    """The frame a cut is made before; whether words end there; how long the pause is, in frames."""

    frame: int
    ends_word: bool
    pause: int


class Segmenter:
    """Cuts a stream of frames into segments whose texts are, in turn, that of the whole.

    Frames are decoded together with some that follow, and cut in a pause of what was decoded:
    behind a space, or between any tokens, where tokens are words. A minute without such a place is
    cut in its longest pause, or inside a token that is as long; if the decoder `spells` freely, or
    tokens are words, so that a word may go on behind it, the segments are joined again. Other
    decoders find whole words in each.
    """

    def __init__(
        self, vocabulary: Vocabulary, decode: Decoder, frame_seconds: float, *, spells: bool
    ):
        self._decode = decode
        self._space = vocabulary.space
        self._by_word = vocabulary.kind != "characters"
        self._joins = self._by_word or spells
        self._ahead = round(AHEAD_SECONDS / frame_seconds)
        self._most = round(SEGMENT_SECONDS / frame_seconds) + self._ahead
        self._pause = round(PAUSE_SECONDS / frame_seconds)

    def __call__(self, pieces: Iterable[np.ndarray]) -> Iterator[Segment]:
        """Yield the segments of log-probabilities that come in pieces (frames, tokens)."""
        held: Segment | None = None
        for segment, ends_word in self._cut(pieces):
            held = join(held, segment) if held else segment
            if ends_word or not self._joins:
                yield held
                held = None
        if held:
            yield held

    def _cut(self, pieces: Iterable[np.ndarray]) -> Iterator[tuple[Segment, bool]]:
        """Yield what lies between two cuts, and whether words end at the second."""
        first, pending = 0, None
        for piece in pieces:
            pending = piece if pending is None else np.concatenate([pending, piece])
            while len(pending) >= self._most:
                found = self._decode(pending)
                cut = self._choose(list(self._cuts(found, len(pending) - self._ahead)))
                yield _segment(found, pending[: cut.frame], first), cut.ends_word
                first, pending = first + cut.frame, pending[cut.frame :]
        if pending is not None and len(pending):
            yield _segment(self._decode(pending), pending, first), True

    def _choose(self, cuts: list[Cut]) -> Cut:
        good = [cut for cut in cuts if cut.ends_word and cut.pause >= self._pause]
        return good[-1] if good else max(cuts, key=lambda cut: (cut.ends_word, cut.pause))

    def _cuts(self, found: Hypothesis, last: int) -> Iterator[Cut]:
        """Yield where there may be cuts, up to frame `last`; and there, if there is no other."""
        yield Cut(last, False, -1)
        end, border = 0, 0  # of the last token of a word, and of a space behind it
        tokens = zip(found.tokens, found.starts, found.ends, strict=True)
        for token, start, stop in (*tokens, (_NO_TOKEN, last, last)):
            if token == self._space and stop <= last:
                border = stop
                continue
            pause = min(start, last) - end
            frame = border or end + pause // 2
            if pause >= 0 and frame:
                yield Cut(frame, bool(border) or self._by_word, pause)
            end, border = stop, 0


def _segment(found: Hypothesis, log_probs: np.ndarray, first: int) -> Segment:
    """Return what was found in the frames (frames, tokens) that lie `first` into a recording."""
    size = len(log_probs)
    count = bisect.bisect_left(found.starts, size)
    starts, ends = found.starts[:count], [min(end, size) for end in found.ends[:count]]
    confidences = found.token_confidences[:count]
    if count:
        confidence = mean_confidence(
            confidences, [end - start for start, end in zip(starts, ends, strict=True)]
        )
    else:
        confidence = float(np.exp(np.minimum(log_probs[:, BLANK], 0.0).mean(dtype=np.float64)))
    part = Hypothesis(
        tokens=found.tokens[:count],
        starts=tuple(start + first for start in starts),
        ends=tuple(end + first for end in ends),
        token_confidences=confidences,
        confidence=confidence,
    )
    return Segment(part, first, first + size)
