"""The feature cache is right, or made again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import tone

from speechseq.audio import write_wav
from speechseq.errors import AudioError, DataError
from speechseq.files import CACHE_VARIABLE, cache_folder
from speechseq.manifest import Utterance, read_manifest
from speechseq.recipe import FeatureSettings
from speechseq.training import feature_cache
from speechseq.training.feature_cache import cached_log_mels

FEATURES = FeatureSettings(rate=8000, mels=20, low_hz=60.0)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    utterances = []
    for number, seconds in enumerate((0.3, 0.5, 0.21)):
        path = tmp_path / f"{number}.wav"
        write_wav(path, tone(500.0, seconds, seed=number), 8000)
        utterances.append(Utterance(str(path), seconds, "x"))
    return [*utterances, Utterance("", 0.4, "silence")]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows whenever features are computed."""
    calls: list[int] = []
    compute = feature_cache._compute

    def counted(utterances: Sequence[Utterance], *more: object):
        calls.append(len(utterances))
        return compute(utterances, *more)

    monkeypatch.setattr(feature_cache, "_compute", counted)
    return calls


def test_features_are_computed_once(clips: list[Utterance], computed: list[int]) -> None:
    shown: list[tuple[int, int]] = []
    first = cached_log_mels(
        clips,
        FEATURES,
        (1.0, 0.8),
        ram_gigabytes=1,
        progress=lambda what, done, of: shown.append((done, of)),
    )
    again = cached_log_mels(clips, FEATURES, (1.0, 0.8), ram_gigabytes=1)
    assert computed == [4]
    assert shown == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.lengths[0].tolist() == [31, 38]
    assert first.clip(0, 1).shape == (38, 20)
    np.testing.assert_allclose(first.clip(3), np.log(FEATURES.floor), rtol=1e-5)
    assert first.frames.dtype == np.float32
    ends = first.starts + first.lengths
    assert ends.max() == len(first.frames)


CHANGES = {
    "rate": {"rate": 16000},
    "window": {"window_seconds": 0.02},
    "hop": {"hop_seconds": 0.02},
    "fft": {"fft_samples": 512},
    "mels": {"mels": 16},
    "low": {"low_hz": 100.0},
    "high": {"high_hz": 3000.0},
    "scale": {"mel_scale": "slaney"},
    "floor": {"floor": 1e-5},
    "edge": {"edge_seconds": 0.1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_is_computed_anew(
    name: str, clips: list[Utterance], computed: list[int]
) -> None:
    one = cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    changed = dataclasses.replace(FEATURES, **CHANGES[name])
    other = cached_log_mels(clips, changed, ram_gigabytes=1)
    assert len(computed) == 2
    assert not np.array_equal(one.frames, other.frames)


def test_what_comes_after_log_mels_shares_them(clips: list[Utterance], computed: list[int]) -> None:
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    later = {"kind": "mfcc", "coefficients": 7, "deltas": 2, "cmvn": "utterance"}
    cached_log_mels(clips, dataclasses.replace(FEATURES, **later), ram_gigabytes=1)
    assert len(computed) == 1
    names = {field.name for field in dataclasses.fields(FEATURES)}
    assert set(feature_cache._AFTER_LOG_MELS) == set(later) < names


def test_changed_sources_and_speeds_are_computed_anew(
    clips: list[Utterance], computed: list[int]
) -> None:
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    os.utime(clips[0].audio_filepath, (1, 1))
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    cached_log_mels(clips[::-1], FEATURES, ram_gigabytes=1)
    cached_log_mels(clips, FEATURES, (1.1,), ram_gigabytes=1)
    parts = [dataclasses.replace(clips[0], offset=0.1, duration=0.1), *clips[1:]]
    cached_log_mels(parts, FEATURES, ram_gigabytes=1)
    assert len(computed) == 5
    same_sound = [dataclasses.replace(u, text="y", speaker="s") for u in clips]
    cached_log_mels(same_sound, FEATURES, ram_gigabytes=1)
    assert len(computed) == 5


def test_a_name_stands_for_the_file_it_names_here(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips of equal name, size and time in two folders; and one that took another's place."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        write_wav("clip.wav", np.zeros(8000), 8000)
        os.utime("clip.wav", (1, 1))
        cached_log_mels([Utterance("clip.wav", 1.0, "x")], FEATURES, ram_gigabytes=1)
    assert len(computed) == 2
    write_wav("new.wav", np.full(8000, 0.1), 8000)
    os.utime("new.wav", (1, 1))
    Path("new.wav").replace("clip.wav")
    cached_log_mels([Utterance("clip.wav", 1.0, "x")], FEATURES, ram_gigabytes=1)
    assert len(computed) == 3


def test_a_small_limit_maps_the_file(clips: list[Utterance]) -> None:
    in_ram = cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    mapped = cached_log_mels(clips, FEATURES, ram_gigabytes=0)
    assert isinstance(mapped.frames, np.memmap)
    assert not isinstance(in_ram.frames, np.memmap)
    np.testing.assert_array_equal(in_ram.frames, mapped.frames)


def test_a_cut_cache_is_named(clips: list[Utterance]) -> None:
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    (data,) = cache_folder().glob("*.f32")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"\.f32: is not whole; delete it and train again"):
        cached_log_mels(clips, FEATURES, ram_gigabytes=1)


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1]", '{"lengths": [[1]]}', '{"lengths": "x"}', '{"lengths": [[-1]]}']
)
def test_a_damaged_index_is_named(text: str, clips: list[Utterance]) -> None:
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    (index,) = cache_folder().glob("*.json")
    index.write_text(text)
    with pytest.raises(DataError, match=r"\.json: is damaged; delete it and train again"):
        cached_log_mels(clips, FEATURES, ram_gigabytes=1)


def test_a_cache_without_its_index_is_made_again(
    clips: list[Utterance], computed: list[int]
) -> None:
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    next(cache_folder().glob("*.json")).unlink()
    cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    assert len(computed) == 2


def test_a_bad_clip_leaves_no_cache(clips: list[Utterance]) -> None:
    Path(clips[1].audio_filepath).write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"1\.wav"):
        cached_log_mels(clips, FEATURES, ram_gigabytes=1)
    assert not list(cache_folder().iterdir())


def test_a_full_disk_is_said(clips: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "_compute", full)
    with pytest.raises(DataError, match=rf"No space left.*, or set {CACHE_VARIABLE} to another"):
        cached_log_mels(clips, FEATURES, ram_gigabytes=1)


def test_a_cache_folder_that_cannot_be_made_is_said(
    clips: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=rf"cannot be written.*, or set {CACHE_VARIABLE} to"):
        cached_log_mels(clips, FEATURES, ram_gigabytes=1)


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/speechseq")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "speechseq"


def test_cached_features_equal_the_runtimes(tones: Path) -> None:
    """The same clip alone is the same log-mel as among its speeds."""
    utterances = read_manifest(tones)[:6]
    alone = cached_log_mels(utterances, FEATURES, ram_gigabytes=1)
    among = cached_log_mels(utterances, FEATURES, (0.9, 1.0, 1.2), ram_gigabytes=1)
    for number in range(6):
        np.testing.assert_allclose(alone.clip(number), among.clip(number, 1), atol=1e-4)
