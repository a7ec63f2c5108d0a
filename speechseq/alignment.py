"""Where in time the labels are: CTC's forced alignment, and whether one exists at all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from speechseq.errors import DataError
from speechseq.tokens import BLANK


def frames_needed(labels: Sequence[int]) -> int:
    """Return the fewest frames CTC can spell `labels` in: one each, and a blank between repeats.

    Source: Graves et al. 2006.
    """
    return len(labels) + sum(one == other for one, other in pairwise(labels))


def align(log_probs: np.ndarray, labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return the frames [start, end) of each label on the most probable path that spells them.

    `log_probs` is (frames, tokens), `labels` holds no blank. Viterbi over the 2·labels + 1
    states blank, label, blank, ..., all states of a frame at once.

    Raises:
        DataError: there are fewer frames than the labels need, or no path has a probability.

    Source: Graves et al. 2006, with maximum in place of sum.
    """
    needed = frames_needed(labels)
    if len(log_probs) < needed:
        raise DataError(
            f"alignment: {len(log_probs)} frames cannot spell {len(labels)} labels, which need "
            f"{needed}; check the text, or use fewer seconds a frame"
        )
    if not labels:
        return []
    path = _best_path(log_probs.astype(np.float64), np.asarray(labels))
    spans = []
    for number in range(len(labels)):
        frames = np.flatnonzero(path == 2 * number + 1)
        spans.append((int(frames[0]), int(frames[-1]) + 1))
    return spans


def _best_path(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the state of each frame (frames,) on the best path."""
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    # A label may follow the label before it directly, unless the two are the same.
    skip = np.zeros(len(states), dtype=bool)
    skip[3::2] = labels[1:] != labels[:-1]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), dtype=np.int8)
    for frame in range(1, len(log_probs)):
        one = np.concatenate([[-np.inf], scores[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf, -np.inf], scores[:-2]]), -np.inf)
        candidates = np.stack([scores, one, two])
        steps[frame] = candidates.argmax(axis=0)
        scores = candidates.max(axis=0) + log_probs[frame, states]
    if not scores[-2:].max() > -np.inf:
        raise DataError(
            "alignment: every path that spells the labels has probability 0; check the text"
        )
    path = np.empty(len(log_probs), dtype=np.int64)
    path[-1] = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    for frame in range(len(log_probs) - 1, 0, -1):
        path[frame - 1] = path[frame] - steps[frame, path[frame]]
    return path
