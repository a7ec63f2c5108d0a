"""Long audio: windows whose own frames are the whole's, and noise that need not be heard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from conftest import RATE, tone
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq import long_audio
from speechseq.errors import AudioError
from speechseq.long_audio import (
    Counted,
    NoiseFloor,
    Window,
    batches,
    certain_blanks,
    whole_or_blocks,
    windows,
)
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict


def recipe(hop_samples: int = 80, stride: int = 1, edge_samples: int = 0) -> Recipe:
    return recipe_from_dict(
        {
            "features": {
                "rate": RATE,
                "hop_seconds": hop_samples / RATE,
                "edge_seconds": edge_samples / RATE,
            },
            "model": {"front_end": "stack", "time_stride": stride},
        },
        "test",
    )


def heard(samples: np.ndarray, made: Recipe) -> np.ndarray:
    """Frames (frames,) of a network that gives the sample each frame stands on, with the edges."""
    features = made.features
    padded = np.pad(samples, (features.edge_samples, features.edge_samples + 1))
    step = made.step_samples
    frames = made.model.output_frames(features.frames(len(samples)))
    return padded[np.arange(frames) * step]


def in_blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(samples), size):
        yield samples[begin : begin + size]


def joined(pieces: Iterable[Window], made: Recipe) -> np.ndarray:
    return np.concatenate([heard(w.samples, made)[w.first : w.last] for w in pieces])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_own_frames_of_all_windows_are_those_of_the_whole(data: st.DataObject) -> None:
    made = recipe(
        data.draw(st.integers(8, 100), "hop"),
        data.draw(st.integers(1, 4), "stride"),
        data.draw(st.integers(0, 300), "edge"),
    )
    samples = np.arange(1, data.draw(st.integers(1, 5000), "samples") + 1, dtype=np.float32)
    blocks = in_blocks(samples, data.draw(st.integers(1, 2000), "block"))
    own = data.draw(st.floats(0.001, 0.2), "own")
    context = data.draw(st.floats(0, 0.1), "context")
    found = list(windows(blocks, made, own_seconds=own, context_seconds=context))
    np.testing.assert_array_equal(joined(found, made), heard(samples, made))


def test_windows_hear_their_context_and_no_more() -> None:
    made = recipe(hop_samples=80, stride=2, edge_samples=40)
    samples = np.arange(10 * RATE, dtype=np.float32)
    found = list(windows([samples], made, own_seconds=1.0, context_seconds=0.5))
    assert [window.frames for window in found] == [50] * 9 + [51]
    for number, window in enumerate(found[1:-1], 1):
        begin, end = window.samples[0], window.samples[-1]
        own = number * RATE - 40, (number + 1) * RATE - 40
        assert 0 <= own[0] - begin - RATE / 2 < 160
        assert end == own[1] + RATE / 2 - 1
        assert begin % 160 == 0
    assert len(found[0].samples) == 1.5 * RATE - 40
    assert found[0].first == 0


def test_what_fits_is_one_window() -> None:
    (window,) = windows(in_blocks(np.ones(RATE, np.float32), 999), recipe())
    assert (len(window.samples), window.first, window.last) == (RATE, 0, RATE // 80 + 1)


def test_the_settings_are_those_that_were_measured() -> None:
    (first, second) = windows([np.ones(60 * RATE, np.float32)], recipe())
    assert len(first.samples) == (long_audio.WINDOW_SECONDS + long_audio.CONTEXT_SECONDS) * RATE
    assert len(second.samples) == (30 + long_audio.CONTEXT_SECONDS) * RATE


def test_windows_are_held_no_longer_than_needed() -> None:
    """Blocks are asked for only when the windows before them were given out."""
    asked = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield np.zeros(RATE, np.float32)

    found = windows(endless(), recipe(), own_seconds=10.0, context_seconds=2.0)
    sizes = [len(next(found).samples) for _ in range(50)]
    assert set(sizes[1:]) == {14 * RATE}
    assert asked <= 50 * 10 + 3


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 30))
def test_short_recordings_are_whole_and_long_ones_keep_every_block(
    sizes: list[int], most: int
) -> None:
    blocks = [np.arange(size, dtype=np.float32) for size in [4, *sizes]]
    found = whole_or_blocks(iter(blocks), most)
    if sum(map(len, blocks)) <= most:
        np.testing.assert_array_equal(found, np.concatenate(blocks))
    else:
        assert not isinstance(found, np.ndarray)
        np.testing.assert_array_equal(np.concatenate(list(found)), np.concatenate(blocks))


def test_a_long_recording_is_not_read_to_its_end() -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.zeros(5)
        yield np.zeros(5)
        raise AssertionError

    assert not isinstance(whole_or_blocks(blocks(), 9), np.ndarray)


def test_seconds_are_counted_and_told_when_they_were_taken_in() -> None:
    told: list[float] = []
    counted = Counted([np.zeros(RATE), np.zeros(RATE // 2)], RATE, told.append)
    for block in counted:
        assert len(block)
        assert len(told) < 2
    assert told == [1.0, 1.5]
    assert counted.seconds == 1.5


def test_a_block_of_another_shape_is_named() -> None:
    with pytest.raises(AudioError, match=r"block: shape \(2, 3\); mono samples"):
        list(Counted([np.zeros((2, 3))], RATE, None))


def test_batches_keep_every_window() -> None:
    items = [Window(np.zeros(1), number, number) for number in range(7)]
    found = list(batches(items, 3))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert [window for batch in found for window in batch] == items
    assert list(batches([], 3)) == []


def test_certain_blanks_are_blank() -> None:
    log_probs = certain_blanks(3, 5)
    assert log_probs.dtype == np.float32
    assert not log_probs.argmax(axis=1).any()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-6)


# ---- noise ----


def noise(seconds: float, slope: float, *, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise of deviation 0.01 whose power falls with frequency to the power of `slope`."""
    size = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(size))
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / rate), 20)
    samples = np.fft.irfft(spectrum / hertz ** (slope / 2), size)
    return (0.01 * samples / samples.std()).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("slope", [0, 1, 2], ids=["white", "pink", "brown"])
def test_steady_noise_is_covered(slope: float, rate: int) -> None:
    floor = NoiseFloor(rate)
    whole = noise(90, slope, rate=rate)
    assert all(floor.covers(part) for part in np.split(whole, 3))


@pytest.mark.parametrize("slope", [0, 1])
def test_a_word_as_loud_as_the_noise_is_heard(slope: float) -> None:
    samples = noise(30, slope)
    word = tone(700.0, 0.25)
    samples[RATE : RATE + len(word)] += word * (0.01 / word.std())
    assert not NoiseFloor(RATE).covers(samples)


def test_silence_is_covered_and_the_first_sound_is_not() -> None:
    floor = NoiseFloor(RATE)
    silence = np.zeros(10 * RATE, np.float32)
    assert floor.covers(silence)
    assert floor.covers(silence + 0.5), "a constant offset is no sound"
    assert not floor.covers(noise(10, 0))


def test_louder_noise_is_heard_until_it_has_gone_on() -> None:
    floor = NoiseFloor(RATE)
    assert floor.covers(noise(10, 0))
    louder = [floor.covers(4 * noise(10, 0, seed=n)) for n in range(long_audio.FLOOR_WINDOWS + 2)]
    assert louder == [False] * (long_audio.FLOOR_WINDOWS - 1) + [True] * 3
    assert floor.covers(noise(10, 0)), "softer noise is"


@pytest.mark.parametrize("size", [1, 7, 399, 401])
def test_short_ends_are_measured_too(size: int) -> None:
    assert NoiseFloor(RATE).covers(np.zeros(size, np.float32))
    assert not np.isnan(NoiseFloor(RATE)._powers(noise(1, 0)[:size])).any()
