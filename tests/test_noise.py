"""Noise: what is made sounds as it should, and a corpus' own is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tone
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import make_layout

from speechseq.audio import write_wav
from speechseq.corpora import CORPORA
from speechseq.errors import DataError
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.training.noise import (
    EVENTS,
    NOISE_TILTS,
    UNEVEN_NOISES,
    coloured_noise,
    eventful_noise,
    noise_log_mels,
    uneven_noise,
)

Made = Callable[[int, int, np.random.Generator], np.ndarray]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("tilt", [0.0, -1.0, -2.0])
def test_noise_has_its_tilt_and_its_level(tilt: float) -> None:
    noise = coloured_noise(2**17, tilt, rng())
    assert noise.std() == pytest.approx(0.1, rel=1e-3)
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    octaves = [power[2**n : 2 ** (n + 1)].mean() for n in range(6, 16)]
    slope = np.polyfit(np.arange(len(octaves)), np.log2(octaves), 1)[0]
    assert slope == pytest.approx(tilt, abs=0.1)


def spread_db(noise: np.ndarray) -> tuple[float, float]:
    """Standard deviations of a noise's levels: over moments of 50 ms, and over eighth bands."""
    moments = noise.astype(np.float64)[: len(noise) // 400 * 400].reshape(-1, 400)
    spectrum = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    bands = [band.mean() for band in np.array_split(spectrum[1:], 8)]
    return tuple(float(np.std(10 * np.log10(x))) for x in ((moments**2).mean(axis=1), bands))


def test_uneven_noise_swells_and_has_strong_bands_where_white_noise_has_none() -> None:
    uneven = [spread_db(uneven_noise(40000, 8000, rng(seed))) for seed in range(20)]
    white = [spread_db(coloured_noise(40000, 0.0, rng(seed))) for seed in range(20)]
    for found, even in zip(zip(*uneven, strict=True), zip(*white, strict=True), strict=True):
        assert np.median(found) > 3 * np.median(even)
        assert 2 < np.median(found) < 12, "by some 8 dB"


@pytest.mark.parametrize("made", [uneven_noise, eventful_noise])
@pytest.mark.parametrize(("samples", "rate"), [(80000, 8000), (40001, 16000), (900, 8000)])
def test_noise_has_its_level_and_follows_from_its_generator(
    samples: int, rate: int, made: Made
) -> None:
    one, again, other = (made(samples, rate, rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (samples,) and one.dtype == np.float32
    assert one.std() == pytest.approx(0.1, rel=1e-3)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def crest_db(noise: np.ndarray) -> float:
    """How far the loudest tenth of a noise's moments of 50 ms is above its quietest tenth."""
    moments = noise.astype(np.float64)[: len(noise) // 400 * 400].reshape(-1, 400)
    levels = 10 * np.log10((moments**2).mean(axis=1))
    return float(np.quantile(levels, 0.95) - np.quantile(levels, 0.05))


def test_eventful_noise_has_events_where_uneven_noise_has_swells() -> None:
    eventful, uneven = (
        [crest_db(made(80000, 8000, rng(seed))) for seed in range(20)]
        for made in (eventful_noise, uneven_noise)
    )
    assert np.median(eventful) > np.median(uneven) + 3


def test_some_of_its_events_are_voiced() -> None:
    """A voiced sound is like itself a period later; a rush of noise is not."""

    def likeness(event: np.ndarray) -> float:
        spectrum = np.fft.rfft(event, 2 * len(event))
        return float(np.fft.irfft(np.abs(spectrum) ** 2)[20:100].max() / (event**2).sum())

    calls, bursts = (
        np.median([likeness(EVENTS[n](8000, rng(seed))) for seed in range(40)]) for n in (1, 2)
    )
    assert calls > bursts + 0.2


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([4000, 8000, 16000, 44100]))
def test_every_event_is_a_sound(seed: int, rate: int) -> None:
    for event in EVENTS:
        found = event(rate, rng(seed))
        assert found.ndim == 1 and np.isfinite(found).all() and found.std() > 0


def noisy(corpus: str, root: Path, probability: float = 0.5) -> Recipe:
    tree = {
        "features": {"rate": 8000, "mels": 4},
        "data": {"corpus": corpus, "root": str(root)},
        "augment": {"noise_probability": probability},
    }
    return recipe_from_dict(tree, "test")


def test_without_a_folder_noise_is_coloured(tmp_path: Path) -> None:
    made = noisy("yesno", make_layout("yesno", tmp_path))
    noises = noise_log_mels(made, CORPORA["yesno"])
    assert len(noises) == len(NOISE_TILTS) + UNEVEN_NOISES
    assert {noise.shape for noise in noises} == {(1001, 4)}
    coloured, uneven = noises[: len(NOISE_TILTS)], noises[len(NOISE_TILTS) :]
    tilts = [float((noise[:, -1] - noise[:, 0]).mean()) for noise in coloured]
    assert tilts == sorted(tilts, reverse=True)
    wander = [[noise.mean(axis=1).std() for noise in some] for some in (coloured, uneven)]
    assert min(wander[1]) > max(wander[0]), "they swell and fade"
    for one, again in zip(noises, noise_log_mels(made, CORPORA["yesno"]), strict=True):
        np.testing.assert_array_equal(one, again)


def test_training_hears_the_first_part_of_a_recording_alone(tmp_path: Path) -> None:
    place = make_layout("arabic_speech_commands", tmp_path)
    (folder,) = place.glob("background_noise")
    recording = np.concatenate([np.full(16000, 0.0), 0.5 * np.sin(np.arange(4000))])
    (folder / "boiler.wav").unlink()
    write_wav(folder / "late.wav", recording.astype(np.float32), 8000)
    (folder / "README.md").write_text("not a clip")
    noises = noise_log_mels(
        noisy("arabic_speech_commands", place), CORPORA["arabic_speech_commands"]
    )
    assert len(noises) == len(NOISE_TILTS) + UNEVEN_NOISES + 1
    assert noises[-1].shape == (16000 // 80 + 1, 4)
    np.testing.assert_allclose(noises[-1][:-3], np.log(1e-6), rtol=1e-3)


def test_a_folder_of_ones_own_is_mixed_in(tmp_path: Path) -> None:
    plain = noisy("yesno", make_layout("yesno", tmp_path))
    named = replace(plain, data=replace(plain.data, noise=str(tmp_path / "street")))
    with pytest.raises(DataError, match=r"data.noise: .*street holds no recordings"):
        noise_log_mels(named, CORPORA["yesno"])
    (tmp_path / "street").mkdir()
    write_wav(tmp_path / "street" / "bus.wav", tone(200.0, 2.0), 8000)
    one, other = (noise_log_mels(made, CORPORA["yesno"]) for made in (plain, named))
    assert len(other) == len(one) + 1


def test_so_many_are_eventful(tmp_path: Path) -> None:
    root = make_layout("yesno", tmp_path)
    plain = noisy("yesno", root)
    more = replace(plain, augment=replace(plain.augment, eventful_noises=3))
    one, other = (noise_log_mels(made, CORPORA["yesno"]) for made in (plain, more))
    assert len(other) == len(one) + 3
    for before, behind in zip(one, other, strict=False):
        np.testing.assert_array_equal(before, behind)


def test_no_noise_is_read_that_is_not_asked_for(tmp_path: Path) -> None:
    made = noisy("speech_commands", tmp_path / "missing", 0.0)
    assert noise_log_mels(made, CORPORA["speech_commands"]) == []
