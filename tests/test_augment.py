"""Augmentation: what each does to a sound, measured, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import tone
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from speechseq.recipe import AugmentSettings, FeatureSettings
from speechseq.training.augment import (
    ALONE_SECONDS,
    FILTER_BANDS,
    LOG_PER_DECIBEL,
    augment,
    change_speed,
    cut_ends,
    join,
    mix_noise,
    noise_alone,
    put_margins,
    random_filter,
    reverberate,
    shift,
    spec_augment,
    warp_vocal_tract,
)
from speechseq.training.features import LogMel
from speechseq.training.noise import coloured_noise

FEATURES = FeatureSettings(rate=8000, mels=20, low_hz=60.0)
FLOOR = np.log(FEATURES.floor)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def log_mels(samples: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        frames, _ = LogMel(FEATURES)(
            torch.from_numpy(samples.astype(np.float32))[None], torch.tensor([len(samples)])
        )
    return frames[0].numpy()


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.25])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    played = change_speed(tone(1000.0, 1.0), 8000, factor)
    assert len(played) == pytest.approx(8000 / factor, abs=1)
    assert played.dtype == np.float32
    peak = np.abs(np.fft.rfft(played)).argmax() * 8000 / len(played)
    assert peak == pytest.approx(1000.0 * factor, abs=3)


def test_speed_one_changes_nothing() -> None:
    samples = tone(440.0, 0.3)
    np.testing.assert_array_equal(change_speed(samples, 8000, 1.0), samples)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.data())
def test_joining_keeps_every_frame_and_adds_the_gaps(sizes: list[int], data: st.DataObject) -> None:
    gaps = [data.draw(st.integers(0, 9)) for _ in sizes[1:]]
    pieces = [np.full((size, 2), float(n), np.float32) for n, size in enumerate(sizes)]
    joined = join(pieces, FEATURES, gaps)
    assert joined.dtype == np.float32
    assert len(joined) == sum(sizes) + sum(gaps)
    for number, size in enumerate(sizes):
        assert (joined == number).all(axis=1).sum() == size
    assert np.isclose(joined, FLOOR).all(axis=1).sum() == sum(gaps)


def test_joining_keeps_the_silence_at_the_edges_only_at_the_ends() -> None:
    settings = dataclasses.replace(FEATURES, edge_seconds=0.03)
    pieces = [np.arange(10.0, dtype=np.float32)[:, None] + 100 * n for n in (1, 2, 3)]
    joined = join(pieces, settings, [0, 1])[:, 0]
    expected = [*range(100, 107), *range(203, 207), FLOOR, *range(303, 310)]
    np.testing.assert_allclose(joined, expected, rtol=1e-6)


@given(st.integers(1, 12), st.integers(-15, 15))
def test_shifting_moves_and_fills(size: int, frames: int) -> None:
    clip = np.arange(size, dtype=np.float32)[:, None]
    expected = [n - frames if 0 <= n - frames < size else FLOOR for n in range(size)]
    np.testing.assert_allclose(shift(clip, frames, FEATURES.floor)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("asked", [0.0, 5.0, 15.0])
def test_mixing_log_mels_is_mixing_sounds(asked: float) -> None:
    """Against waveforms mixed at the same ratio of mean power under the loud half."""
    speech = np.concatenate([coloured_noise(8000, -1.0, rng(1)), np.zeros(4000)])
    noise = coloured_noise(12000, 0.0, rng(2))
    one, other = log_mels(speech), log_mels(noise)
    mixed = mix_noise(one, other, asked, rng(3))
    level = _loud_decibels(one) - _loud_decibels(other) - asked
    sounds = log_mels(speech + noise * 10 ** (level / 20))
    assert abs((mixed - sounds).mean()) < 0.05
    assert np.abs(mixed - sounds).mean() < 0.4
    assert (mixed >= one - 1e-6).all(), "adding power never lowers a band"


@pytest.mark.parametrize("decibels", [1.0, 8.0])
def test_random_filters_are_smooth_and_differ(decibels: float) -> None:
    gains = np.stack([random_filter(40, decibels, rng(seed)) for seed in range(400)])
    gains /= LOG_PER_DECIBEL
    assert gains.std(axis=0)[0] == pytest.approx(decibels, rel=0.15)
    assert abs(gains.mean()) < 1
    most = 1.2 * (gains.max(axis=1) - gains.min(axis=1)) / (39 / (FILTER_BANDS - 1))
    assert (np.abs(np.diff(gains, axis=1)).max(axis=1) <= most).all()


def _loud_decibels(clip: np.ndarray) -> float:
    energies = np.sort(np.exp(clip).mean(axis=1))
    return 10 * float(np.log10(energies[len(energies) // 2 :].mean()))


@given(st.integers(-10, 30), st.integers(1, 60), st.integers(1, 60))
def test_noise_is_as_far_below_as_asked(ratio: int, size: int, noise_size: int) -> None:
    clip = rng(size).uniform(-4, 2, (size, 6))
    mixed = mix_noise(clip, rng(noise_size).uniform(-9, -5, (noise_size, 6)), ratio, rng())
    added = np.log(np.exp(mixed) - np.exp(clip))
    assert _loud_decibels(clip) - _loud_decibels(added) == pytest.approx(ratio, abs=0.01)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.data())
def test_joining_adds_powers_where_neighbours_overlap(
    sizes: list[int], data: st.DataObject
) -> None:
    gaps = [data.draw(st.integers(-15, 4)) for _ in sizes[1:]]
    pieces = [rng(n).uniform(-8, 2, (size, 3)).astype(np.float32) for n, size in enumerate(sizes)]
    moves = [
        size + max(gap, -(min(size, after) // 2))
        for size, after, gap in zip(sizes, sizes[1:], gaps, strict=False)
    ]
    power = np.zeros((sum(moves) + sizes[-1], 3))
    for start, piece in zip(np.cumsum([0, *moves]), pieces, strict=True):
        power[start : start + len(piece)] += np.exp(piece)
    joined = join(pieces, FEATURES, gaps)
    assert joined.dtype == np.float32
    expected = np.log(np.where(power > 0, power, FEATURES.floor))
    np.testing.assert_allclose(joined, expected, atol=1e-5)


@pytest.mark.parametrize(("gap", "length"), [(-1, 13), (-2, 12), (-9, 12), (0, 14), (3, 17)])
def test_neighbours_overlap_by_half_of_the_shorter_at_most(gap: int, length: int) -> None:
    pieces = [np.zeros((10, 2), np.float32), np.zeros((4, 2), np.float32)]
    joined = join(pieces, FEATURES, [gap])
    assert len(joined) == length
    both = np.isclose(joined, np.log(2)).all(axis=1)
    assert both.sum() == max(14 - length, 0)


def test_what_overlaps_is_speech_and_not_the_silence_at_the_edges() -> None:
    settings = dataclasses.replace(FEATURES, edge_seconds=0.03)
    speech = np.zeros((6, 1), np.float32)
    piece = put_margins(speech, settings, 3, 3)
    joined = join([piece, piece], settings, [-2])[:, 0]
    expected = [*[FLOOR] * 3, *[0.0] * 4, *[np.log(2)] * 2, *[0.0] * 4, *[FLOOR] * 3]
    np.testing.assert_allclose(joined, expected, rtol=1e-6)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_margins_are_silence_around(size: int, before: int, behind: int) -> None:
    clip = rng(size).uniform(-8, 2, (size, 3)).astype(np.float32)
    wide = put_margins(clip, FEATURES, before, behind)
    assert wide.dtype == np.float32
    assert wide.shape == (before + size + behind, 3)
    np.testing.assert_array_equal(wide[before : before + size], clip)
    around = np.concatenate([wide[:before], wide[before + size :]])
    np.testing.assert_allclose(around, FLOOR, rtol=1e-6)


@pytest.mark.parametrize(("size", "seconds"), [(60, 0.05), (60, 0.2), (9, 0.1)])
def test_ends_lose_a_tenth_at_most_and_keep_their_silence(size: int, seconds: float) -> None:
    features = dataclasses.replace(FEATURES, edge_seconds=0.1)
    edge = 10
    sound = np.arange(size, dtype=np.float32)[:, None] + np.zeros(20, np.float32)
    clip = put_margins(sound, features, edge, edge)
    chance, lost = rng(3), []
    for _ in range(100):
        cut = cut_ends(clip, features, seconds, chance)
        np.testing.assert_array_equal(cut[:edge], clip[:edge])
        np.testing.assert_array_equal(cut[len(cut) - edge :], clip[:edge])
        kept = cut[edge : len(cut) - edge, 0]
        assert (np.diff(kept) == 1).all()
        lost.append((kept[0], size - 1 - kept[-1]))
    most = min(round(100 * seconds), size // 10)
    assert np.min(lost, axis=0).tolist() == [0, 0]
    assert np.max(lost, axis=0).tolist() == [most, most]


def test_margins_are_drawn_for_both_ends_up_to_their_longest() -> None:
    settings = AugmentSettings(margin_seconds=0.04)
    seen = set()
    for seed in range(200):
        clip = augment(np.ones((5, 20), np.float32), FEATURES, settings, [], rng(seed))
        spoken = np.flatnonzero(clip[:, 0] > 0)
        assert len(spoken) == 5
        seen.add((int(spoken[0]), len(clip) - 1 - int(spoken[-1])))
    assert seen == {(before, behind) for before in range(5) for behind in range(5)}


ROOMS = [(0.05, 0.0), (0.3, 7.0), (0.6, 15.0), (10.0, 3.0)]


def impulse(frames: int, level: float = 1e6) -> np.ndarray:
    """One loud frame, then next to nothing: log-mels (frames, 2)."""
    power = np.full((frames, 2), 1e-30)
    power[0] = level
    return np.log(power)


@pytest.mark.parametrize(("seconds", "direct_db"), ROOMS[1:])
def test_a_room_falls_by_60_db_in_its_reverberation_time(seconds: float, direct_db: float) -> None:
    hops = round(100 * seconds)
    room = np.exp(reverberate(impulse(hops + 2), FEATURES, seconds, direct_db))
    assert room[0] == pytest.approx(1e6, rel=1e-6), "the direct sound stays as it is"
    np.testing.assert_allclose(10 * np.log10(room[1] / room[1 + hops]), 60.0, atol=0.01)
    falls = np.diff(10 * np.log10(room[1:, 0]))
    np.testing.assert_allclose(falls, falls[0], atol=0.01)


@pytest.mark.parametrize(("seconds", "direct_db"), ROOMS)
def test_all_reflections_are_so_far_below_the_direct_sound(
    seconds: float, direct_db: float
) -> None:
    frames = round(200 * seconds) + 50
    room = np.exp(reverberate(impulse(frames), FEATURES, seconds, direct_db))[:, 0]
    assert 10 * np.log10(room[0] / room[1:].sum()) == pytest.approx(direct_db, abs=0.01)


@pytest.mark.parametrize(("seconds", "direct_db"), ROOMS)
def test_a_room_equals_its_recursion(seconds: float, direct_db: float) -> None:
    """late_t = d (late_{t-1} + s x_{t-1}), y_t = x_t + late_t, from loud to silent and back."""
    clip = rng(4).uniform(FLOOR, 12, (60, 5)).astype(np.float32)
    clip[20:40] = FLOOR
    decay = 10 ** (-6 * 0.01 / seconds)
    share = 10 ** (-direct_db / 10) * (1 - decay) / decay
    late, expected = np.zeros(5), []
    powers = np.exp(clip.astype(np.float64))
    for before, power in zip([np.zeros(5), *powers], powers, strict=False):
        late = decay * (late + share * before)
        expected.append(np.log(power + late))
    found = reverberate(clip, FEATURES, seconds, direct_db)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-3)


@given(st.floats(0.05, 10), st.floats(0, 15), st.integers(1, 60), st.integers(0, 99))
def test_a_room_takes_nothing_away(seconds: float, direct_db: float, size: int, seed: int) -> None:
    clip = rng(seed).uniform(FLOOR, 14, (size, 4)).astype(np.float32)
    clip[:, rng(seed).random(4) < 0.5] = FLOOR
    room = reverberate(clip, FEATURES, seconds, direct_db)
    assert room.shape == clip.shape
    assert np.isfinite(room).all()
    assert (room >= clip - 1e-3).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_so_many_clips_are_put_into_a_room(probability: float) -> None:
    settings = AugmentSettings(reverberation_probability=probability)
    changed = sum(
        not np.array_equal(augment(CLIP, FEATURES, settings, [], rng(seed)), CLIP)
        for seed in range(200)
    )
    assert changed / 200 == pytest.approx(probability, abs=0.1)


def test_a_room_leaves_the_edges_silent() -> None:
    features = dataclasses.replace(FEATURES, edge_seconds=0.03)
    clip = augment(CLIP, features, AugmentSettings(reverberation_probability=1.0), [], rng())
    np.testing.assert_allclose(clip[[0, 1, 2, -3, -2, -1]], FLOOR, rtol=1e-6)
    assert (clip[3:-3] >= CLIP[3:-3] - 1e-3).all()


@pytest.mark.parametrize("name", ["shift", "gain", "noise", "room", "microphone", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_edges_are_silent_whatever_is_done(name: str, seed: int) -> None:
    features = dataclasses.replace(FEATURES, edge_seconds=0.03)
    clip = CLIP.copy()
    clip[:3] = clip[-3:] = FLOOR
    found = augment(clip, features, SETTINGS[name], NOISES, rng(seed))
    np.testing.assert_allclose(found[[0, 1, 2, -3, -2, -1]], FLOOR, rtol=1e-6)
    assert (found[3:-3] > FLOOR).any()


def test_a_filter_is_the_same_all_through_a_clip_and_leaves_silence() -> None:
    features = dataclasses.replace(FEATURES, edge_seconds=0.03)
    quiet = np.concatenate([np.full((10, 20), FLOOR, np.float32), CLIP])
    filtered = augment(quiet, features, AugmentSettings(filter_db=5.0), [], rng())
    assert (filtered >= FLOOR).all()
    np.testing.assert_allclose(filtered[:3], FLOOR, rtol=1e-6)
    loud = (filtered[10:-3] > FLOOR + 0.1) & (CLIP[:-3] > FLOOR + 0.1)
    gains = np.where(loud, filtered[10:-3] - CLIP[:-3], np.nan)
    assert np.nanmax(np.nanstd(gains, axis=0)) < 1e-4
    assert np.nanstd(np.nanmean(gains, axis=0)) > 0.2, "bands differ"


SETTINGS = {
    "nothing": AugmentSettings(),
    "shift": AugmentSettings(shift_seconds=0.1),
    "gain": AugmentSettings(gain_db=6.0),
    "noise": AugmentSettings(noise_probability=1.0),
    "room": AugmentSettings(reverberation_probability=1.0),
    "microphone": AugmentSettings(filter_db=5.0),
    "all": AugmentSettings(
        shift_seconds=0.1, gain_db=6.0, noise_probability=0.5, reverberation_probability=0.5
    ),
}
CLIP = rng(5).uniform(-8, 2, (40, 20)).astype(np.float32)
NOISES = [rng(6).uniform(-8, 2, (30, 20)).astype(np.float32)]


@pytest.mark.parametrize("name", SETTINGS)
def test_augmentation_follows_from_its_generator_alone(name: str) -> None:
    before = CLIP.copy()
    one, again = (augment(CLIP, FEATURES, SETTINGS[name], NOISES, rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(CLIP, before, "its input stays as it is")
    assert one.shape == CLIP.shape
    other = augment(CLIP, FEATURES, SETTINGS[name], NOISES, rng(2))
    assert np.array_equal(one, other) == (name == "nothing")
    assert np.array_equal(one, CLIP) == (name == "nothing")


@given(st.integers(0, 1000))
def test_gain_stays_in_its_bounds_and_above_the_floor(seed: int) -> None:
    louder = augment(CLIP, FEATURES, SETTINGS["gain"], [], rng(seed))
    change = (louder - CLIP)[CLIP > FLOOR + 6 * LOG_PER_DECIBEL] / LOG_PER_DECIBEL
    assert np.ptp(change) < 1e-3
    assert abs(change[0]) <= 6.001
    quiet = np.full((4, 20), FLOOR)
    assert (augment(quiet, FEATURES, SETTINGS["gain"], [], rng(seed)) >= FLOOR).all()


def test_gain_goes_both_ways() -> None:
    changes = [
        (augment(CLIP, FEATURES, SETTINGS["gain"], [], rng(seed)) - CLIP)[0, 0]
        for seed in range(50)
    ]
    assert min(changes) < -4 * LOG_PER_DECIBEL
    assert max(changes) > 4 * LOG_PER_DECIBEL


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_so_many_clips_get_noise(probability: float) -> None:
    settings = AugmentSettings(noise_probability=probability)
    noisy = sum(
        not np.array_equal(augment(CLIP, FEATURES, settings, NOISES, rng(seed)), CLIP)
        for seed in range(200)
    )
    assert noisy / 200 == pytest.approx(probability, abs=0.1)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", [1, 2])
def test_the_shortest_clips_survive(name: str, size: int) -> None:
    for seed in range(10):
        clip = augment(CLIP[:size], FEATURES, SETTINGS[name], NOISES, rng(seed))
        assert clip.shape == (size, 20)
        assert np.isfinite(clip).all()


MASKS = AugmentSettings(frequency_masks=1, frequency_mask_width=5, time_masks=1)


def masked(
    settings: AugmentSettings, lengths: list[int], seed: int, mask_frames: int = 6
) -> np.ndarray:
    """Return where ones became zeros: (batch, frames, dims)."""
    frames = torch.ones(len(lengths), max(lengths), 16)
    chances = [rng(seed + row) for row in range(len(lengths))]
    found = spec_augment(
        frames, torch.tensor(lengths), settings, mask_frames=mask_frames, chances=chances
    )
    assert found.shape == frames.shape
    assert set(found.unique().tolist()) <= {0.0, 1.0}, "what is not masked stays as it is"
    return found.numpy() == 0


@given(st.integers(0, 5000), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_masks_are_stripes_within_their_limits(seed: int, lengths: list[int]) -> None:
    for row, length in zip(masked(MASKS, lengths, seed), lengths, strict=True):
        stripe = np.flatnonzero(row.all(axis=0))
        band = np.flatnonzero(row.all(axis=1))
        assert len(stripe) <= 5
        assert len(band) <= min(6, length // 3)
        for positions in (stripe, band):
            assert not len(positions) or np.ptp(positions) == len(positions) - 1
        assert not len(band) or band.max() < length, "a mask in the padding masks nothing"
        rest = np.delete(np.delete(row, band, axis=0), stripe, axis=1)
        assert not rest.any()


@pytest.mark.parametrize(
    ("widest", "axis", "most"),
    [
        (dataclasses.replace(MASKS, time_masks=0), 0, 5),
        (dataclasses.replace(MASKS, frequency_masks=0), 1, 6),
    ],
)
def test_masks_reach_their_widest(widest: AugmentSettings, axis: int, most: int) -> None:
    widths = {int(masked(widest, [40], seed)[0].all(axis=axis).sum()) for seed in range(200)}
    assert widths == set(range(most + 1))


def test_one_time_mask_never_hides_over_a_third() -> None:
    wide = dataclasses.replace(MASKS, frequency_masks=0)
    for seed in range(100):
        hidden = masked(wide, [30, 2], seed, mask_frames=500).all(axis=2).sum(axis=1)
        assert hidden[0] <= 10
        assert hidden[1] == 0


def test_utterances_of_a_batch_get_their_own_masks() -> None:
    rows = masked(MASKS, [40] * 8, 0)
    assert len({row.tobytes() for row in rows}) > 1
    np.testing.assert_array_equal(rows, masked(MASKS, [40] * 8, 0))
    assert (rows != masked(MASKS, [40] * 8, 1)).any()


def test_without_masks_nothing_is_hidden() -> None:
    assert not masked(AugmentSettings(), [40, 7], 0).any()


@pytest.mark.parametrize("tool", [shift, change_speed])
def test_inputs_are_not_written_to(tool: Callable[..., np.ndarray]) -> None:
    clip = CLIP.copy() if tool is shift else tone(300.0, 0.2)
    clip.flags.writeable = False
    extra = (3, 1e-6) if tool is shift else (8000, 0.9)
    assert len(tool(clip, *extra))


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_the_vocal_tract_moves_formants_and_not_the_tempo(factor: float) -> None:
    settings = dataclasses.replace(FEATURES, mels=60, fft_samples=1024)
    samples = torch.from_numpy(tone(1200.0, 0.5))[None]
    moved = torch.from_numpy(tone(1200.0 * factor, 0.5))[None]
    module, size = LogMel(settings), torch.tensor([4000])
    frames = module(samples, size)[0][0].numpy()
    warped = warp_vocal_tract(frames, settings, factor)
    assert warped.shape == frames.shape
    expected = module(moved, size)[0][0].numpy()
    assert abs(int(warped[25].argmax()) - int(expected[25].argmax())) <= 1
    if factor == 1.0:
        np.testing.assert_allclose(warped, frames, atol=1e-4)


@given(st.integers(0, 200), st.integers(1, 400))
@limits(deadline=None, max_examples=40)
def test_noise_alone_is_of_any_level_and_length(seed: int, size: int) -> None:
    features = dataclasses.replace(FEATURES, edge_seconds=0.03)
    noise = np.full((size, 20), -7.0, np.float32)
    found = noise_alone(noise, features, rng(seed))
    assert found.dtype == np.float32 and (found >= FLOOR - 1e-3).all()
    seconds = len(found) * features.hop_seconds
    assert ALONE_SECONDS[0] <= seconds <= ALONE_SECONDS[1] + 0.1
    edges = np.concatenate([found[:3], found[-3:]])
    np.testing.assert_allclose(edges, FLOOR, rtol=1e-6)


def test_noise_alone_spreads_over_its_levels() -> None:
    noise = np.full((50, 20), -4.0, np.float32)
    levels = [float(noise_alone(noise, FEATURES, rng(seed)).mean()) for seed in range(60)]
    assert min(levels) < -11 and max(levels) > -4
