"""Features against librosa, analytic signals, and themselves under padding."""

from __future__ import annotations

import dataclasses

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.errors import UsageError
from speechseq.recipe import FeatureSettings
from speechseq.training.features import (
    CMVN,
    FEATURES,
    Features,
    LogMel,
    add_deltas,
    masked_statistics,
    pcen_smoothing,
    within,
)

SETTINGS = FeatureSettings(rate=8000, mels=30, low_hz=60.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(module: torch.nn.Module, *clips: torch.Tensor, padding: int = 0):
    lengths = torch.tensor([len(clip) for clip in clips])
    size = int(lengths.max()) + padding
    # What stands in the padding must not matter, so it is loud.
    samples = torch.stack([torch.cat([c, torch.ones(size - len(c))]) for c in clips])
    return module(samples, lengths)


def librosa_log_mels(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    mels = librosa.feature.melspectrogram(
        y=samples,
        sr=settings.rate,
        n_fft=settings.transform_samples,
        hop_length=settings.hop_samples,
        win_length=settings.window_samples,
        pad_mode="constant",
        n_mels=settings.mels,
        fmin=settings.low_hz,
        fmax=settings.top_hz,
        htk=settings.mel_scale == "htk",
        norm="slaney" if settings.mel_scale == "slaney" else None,
    )
    return np.log(mels + settings.floor).T


@pytest.mark.slow
@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("samples", [8000, 7919, 333])
def test_log_mels_equal_librosas(mel_scale: str, samples: int) -> None:
    own = dataclasses.replace(SETTINGS, mel_scale=mel_scale)
    clip = noise(samples)
    frames, lengths = run(LogMel(own), clip)
    expected = librosa_log_mels(clip.numpy(), own)
    assert lengths.tolist() == [len(expected)]
    np.testing.assert_allclose(frames[0].numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_mfccs_equal_librosas() -> None:
    own = dataclasses.replace(SETTINGS, kind="mfcc", coefficients=13)
    clip = noise(8000)
    log_mels = librosa_log_mels(clip.numpy(), own)
    expected = librosa.feature.mfcc(S=log_mels.T, n_mfcc=13).T
    np.testing.assert_allclose(
        run(FEATURES["mfcc"](own), clip)[0][0].numpy(), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("hop_seconds", [0.01, 0.02])
def test_pcen_equals_librosas(hop_seconds: float) -> None:
    own = dataclasses.replace(SETTINGS, kind="pcen", hop_seconds=hop_seconds)
    clip = torch.cat([noise(8000), 0.01 * noise(4000), 0.3 * noise(6000, seed=1)])
    energies = np.exp(librosa_log_mels(clip.numpy(), own)).T
    expected = librosa.pcen(
        energies,
        sr=own.rate,
        hop_length=own.hop_samples,
        eps=1e-12,
        zi=(1 - pcen_smoothing(own)) * energies[:, :1],
    )
    found = run(FEATURES["pcen"](own), clip)[0][0].numpy()
    np.testing.assert_allclose(found, expected.T, rtol=1e-3, atol=1e-3)


def test_pcen_remembers_no_more_of_a_loud_start_than_there_is_left() -> None:
    own = dataclasses.replace(SETTINGS, kind="pcen")
    clip = torch.cat([0.5 * noise(4000), torch.zeros(80_000), 1e-4 * noise(4000, seed=1)])
    pcen = FEATURES["pcen"](own)
    found = run(pcen, clip)[0][0].numpy()
    energies = run(FEATURES["log_mel"](own), clip)[0][0].double().exp().numpy()
    past = energies[0]
    for frame, energy in enumerate(energies):
        past = past + pcen_smoothing(own) * (energy - past)
        expected = (energy / past**0.98 + 2) ** 0.5 - 2**0.5
        np.testing.assert_allclose(found[frame], expected, rtol=1e-3, atol=1e-3)


def test_pcen_hears_the_same_at_any_level() -> None:
    own = dataclasses.replace(SETTINGS, kind="pcen", floor=1e-10)
    clip = noise(8000)
    loud, quiet = (run(FEATURES["pcen"](own), x)[0] for x in (clip, 0.1 * clip))
    assert (loud - quiet).abs().mean() < 0.1 * loud.abs().mean()


def test_deltas_equal_librosas() -> None:
    frames = noise(1, 40, 7)
    both = add_deltas(frames, torch.tensor([40]), 2)[0].numpy()
    first = librosa.feature.delta(frames[0].numpy(), width=5, axis=0, mode="nearest")
    np.testing.assert_allclose(both[:, 7:14], first, rtol=1e-3, atol=1e-5)
    second = librosa.feature.delta(first, width=5, axis=0, mode="nearest")
    np.testing.assert_allclose(both[:, 14:], second, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("cmvn", ["none", "utterance", "global"])
@pytest.mark.parametrize("deltas", [0, 2])
def test_padding_and_batch_change_no_frame(kind: str, cmvn: str, deltas: int) -> None:
    own = dataclasses.replace(SETTINGS, kind=kind, cmvn=cmvn, deltas=deltas, edge_seconds=0.05)
    module = Features(own)
    clips = [noise(n, seed=n) for n in (1, 79, 80, 2401, 4000)]
    together, lengths = run(module, *clips, padding=500)
    for row, clip in enumerate(clips):
        alone, size = run(module, clip)
        assert size.item() == lengths[row].item() == own.frames(len(clip)) == alone.shape[1]
        torch.testing.assert_close(together[row, :size], alone[0], rtol=1e-5, atol=1e-5)


@given(st.integers(1, 5000), st.sampled_from([0.0, 0.01, 0.123]))
@settings(deadline=None, max_examples=40)
def test_the_frame_formula_is_what_comes_out(samples: int, edge: float) -> None:
    own = dataclasses.replace(SETTINGS, edge_seconds=edge)
    frames, lengths = LogMel(own)(torch.zeros(1, samples), torch.tensor([samples]))
    assert frames.shape[1] == lengths.item() == own.frames(samples)


@pytest.mark.parametrize("hertz", [250.0, 1000.0, 3000.0])
def test_a_tone_lights_its_own_mel(hertz: float) -> None:
    clip = torch.sin(2 * torch.pi * hertz * torch.arange(8000) / 8000)
    frames, _ = run(LogMel(SETTINGS), clip)
    edges = librosa.mel_frequencies(SETTINGS.mels + 2, fmin=60.0, fmax=4000.0, htk=True)
    loudest = int(frames[0, 50].argmax())
    assert edges[loudest] < hertz < edges[loudest + 2]


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("cmvn", ["none", "utterance", "global"])
def test_silence_stays_finite(kind: str, cmvn: str) -> None:
    module = Features(dataclasses.replace(SETTINGS, kind=kind, cmvn=cmvn))
    assert module(torch.zeros(2, 800), torch.tensor([800, 1]))[0].isfinite().all()


def test_edges_are_silence_around_the_same_frames() -> None:
    edge = dataclasses.replace(SETTINGS, edge_seconds=0.1)
    clip = noise(1600)
    plain, framed = run(LogMel(SETTINGS), clip)[0], run(LogMel(edge), clip)[0]
    assert framed.shape[1] == plain.shape[1] + 20
    torch.testing.assert_close(framed[:, 10:-10], plain)
    assert framed[0, :8].std() < 1e-5


def test_utterance_cmvn_gives_mean_0_and_deviation_1() -> None:
    frames, lengths = 3 + 2 * noise(2, 50, 4) * 10, torch.tensor([50, 20])
    normalised = CMVN("utterance", 4)(frames, lengths)
    mean, deviation = masked_statistics(normalised, lengths)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)


def test_global_cmvn_uses_what_it_was_fitted_with() -> None:
    cmvn = CMVN("global", 2)
    cmvn.fit(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    frames = torch.tensor([[[3.0, 10.0]]])
    assert cmvn(frames, torch.tensor([1])).tolist() == [[[1.0, 2.0]]]


def test_within_marks_each_row() -> None:
    assert within(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]


def test_too_many_mels_are_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"leave filters empty with 256 .* raise fft_samples"):
        LogMel(dataclasses.replace(SETTINGS, mels=128))
