"""Clips of many lengths in one array: batches by length, and zeros behind the short ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from speechseq.audio import check_samples
from speechseq.errors import AudioError


def by_length(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Yield the numbers of clips, the longest first, in batches of at most `most` padded samples.

    A longer clip is a batch of its own.
    """
    order = sorted(sizes, key=sizes.__getitem__, reverse=True)
    begun = 0
    while begun < len(order):
        size = max(most // max(sizes[order[begun]], 1), 1)
        yield order[begun : begun + size]
        begun += size


def pad(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack clips into (batch, samples) float32, zeros behind the short ones, and their lengths.

    Raises:
        AudioError: a clip is empty, or not of mono floats.
    """
    for number, clip in enumerate(clips):
        check_samples(clip, f"clip {number}")
        if not clip.size:
            raise AudioError(f"clip {number}: holds no samples; give longer audio")
    lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
    samples = np.zeros((len(clips), lengths.max()), dtype=np.float32)
    for row, clip in enumerate(clips):
        samples[row, : len(clip)] = clip
    return samples, lengths
