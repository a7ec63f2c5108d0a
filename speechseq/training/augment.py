"""What training does to its own utterances; only the loop's data and the loop itself call it.

Levels, noise and shifts work on log-mels, where mixing is adding powers: for two independent
sounds E|X + N|^2 = |X|^2 + |N|^2 in every band, so ``log(exp(x) + exp(n))`` is the mixture's
log-mel up to the cross term's zero-mean ripple. It costs no transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor
from torchaudio.functional import lfilter

from speechseq.recipe import AugmentSettings, FeatureSettings

LOG_PER_DECIBEL = np.log(10) / 10
"""Natural logarithms of power in a decibel."""

FILTER_BANDS = 6
"""Random filters have so many gains of their own; between them they are smooth."""

NOISE_FILTER_DB = 5.0
"""Standard deviation of the gains that noise gets before it is mixed in."""

ALONE_SECONDS = (0.5, 4.0)
ALONE_DB = (-50.0, 10.0)
"""How long, and how much louder than its own level, noise is without speech."""

LEAST_REVERBERATION_SECONDS = 0.05
"""Reverberation time of the driest room."""

DIRECT_DB = (0.0, 15.0)
"""How far reflections are below the direct sound, from far away to close by."""

SPLICED = (0.25, 0.75)
"""Where a clip is cut to be spliced: after such a share of its sound."""

SOUND_DB = 30.0
ABOVE_QUIET_DB = 10.0
"""A frame is sound that lies no farther below the loudest, and as far above the quietest tenth."""


def change_speed(samples: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """Play samples (samples,) `factor` times as fast, pitch included; shape (samples / factor,)."""
    if factor == 1.0:
        return samples
    changed: np.ndarray = soxr.resample(samples, rate * factor, rate)
    return changed if len(changed) else samples[:1]


def join(
    pieces: Sequence[np.ndarray], features: FeatureSettings, gaps: Sequence[int]
) -> np.ndarray:
    """String log-mels (frames, mels) together with so many silent frames between neighbours.

    Neighbours with a gap below 0 overlap, by half of the shorter one at most; powers add up. The
    silence that each piece carries at its own edges is kept only at the string's two ends.
    """
    edge, last = features.edge_frames, len(pieces) - 1
    bare = [
        piece[edge if n else 0 : len(piece) - (edge if n < last else 0)]
        for n, piece in enumerate(pieces)
    ]
    starts = [0]
    for one, other, gap in zip(bare, bare[1:], gaps, strict=False):
        starts.append(starts[-1] + len(one) + max(gap, -(min(len(one), len(other)) // 2)))
    joined = np.full((starts[-1] + len(bare[-1]), pieces[0].shape[1]), -np.inf, np.float32)
    for start, piece in zip(starts, bare, strict=True):
        place = joined[start : start + len(piece)]
        np.logaddexp(place, piece, out=place)
    joined[np.isneginf(joined)] = np.log(features.floor)
    return joined


def most_cut(frames: int, features: FeatureSettings, seconds: float) -> int:
    """Return how many frames of a clip of so many `cut_ends` may take off an end."""
    sound = frames - 2 * features.edge_frames
    return min(features.hops(seconds), max(sound // 10, 0))


def cut_ends(
    log_mels: np.ndarray, features: FeatureSettings, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Take up to so many seconds of sound off half of the ends of (frames, mels), by chance.

    It is a tenth of the sound at most; the silence that the clip carries at its edges stays.
    """
    edge = features.edge_frames
    sound = len(log_mels) - 2 * edge
    most = most_cut(len(log_mels), features, seconds)
    before, behind = rng.integers(-most, most + 1, size=2).clip(0).tolist()
    kept = log_mels[edge + before : edge + sound - behind]
    return np.concatenate([log_mels[:edge], kept, log_mels[edge + sound :]])


def splice(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the beginning of one clip's log-mels (frames, mels) and the end of the other's.

    Both are cut at the same share of their sound, by chance somewhere about its middle.
    """
    share = rng.uniform(*SPLICED)
    return np.concatenate([one[: _part(one, share)], other[_part(other, share) :]])


def _part(log_mels: np.ndarray, share: float) -> int:
    """Return the frame at which a share of the sound is over."""
    levels = np.log(np.exp(log_mels).sum(axis=1)) / LOG_PER_DECIBEL
    least = max(levels.max() - SOUND_DB, np.quantile(levels, 0.1) + ABOVE_QUIET_DB)
    sounds = np.flatnonzero(levels >= min(least, levels.max()))
    return round(float(sounds[0] + share * (sounds[-1] + 1 - sounds[0])))


@dataclass(frozen=True)
class Mixture:
    """A batch's features (batch, frames, dims), each with `share` of its partner's in it."""

    features: Tensor
    lengths: Tensor
    partners: Tensor
    share: float


def mixed_share(alpha: float, rng: np.random.Generator) -> float:
    """Return a share that is Beta-distributed, and at most a half."""
    share = float(rng.beta(alpha, alpha))
    return min(share, 1 - share)


def mix_up(features: Tensor, lengths: Tensor, share: float, rng: np.random.Generator) -> Mixture:
    """Mix each utterance's features with `share` of another of its batch, by chance itself.

    A mixture is as long as the longer one; what lies behind the shorter one is mixed in, too, so
    that it should be silence.

    Source: Zhang et al. 2018, mixup.
    """
    partners = torch.from_numpy(rng.permutation(len(lengths))).to(lengths.device)
    return Mixture(
        torch.lerp(features, features[partners], share),
        torch.maximum(lengths, lengths[partners]),
        partners,
        share,
    )


def put_margins(
    log_mels: np.ndarray, features: FeatureSettings, before: int, behind: int
) -> np.ndarray:
    """Put so many frames of silence before and behind log-mels (frames, mels)."""
    silence = np.log(features.floor)
    return np.pad(log_mels, ((before, behind), (0, 0)), constant_values=silence)


def reverberate(
    log_mels: np.ndarray, features: FeatureSettings, seconds: float, direct_db: float
) -> np.ndarray:
    """Let (frames, mels) sound as in a room: each frame's power decays over those behind it.

    It falls by 60 dB in `seconds`, the reverberation time; `direct_db` is how far all reflections
    are below the direct sound.

    Source: Polack 1988, and Lebart et al. 2001: late reverberation as exponentially decaying power.
    """
    decay = 10 ** (-6 * features.hop_seconds / seconds)
    share = 10 ** (-direct_db / 10) * (1 - decay) / decay
    power = torch.from_numpy(np.exp(log_mels).T.copy())
    # y_t = x_t + late_t with late_t = decay · (late_{t-1} + share · x_{t-1}), in one filter
    ahead = power.new_tensor([1.0, decay * (share - 1)])
    back = power.new_tensor([1.0, -decay])
    reverberant: np.ndarray = lfilter(power, back, ahead, clamp=False).log().T.numpy()
    return reverberant


def warp_vocal_tract(log_mels: np.ndarray, features: FeatureSettings, factor: float) -> np.ndarray:
    """Scale the frequency axis of (frames, mels): formants move to `factor` times their hertz.

    Levels are interpolated between the mels' centres, on the HTK scale.

    Source: Jaitly and Hinton 2013, vocal tract length perturbation.
    """
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (features.low_hz, features.top_hz))
    step = (high - low) / (features.mels + 1)
    centres = 700 * (10 ** ((low + step * np.arange(1, features.mels + 1)) / 2595) - 1)
    sources = (2595 * np.log10(1 + centres / factor / 700) - low) / step - 1
    sources = np.clip(sources, 0, features.mels - 1)
    below = np.minimum(sources.astype(np.int64), features.mels - 2)
    share = (sources - below).astype(np.float32)
    warped: np.ndarray = log_mels[:, below] * (1 - share) + log_mels[:, below + 1] * share
    return warped


def shift(log_mels: np.ndarray, frames: int, floor: float) -> np.ndarray:
    """Move (frames, mels) later (or, negative, earlier) inside its length; silence fills up."""
    moved = np.full_like(log_mels, np.log(floor))
    size = len(log_mels)
    if abs(frames) < size:
        moved[max(frames, 0) : size + min(frames, 0)] = log_mels[
            max(-frames, 0) : size - max(frames, 0)
        ]
    return moved


def mix_noise(
    log_mels: np.ndarray, noise: np.ndarray, ratio_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Add a random stretch of noise, so many dB under the level of (frames, mels)."""
    start = rng.integers(0, max(len(noise) - len(log_mels), 0) + 1)
    stretch = np.take(noise, np.arange(start, start + len(log_mels)), axis=0, mode="wrap")
    level = _level(log_mels) - _level(stretch) - ratio_db * LOG_PER_DECIBEL
    return np.logaddexp(log_mels, stretch + level)


def noise_alone(
    noise: np.ndarray, features: FeatureSettings, rng: np.random.Generator
) -> np.ndarray:
    """Return a stretch of noise with no speech in it, at any level: (frames, mels)."""
    frames = features.frames(round(rng.uniform(*ALONE_SECONDS) * features.rate))
    silence = np.full((frames, features.mels), np.log(features.floor), np.float32)
    start = rng.integers(0, len(noise))
    stretch = np.take(noise, np.arange(start, start + frames), axis=0, mode="wrap")
    stretch = stretch + random_filter(features.mels, NOISE_FILTER_DB, rng)
    level = np.float32(rng.uniform(*ALONE_DB) * LOG_PER_DECIBEL)
    return silence_edges(np.logaddexp(silence, stretch + level), features)


def random_filter(mels: int, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Return the smooth gains (mels,) of a random filter, as logarithms of power.

    `decibels` is their standard deviation.

    Source: Nam et al. 2022, FilterAugment (linear).
    """
    gains = rng.normal(0, decibels * LOG_PER_DECIBEL, FILTER_BANDS)
    places = np.linspace(0, mels - 1, FILTER_BANDS)
    return np.interp(np.arange(mels), places, gains).astype(np.float32)


def silence_edges(log_mels: np.ndarray, features: FeatureSettings) -> np.ndarray:
    """Silence the `edge_seconds` at both ends, as they will be in every recording."""
    edge = features.edge_frames
    if edge:
        log_mels = log_mels.copy()  # a cache's, perhaps
        log_mels[:edge] = log_mels[-edge:] = np.log(features.floor)
    return log_mels


def _level(log_mels: np.ndarray) -> float:
    """Return the log of the mean power over the louder half of the frames, silence left out."""
    energies = np.sort(np.exp(log_mels).mean(axis=1))
    return float(np.log(energies[len(energies) // 2 :].mean()))


def augment(
    log_mels: np.ndarray,
    features: FeatureSettings,
    settings: AugmentSettings,
    noises: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Warp, put into a room, filter, shift, mix with noise and change the level of a clip.

    The edges are silent whatever was done, as they will be in every recording.
    """
    if settings.vocal_tract:
        factor = 1 + settings.vocal_tract * rng.uniform(-1, 1)
        log_mels = warp_vocal_tract(log_mels, features, factor)
    reach = features.hops(settings.margin_seconds)
    if reach:
        log_mels = put_margins(log_mels, features, *rng.integers(0, reach + 1, size=2).tolist())
    if rng.random() < settings.reverberation_probability:
        seconds = rng.uniform(LEAST_REVERBERATION_SECONDS, settings.reverberation_seconds)
        log_mels = reverberate(log_mels, features, seconds, rng.uniform(*DIRECT_DB))
    if settings.filter_db:
        log_mels = log_mels + random_filter(features.mels, settings.filter_db, rng)
        log_mels = np.maximum(log_mels, np.log(features.floor))
    reach = features.hops(settings.shift_seconds)
    if reach:
        log_mels = shift(log_mels, int(rng.integers(-reach, reach + 1)), features.floor)
    if noises and rng.random() < settings.noise_probability:
        ratio = rng.uniform(settings.noise_low_db, settings.noise_high_db)
        noise = noises[int(rng.integers(len(noises)))]
        # Through another filter each time, few noises are many.
        noise = noise + random_filter(features.mels, NOISE_FILTER_DB, rng)
        log_mels = mix_noise(log_mels, noise, ratio, rng)
    if settings.gain_db:
        log_mels = log_mels + rng.uniform(-1, 1) * settings.gain_db * LOG_PER_DECIBEL
        log_mels = np.maximum(log_mels, np.log(features.floor))
    return silence_edges(log_mels, features)


def spec_augment(
    frames: Tensor,
    lengths: Tensor,
    settings: AugmentSettings,
    *,
    mask_frames: int,
    chances: Sequence[np.random.Generator],
) -> Tensor:
    """Mask stripes of features (batch, frames, dims) with 0, the mean of normalised ones.

    Every utterance, by its own one of `chances`, gets `frequency_masks` stripes of up to
    `frequency_mask_width` dims and `time_masks` stripes of up to `mask_frames` frames, none over a
    third of its length.

    Source: Park et al. 2019, SpecAugment.
    """
    batch, size, dims = frames.shape
    keep = torch.ones(batch, size, dims, dtype=torch.bool)
    for row, (length, rng) in enumerate(zip(lengths.tolist(), chances, strict=True)):
        for _ in range(settings.frequency_masks):
            width = int(rng.integers(0, min(settings.frequency_mask_width, dims) + 1))
            start = int(rng.integers(0, dims - width + 1))
            keep[row, :, start : start + width] = False
        for _ in range(settings.time_masks):
            width = int(rng.integers(0, min(mask_frames, length // 3) + 1))
            start = int(rng.integers(0, length - width + 1))
            keep[row, start : start + width] = False
    return frames * keep.to(frames.device)
