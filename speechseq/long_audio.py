"""Long audio in bounded memory: blocks of samples to windows that overlap.

Of what the network gives for a window, only the frames of the window's own part are kept. One
after the other these are the frames of the whole recording, as far as the network forgets within
the context around them. What becomes of them is told in `segments`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from speechseq.audio import check_samples
from speechseq.recipe import Recipe
from speechseq.tokens import BLANK

LONG_SECONDS = 60.0
"""Longer recordings are heard in windows, as the network's memory grows with what it hears."""

WINDOW_SECONDS = 30.0
"""Own part of a window; the context comes on top."""

CONTEXT_SECONDS = 4.0
"""What a window hears before and after its own part (scripts/measure_overlap.py)."""

STRETCH_SECONDS = 0.05
BANDS = 4
"""Power is measured over stretches as long as this, in bands of equal width."""

FLOOR_WINDOWS = 10
FLOOR_SHARE = 0.1
"""The floor is the power of the quietest tenth of the stretches, least of so many windows."""

LOUDEST_RATIO = 4.0
"""Steady noise, white to brown, stays within 6 dB of its floor; a word as loud as it does not."""

CERTAIN_BLANK = -30.0
"""Log-probability of every token but the blank where the network was not asked."""

Progress = Callable[[float], None]
"""``seconds of audio taken in -> None``."""


class Counted:
    """Passes blocks of samples (samples,) on and counts their seconds."""

    def __init__(self, blocks: Iterable[np.ndarray], rate: int, progress: Progress | None):
        self._blocks = blocks
        self._rate = rate
        self._progress = progress
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Seconds passed on so far."""
        return self._samples / self._rate

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            check_samples(block, "block")
            self._samples += len(block)
            yield block
            if self._progress:
                self._progress(self.seconds)


def whole_or_blocks(blocks: Iterator[np.ndarray], most: int) -> np.ndarray | Iterator[np.ndarray]:
    """Return blocks as one (samples,) if they are at most so many samples, else as they come."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) > most:
            return itertools.chain(held, blocks)
    return np.concatenate(held)


@dataclass(frozen=True)
class Window:
    """Samples (samples,) of a recording; frames `first` to `last` of what they give are its own."""

    samples: np.ndarray
    first: int
    last: int

    @property
    def frames(self) -> int:
        """Number of its own frames."""
        return self.last - self.first


def windows(
    blocks: Iterable[np.ndarray],
    recipe: Recipe,
    *,
    own_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
) -> Iterator[Window]:
    """Cut blocks (samples,) into windows whose own frames are, in turn, those of the whole.

    Output frame n stands at sample n · step - edge: one every step = hop · time_stride samples,
    and the graph puts silence around what it is given. A window begins at a multiple of `step`,
    so that its frames stand where the whole's do, and so early that the silence lies before its
    context. The first window owns the silence before the whole, the last the silence behind it.
    """
    features = recipe.features
    step = recipe.step_samples
    context = round(context_seconds * features.rate)
    own = max(round(own_seconds * features.rate / step), features.edge_samples // step + 1)
    held, begun, frame = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        held = np.concatenate([held, block])
        while begun + len(held) > (end := (frame + own) * step - features.edge_samples + context):
            first = frame - begun // step
            yield Window(held[: end - begun], first, first + own)
            frame += own
            # In samples from the start of the whole, `begun` is where `held` begins.
            begin = max((frame * step - features.edge_samples - context) // step * step, 0)
            held, begun = held[begin - begun :], begin
    frames = recipe.model.output_frames(features.frames(begun + len(held)))
    yield Window(held, frame - begun // step, frames - begun // step)


def batches(items: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Yield lists of `size` windows, the last one shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def certain_blanks(frames: int, tokens: int) -> np.ndarray:
    """Return log-probabilities (frames, tokens) of silence."""
    log_probs = np.full((frames, tokens), CERTAIN_BLANK, np.float32)
    log_probs[:, BLANK] = 0.0
    return log_probs


class NoiseFloor:
    """Tells windows in which nothing stands out of the noise; it remembers the last windows'."""

    def __init__(self, rate: int):
        self._stretch = round(STRETCH_SECONDS * rate)
        self._floors: deque[np.ndarray] = deque(maxlen=FLOOR_WINDOWS)

    def covers(self, samples: np.ndarray) -> bool:
        """Tell whether samples (samples,), the next window's, hold nothing but steady noise."""
        if not len(samples):
            return False
        powers = self._powers(samples)
        self._floors.append(np.quantile(powers, FLOOR_SHARE, axis=0))
        floor = np.min(self._floors, axis=0)
        return bool((powers.max(axis=0) <= LOUDEST_RATIO * floor).all())

    def _powers(self, samples: np.ndarray) -> np.ndarray:
        """Return powers (stretches, BANDS); what is left behind the last stretch is not heard."""
        size = max(len(samples) // self._stretch, 1) * self._stretch
        stretches = np.resize(samples, size).reshape(-1, self._stretch)
        stretches = stretches - stretches.mean(axis=1, keepdims=True)
        spectrum = np.fft.rfft(stretches * np.hanning(self._stretch), axis=1)[:, 1:]
        # Times f², or the low end of a band would stand for all of it where noise falls with f.
        slope = np.arange(1, spectrum.shape[1] + 1) ** 2
        bands = np.array_split(np.abs(spectrum) ** 2 * slope, BANDS, axis=1)
        return np.stack([band.sum(axis=1) for band in bands], axis=1)
