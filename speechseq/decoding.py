"""Log-probabilities to token numbers; numpy only, the same for training, serving and scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from speechseq.tokens import BLANK


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


def greedy(log_probs: np.ndarray) -> Hypothesis:
    """Take the best token of each frame (frames, tokens), merge repeats, drop blanks.

    Source: Graves et al. 2006, best path decoding.
    """
    best = log_probs.argmax(axis=1)
    values = np.take_along_axis(log_probs, best[:, None], axis=1)[:, 0].astype(np.float64)
    values = np.minimum(values, 0.0)  # float32 softmax may round above certainty
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    spoken = best[starts] != BLANK
    starts, ends = starts[spoken], ends[spoken]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    totals, sizes = sums[ends] - sums[starts], ends - starts
    mean = totals.sum() / sizes.sum() if len(starts) else values.mean() if len(values) else 0.0
    return Hypothesis(
        tokens=tuple(best[starts].tolist()),
        starts=tuple(starts.tolist()),
        ends=tuple(ends.tolist()),
        token_confidences=tuple(np.exp(totals / np.maximum(sizes, 1)).tolist()),
        confidence=float(np.exp(mean)),
    )


def best_class(log_probs: np.ndarray) -> Hypothesis:
    """Take the most probable class of a whole utterance, (1, classes)."""
    number = int(log_probs[0].argmax())
    confidence = float(np.exp(min(np.float64(log_probs[0, number]), 0.0)))
    return Hypothesis((number,), (0,), (1,), (confidence,), confidence)


DECODERS: dict[str, Callable[[np.ndarray], Hypothesis]] = {"greedy": greedy, "class": best_class}
"""Decoders by the name recipes and model files give them."""
