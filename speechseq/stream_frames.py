"""Samples as they are spoken to frames, each of them once and for good.

One-directional models whose file carries their state go on from frame to frame; what they give is
what the whole would give, and they wait only for what the front end hears ahead. All others hear
the last seconds anew, and of what they give those frames are kept that have enough audio behind
them. What becomes of the frames is told in `streaming`.

Source: Zhang et al. 2016, Highway Long Short-Term Memory RNNs for Distant Speech Recognition
(latency-controlled bidirectional LSTM).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from speechseq.recipe import DELTA_WINDOW, Recipe
from speechseq.recognition import frame_seconds

LATENCY_MS = 500.0
"""How long after it was spoken a frame is sure, unless said otherwise (docs/latency.png)."""

HOP_SECONDS = 0.2
"""Longest time from one run of a network to the next: rarer runs cost less and wait longer."""

CONTEXT_SECONDS = 2.0
"""What a network hears before the frames it is asked for, unless it carries its state."""

Hear = Callable[[np.ndarray], np.ndarray]
"""``samples (samples,) -> log_probs (frames, tokens)``."""

State = Mapping[str, np.ndarray]
"""A carried state, by the names of the graph's inputs; empty at the start."""

HearOn = Callable[[np.ndarray, int, int, State], tuple[np.ndarray, State]]
"""``samples (samples,), first, end, state -> log_probs of frames [first, end), next state``."""


@dataclass(frozen=True)
class Reach:
    """Samples around a frame's place that its front end hears: so many before, and behind."""

    before: int
    behind: int


def reach(recipe: Recipe) -> Reach:
    """Return what front end, deltas and window of a recipe hear around a frame's place.

    A window is centred on its frame; a stack takes frames behind its first; two convolutions of
    three frames take the first one's stride and one more on either side, each that follows takes
    a frame that leaves the front end.
    """
    features, model = recipe.features, recipe.model
    wide = 1 + model.conv_strides[0] + 2 * model.conv_blocks * model.time_stride
    before, behind = {
        "none": (0, 0),
        "stack": (0, model.time_stride - 1),
        "conv": (wide, wide),
    }[model.front_end]
    deltas = DELTA_WINDOW // 2 * features.deltas
    window, points = features.window_samples, features.transform_samples
    centre = points // 2 - (points - window) // 2
    return Reach(
        (before + deltas) * features.hop_samples + centre,
        (behind + deltas) * features.hop_samples + window - centre,
    )


class Held:
    """Samples of a stream that are still needed, and which frames stand in them.

    As in `long_audio.windows`, frame n stands at sample n · step - edge, and what is held begins
    at a multiple of `step`, so that its frames stand where the whole's do. A frame is due when
    `ahead` samples behind its place were heard; `before` samples ahead of it are kept.
    """

    def __init__(self, recipe: Recipe, *, before: int, ahead: int):
        self._recipe = recipe
        self._step = recipe.step_samples
        self._edge = recipe.features.edge_samples
        self._before = max(before, self._step)
        self._ahead = ahead
        self._begun = 0  # in samples from the stream's start, where those held begin
        self._frame = 0  # the next one to come
        self.samples = np.zeros(0, np.float32)

    @property
    def first(self) -> int:
        """The next frame, counted from where the samples begin."""
        return self._frame - self._begun // self._step

    @property
    def due(self) -> int:
        """Number of frames that are due; 0 before the first sample."""
        last = (self._heard + self._edge - self._ahead) // self._step
        return max(last + 1 - self._frame, 0) if self._heard else 0

    @property
    def left(self) -> int:
        """Number of frames there are after those taken, if no more is heard."""
        frames = self._recipe.model.output_frames(self._recipe.features.frames(self._heard))
        return frames - self._frame if self._heard else 0

    @property
    def _heard(self) -> int:
        return self._begun + len(self.samples)

    def add(self, samples: np.ndarray) -> None:
        """Hold the next samples (samples,), too."""
        self.samples = np.concatenate([self.samples, samples])

    def take(self, frames: int) -> None:
        """Let so many frames go, and the samples that only they needed."""
        self._frame += frames
        begin = self._frame * self._step - self._edge - self._before
        begin = max(begin // self._step * self._step, 0)
        self.samples, self._begun = self.samples[begin - self._begun :], begin


class CarriedFrames:
    """Goes on from where it was: each frame is heard once, and is what it is in the whole."""

    def __init__(self, hear_on: HearOn, recipe: Recipe, tokens: int):
        around = reach(recipe)
        self._hear_on = hear_on
        self._held = Held(recipe, before=around.before, ahead=around.behind)
        self._state: State = {}
        self._none = np.zeros((0, tokens), np.float32)

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (samples,); return the frames that are due."""
        self._held.add(samples)
        due = self._held.due
        if not due:
            return self._none
        frames, self._state = self._run(due)
        self._held.take(due)
        return frames

    def peek(self) -> np.ndarray:
        """Return the frames that the front end has not heard to the end."""
        return self._run(left)[0] if (left := self._held.left) else self._none

    finish = peek

    def _run(self, frames: int) -> tuple[np.ndarray, State]:
        first = self._held.first
        return self._hear_on(self._held.samples, first, first + frames, self._state)


class WindowFrames:
    """Hears the last seconds anew each time, and keeps the frames with enough audio behind them.

    A frame is sure at most `latency_seconds` after it was spoken: it waits for a part of them to
    be heard behind it, and in the rest for others to be sure together with it, so that not every
    frame costs a run of the network.
    """

    def __init__(self, hear: Hear, recipe: Recipe, tokens: int, latency_seconds: float):
        rate, step_seconds = recipe.features.rate, frame_seconds(recipe)
        hop_seconds = min(latency_seconds / 2, HOP_SECONDS)
        self._hop = max(int(hop_seconds / step_seconds), 1)
        ahead = max(latency_seconds - (self._hop - 1) * step_seconds, 0.0)
        before = round(CONTEXT_SECONDS * rate)
        self._hear = hear
        self._held = Held(recipe, before=before, ahead=round(ahead * rate))
        self._none = np.zeros((0, tokens), np.float32)
        self._tail: np.ndarray | None = self._none

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (samples,); return the frames that are due, once they are a hop."""
        self._held.add(samples)
        self._tail = None if len(samples) else self._tail
        due = self._held.due
        if due < self._hop:
            return self._none
        found = self._after_sure()
        self._tail = found[due:]
        self._held.take(due)
        return found[:due]

    def peek(self) -> np.ndarray:
        """Return the frames with too little audio behind them."""
        if self._tail is None:
            self._tail = self._after_sure()
        return self._tail

    finish = peek

    def _after_sure(self) -> np.ndarray:
        return self._hear(self._held.samples)[self._held.first :]


class WholeFrames:
    """Waits until all is heard; so its frames are those of a recording."""

    def __init__(self, hear: Hear, tokens: int):
        self._hear = hear
        self._none = np.zeros((0, tokens), np.float32)
        self._held: list[np.ndarray] = []

    def hear(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples (samples,); return no frame."""
        self._held.append(samples)
        return self._none

    def peek(self) -> np.ndarray:
        """Return no frame: to hear all of it again and again takes too long."""
        return self._none

    def finish(self) -> np.ndarray:
        """Return all frames."""
        samples = np.concatenate([np.zeros(0, np.float32), *self._held])
        self._held = []
        return self._hear(samples) if len(samples) else self._none


Frames = CarriedFrames | WindowFrames | WholeFrames
"""Turns samples into frames, log-probabilities (frames, tokens): `hear`, `peek` and `finish`."""


def frames_within(hear: Hear, recipe: Recipe, tokens: int, latency_seconds: float) -> Frames:
    """Return frames that are sure at most so many seconds after they were spoken; `inf` waits."""
    if math.isinf(latency_seconds):
        return WholeFrames(hear, tokens)
    return WindowFrames(hear, recipe, tokens, latency_seconds)
