"""Noise to mix into utterances: made, for where no recordings are at hand, and a corpus' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from speechseq.audio import read_audio
from speechseq.corpora.clips import clips_in
from speechseq.errors import DataError
from speechseq.manifest import NOISE_TRAINING_SHARE, Corpus
from speechseq.padding import pad
from speechseq.recipe import Recipe
from speechseq.training.features import LogMel

NOISE_SECONDS = 10.0
"""Length of each noise that is made."""

UNEVEN_NOISES = 24
"""How many noises are made that swell and fade, each with a spectrum of its own."""

NOISE_TILTS = (0.0, -1.0, -2.0)
"""Exponents of frequency in the power of white, pink and brown noise."""

UNEVEN_DB = 8.0
"""Standard deviation of uneven noise's levels, over bands and over moments."""

UNEVEN_BANDS = 8
UNEVEN_SECONDS = (0.05, 0.5)
"""How far apart its moments are."""

HISS_DB = (-50.0, -15.0)
"""Level of the hiss under eventful noise, against one event's."""

EVENTS_A_SECOND = (0.3, 5.0)
EVENT_DB = 6.0
"""Standard deviation of the levels of one noise's events."""

MACHINES = 0.3
"""Of eventful noises, so many repeat one event in even time."""

KNOCK_SECONDS = (0.005, 0.15)
"""How soon a knock falls by a factor of e."""

CALL_SECONDS = (0.08, 1.0)
CALL_HZ = (80.0, 1200.0)
"""Pitches at which calls begin."""

GLIDE = 0.3
"""Standard deviation of the logarithm of how far a pitch has moved half-way, and at the end."""

BURST_SECONDS = (0.03, 0.6)

SHAPE_DB = 10.0
SHAPE_BANDS = 6
"""Standard deviation of an event's levels over so many bands."""


def coloured_noise(samples: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise (samples,) whose power goes with frequency to the `tilt`, level 0.1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (tilt / 2)
    noise = np.fft.irfft(spectrum, samples)
    return (0.1 * noise / noise.std()).astype(np.float32)


def uneven_noise(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise (samples,) that swells and fades, and is stronger in some bands.

    Stands for what no recording is at hand of: levels wander by some `UNEVEN_DB` over octaves and
    over moments.
    """
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.maximum(np.arange(len(spectrum)), 1.0) * rate / samples
    spectrum *= 10 ** (_levels_db(hertz, UNEVEN_BANDS, UNEVEN_DB, rng) / 20)
    noise = np.fft.irfft(spectrum, samples)
    most = round(samples / rate / UNEVEN_SECONDS[0]) + 1
    moments = np.cumsum(rng.uniform(*UNEVEN_SECONDS, size=most)) * rate
    levels = rng.normal(0, UNEVEN_DB, most)
    noise *= 10 ** (np.interp(np.arange(samples), moments, levels) / 20)
    return (0.1 * noise / noise.std()).astype(np.float32)


def _levels_db(
    hertz: np.ndarray, bands: int, deviation_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Return levels by chance at rising frequencies, each band of octaves with one of its own."""
    octaves = np.log2(hertz + 20.0)
    places = np.linspace(octaves[0], octaves[-1], bands)
    return np.interp(octaves, places, rng.normal(0, deviation_db, bands))


def eventful_noise(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return knocks, calls and bursts (samples,) over a faint hiss, level 0.1.

    Stands for what households and streets do between and over words: short sounds, each with a
    beginning and an end, as words have them, some of them voiced. Some are a machine's: one sound
    over and over.
    """
    noise = coloured_noise(samples, float(rng.choice(NOISE_TILTS)), rng).astype(np.float64)
    noise *= 10 ** (rng.uniform(*HISS_DB) / 20)
    a_second = rng.uniform(*EVENTS_A_SECOND)
    if rng.random() < MACHINES:
        event = _event(rate, rng)
        for start in range(0, samples, max(round(rate / a_second), 1)):
            _put(noise, event, start)
    else:
        for start in rng.integers(0, samples, size=1 + rng.poisson(a_second * samples / rate)):
            _put(noise, _event(rate, rng), start)
    return (0.1 * noise / noise.std()).astype(np.float32)


def _event(rate: int, rng: np.random.Generator) -> np.ndarray:
    event = EVENTS[int(rng.integers(len(EVENTS)))](rate, rng)
    return event * (10 ** (rng.normal(0, EVENT_DB) / 20) / max(event.std(), 1e-9))


def _put(noise: np.ndarray, event: np.ndarray, start: int) -> None:
    place = noise[start : start + len(event)]
    place += event[: len(place)]


def _knock(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return what is struck: a few resonances that die away."""
    decay = np.exp(rng.uniform(*np.log(KNOCK_SECONDS)))
    times = np.arange(round(5 * decay * rate)) / rate
    hertz = rng.uniform(100, 0.45 * rate, size=int(rng.integers(1, 6)))
    phases = rng.uniform(0, 2 * np.pi, len(hertz))
    waves = np.sin(2 * np.pi * hertz[:, None] * times + phases[:, None])
    ringing: np.ndarray = rng.dirichlet(np.ones(len(hertz))) @ waves
    return ringing * np.exp(-times / decay)


def _call(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return a voiced sound: harmonics of a gliding pitch, some bands of them stronger."""
    size = round(rng.uniform(*CALL_SECONDS) * rate)
    glide = rng.uniform(*np.log(CALL_HZ)) + np.array([0.0, *rng.normal(0, GLIDE, 2)])
    hertz = np.exp(np.interp(np.arange(size), np.linspace(0, size, 3), glide))
    harmonics = np.arange(1, max(int(0.45 * rate / hertz.max()), 1) + 1)
    phases = 2 * np.pi * np.cumsum(hertz) / rate
    shape = _levels_db(harmonics * hertz.mean(), SHAPE_BANDS, SHAPE_DB, rng)
    strengths = 10 ** (shape / 20) / harmonics
    voiced: np.ndarray = strengths @ np.sin(harmonics[:, None] * phases)
    return voiced * np.hanning(size)


def _burst(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return a rush of noise, some bands of it stronger."""
    size = round(rng.uniform(*BURST_SECONDS) * rate)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hertz = np.fft.rfftfreq(size, 1 / rate)
    spectrum *= 10 ** (_levels_db(hertz, SHAPE_BANDS, SHAPE_DB, rng) / 20)
    return np.fft.irfft(spectrum, size) * np.hanning(size)


EVENTS: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (_knock, _call, _burst)
"""What happens in eventful noise."""


def _recordings(recipe: Recipe, corpus: Corpus) -> list[Path]:
    """List the recordings of noise: the corpus' own, if they are here, and the recipe's."""
    found: list[Path] = []
    if corpus.noise and (own := corpus.locate(recipe.data.root) / corpus.noise).is_dir():
        found += clips_in(own).values()
    if recipe.data.noise:
        folder = Path(recipe.data.noise)
        recordings = clips_in(folder) if folder.is_dir() else {}
        if not recordings:
            raise DataError(f"data.noise: {folder} holds no recordings; correct it or leave it out")
        found += recordings.values()
    return found


def noise_log_mels(recipe: Recipe, corpus: Corpus) -> list[np.ndarray]:
    """Return log-mels (frames, mels) of noise to mix in: made, and recorded where there is any.

    Raises:
        DataError: the recipe names a folder without recordings.
        AudioError: one of them cannot be read.
    """
    if not recipe.augment.noise_probability:
        return []
    rate = recipe.features.rate
    rng = np.random.default_rng(recipe.seed)
    size = round(NOISE_SECONDS * rate)
    clips = [coloured_noise(size, tilt, rng) for tilt in NOISE_TILTS]
    clips += [uneven_noise(size, rate, rng) for _ in range(UNEVEN_NOISES)]
    clips += [eventful_noise(size, rate, rng) for _ in range(recipe.augment.eventful_noises)]
    for path in _recordings(recipe, corpus):
        recording = read_audio(path, rate)
        clips.append(recording[: round(NOISE_TRAINING_SHARE * len(recording))])
    log_mel = LogMel(replace(recipe.features, edge_seconds=0.0))
    with torch.inference_mode():
        return [log_mel(*map(torch.from_numpy, pad([clip])))[0][0].numpy() for clip in clips]
