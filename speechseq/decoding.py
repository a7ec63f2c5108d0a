"""Log-probabilities to token numbers; numpy only, the same for training, serving and scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from speechseq.errors import DataError, choose
from speechseq.tokens import BLANK, Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """Decoded tokens, the frames [start, end) each was seen in, and how sure the network is.

    Confidences are probabilities: a token's is the geometric mean over its frames, the whole's
    over all its tokens' frames (over all frames, where there is no token).
    """

    tokens: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    token_confidences: tuple[float, ...]
    confidence: float


Decoder = Callable[[np.ndarray], Hypothesis]
"""``log_probs (frames, tokens) -> Hypothesis``."""


def greedy(log_probs: np.ndarray) -> Hypothesis:
    """Take the best token of each frame (frames, tokens), merge repeats, drop blanks.

    Source: Graves et al. 2006, best path decoding.
    """
    return _along(log_probs, log_probs.argmax(axis=1))


def _along(log_probs: np.ndarray, path: np.ndarray) -> Hypothesis:
    """Return what a path (frames,) of tokens spells, and how probable it is."""
    values = np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0].astype(np.float64)
    values = np.minimum(values, 0.0)  # float32 softmax may round above certainty
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    spoken = path[starts] != BLANK
    starts, ends = starts[spoken], ends[spoken]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    totals, sizes = sums[ends] - sums[starts], ends - starts
    mean = totals.sum() / sizes.sum() if len(starts) else values.mean() if len(values) else 0.0
    return Hypothesis(
        tokens=tuple(path[starts].tolist()),
        starts=tuple(starts.tolist()),
        ends=tuple(ends.tolist()),
        token_confidences=tuple(np.exp(totals / np.maximum(sizes, 1)).tolist()),
        confidence=float(np.exp(mean)),
    )


def mean_confidence(confidences: Sequence[float], weights: Sequence[int] | None = None) -> float:
    """Return how probable a stretch is on average, from its parts': their geometric mean."""
    logs = np.log(np.maximum(confidences, np.finfo(np.float64).tiny))
    return float(np.exp(np.average(logs, weights=weights)))


_SHARED = 5
"""States of a `Lexicon` that all its words share."""


class Lexicon:
    """Decode into the vocabulary's words and no others: the best path that spells them.

    Any number of words, none included, in any order, with one space between; without a space
    among the tokens, at most one word. Exact (Viterbi), all states of a frame at once.

    The states are those of every word (its characters, with a blank between each two) and five
    that all words share: blanks before the first word, blanks behind a word, the space, blanks
    behind the space, and the last character of a word told before (see `after`).

    Source: Graves et al. 2006, with maximum in place of sum; Ney 1984, one-stage word loops.
    """

    def __init__(self, vocabulary: Vocabulary):
        spellings = [vocabulary.encode(word) for word in vocabulary.words]
        if not all(spellings) or not spellings:
            raise DataError(
                "decoding.decoder lexicon: the vocabulary holds no list of words; use greedy"
            )
        self._vocabulary = vocabulary
        self._words = frozenset(vocabulary.words)
        words = [np.array(spelling) for spelling in spellings]
        self._tokens = np.concatenate(
            [*(_between_blanks(word) for word in words), [BLANK] * _SHARED]
        )
        self._size = len(self._tokens)
        self._shared = self._size - _SHARED
        shared = range(self._shared, self._size)
        self._before, self._behind, self._space, self._after, self._late = shared
        self._spaced = " " in vocabulary.tokens
        if self._spaced:
            self._tokens[self._space] = vocabulary.tokens.index(" ")
        self._last = np.cumsum([2 * len(word) - 1 for word in words]) - 1
        self._first = np.append(0, self._last[:-1] + 1)
        self._ends = np.append(self._last, self._late)
        self._alone = frozenset(int(word[0]) for word in words if len(word) == 1)
        self._sources = self._arcs(words)

    def _arcs(self, words: Sequence[np.ndarray]) -> np.ndarray:
        """Return the states (3, states) each state is reached from: itself and up to two more.

        Number `size` stands for none, size + 1 for whatever leads into a word, size + 2 for the
        best end of a word.
        """
        none, entry, end = self._size, self._size + 1, self._size + 2
        states = np.arange(self._size)
        # A character may follow the one before it directly, unless the two are the same.
        direct = np.concatenate(
            [
                *(np.repeat(np.append(False, w[1:] != w[:-1]), 2)[:-1] for w in words),
                [False] * _SHARED,
            ]
        )
        sources = np.stack([states, states - 1, np.where(direct, states - 2, none)])
        sources[1, self._first] = entry
        # Between two characters direct[] also marks the blank before; only characters skip it.
        sources[2, self._tokens == BLANK] = none
        sources[1:, self._before] = none
        sources[1:, self._behind] = end, none
        sources[1:, self._space] = (end, self._behind) if self._spaced else (none, none)
        sources[1:, self._after] = (self._space, none) if self._spaced else (none, none)
        # For one frame: a run of them would take in what a word begins with.
        sources[:, self._late] = self._before, none, none
        return sources

    def __call__(self, log_probs: np.ndarray, *, late: int = BLANK) -> Hypothesis:
        """Decode log-probabilities (frames, tokens), behind a word that ended in `late`."""
        found = greedy(log_probs)
        # The best path of all is the lexicon's best, too, where it spells nothing but its words.
        text = "".join(self._vocabulary.tokens[token] for token in found.tokens)
        if not text or self._words.issuperset(text.split(" ")):
            return found
        return _along(log_probs, self._best_path(log_probs.astype(np.float64), late))

    def _best_path(self, log_probs: np.ndarray, late: int) -> np.ndarray:
        """Return the token of each frame (frames,) on the best path."""
        scores = np.full(self._size + 3, -np.inf)
        scores[self._before] = 0.0  # before the first frame, at no cost
        came_by = np.empty((len(log_probs), self._size), dtype=np.int8)  # one byte: texts are long
        gates = []
        tokens = self._tokens.copy()
        tokens[self._late] = late
        # What is a word by itself, or no character, ends none that was told before.
        none_is_late = late in (BLANK, *self._alone)
        for frame, values in enumerate(log_probs):
            entry = max((self._before, self._space, self._after), key=scores.__getitem__)
            end = int(self._ends[scores[self._ends].argmax()])
            gates.append({self._size + 1: entry, self._size + 2: end})
            scores[-2:] = scores[entry], scores[end]
            candidates = scores[self._sources]
            came_by[frame] = candidates.argmax(axis=0)
            scores[: self._size] = candidates.max(axis=0) + values[tokens]
            if none_is_late:
                scores[self._late] = -np.inf
        finals = np.append(self._ends, [self._before, self._behind])
        path = np.empty(len(log_probs), dtype=np.int64)
        path[-1] = finals[scores[finals].argmax()]
        for frame in range(len(log_probs) - 1, 0, -1):
            source = int(self._sources[came_by[frame, path[frame]], path[frame]])
            path[frame - 1] = gates[frame].get(source, source)
        if self._late in path:  # that word was told: nothing of it, nor its space, is told again
            in_word = path < self._shared
            path[: in_word.argmax() if in_word.any() else None] = self._before
        return self._tokens[path]


def after(decode: Decoder, token: int) -> Decoder:
    """Return the decoder of what follows a word that was told, of which `token` was the last.

    A network may be certain of a word's last character as late as just before the next word.
    Where that is behind a pause the word was told in, a lexicon takes it for no word of its own.
    """
    return partial(decode, late=token) if isinstance(decode, Lexicon) else decode


def _between_blanks(word: np.ndarray) -> np.ndarray:
    """Return a word's tokens with a blank between each two."""
    states = np.full(2 * len(word) - 1, BLANK)
    states[::2] = word
    return states


def best_class(log_probs: np.ndarray) -> Hypothesis:
    """Take the most probable class of a whole utterance, (1, classes)."""
    number = int(log_probs[0].argmax())
    confidence = float(np.exp(min(np.float64(log_probs[0, number]), 0.0)))
    return Hypothesis((number,), (0,), (1,), (confidence,), confidence)


def decoder_for(vocabulary: Vocabulary, name: str) -> Decoder:
    """Return the decoder a model's log-probabilities go through; of classes, the best one.

    Raises:
        UsageError: there is no such decoder.
        DataError: the vocabulary lacks what it needs.
    """
    return choose(DECODERS, name, "decoding.decoder")(vocabulary)


def _greedy(vocabulary: Vocabulary) -> Decoder:
    """Take each frame's best token, whatever the vocabulary; of classes, the best one."""
    return greedy if vocabulary.is_sequence else best_class


DECODERS: dict[str, Callable[[Vocabulary], Decoder]] = {
    "greedy": _greedy,
    "lexicon": Lexicon,
}
"""What makes a vocabulary's decoder, by the name recipes and model files give it."""
