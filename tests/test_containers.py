"""Mp3 and ogg files that hold more, or less, than their headers tell."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq import sound_files
from speechseq.audio import read_audio
from speechseq.containers import Mp3, is_chained, walk_mp3
from speechseq.errors import AudioError

MP3_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)


def sound(seconds: float, rate: int, level: float = 0.2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, round(seconds * rate)).astype(np.float32)


def mp3(samples: np.ndarray, rate: int, mode: str = "CONSTANT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    return file.getvalue()


def ogg(samples: np.ndarray, rate: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="OGG", subtype=subtype)
    return file.getvalue()


def uncounted(data: bytes) -> bytes:
    """Take away the first frame, which counts the others."""
    return data[data.find(data[:2], 4) :]


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate", MP3_RATES)
def test_every_frame_of_an_mp3_is_counted(rate: int, mode: str) -> None:
    data = mp3(sound(1.5, rate), rate, mode)
    found = walk_mp3(io.BytesIO(data))
    assert found.is_counted
    assert 1.5 * rate <= found.samples <= 1.5 * rate + 4 * 1152
    assert not walk_mp3(io.BytesIO(uncounted(data))).is_counted


def test_tags_before_and_behind_are_no_frames() -> None:
    data = mp3(sound(1.0, 16000), 16000)
    noise = np.random.default_rng(0).bytes
    before = b"ID3\x04\x00\x10" + bytes([0, 0, 2, 5]) + noise(261) + b"3DI" + bytes(7)
    size = (400_000 + 32).to_bytes(4, "little")
    ape = [b"APETAGEX" + bytes(4) + size + bytes(16), noise(400_000), b"APETAGEX" + bytes(24)]
    for behind in (b"TAG" + noise(125), b"".join(ape), b"".join(ape) + b"TAG" + noise(125)):
        assert walk_mp3(io.BytesIO(before + data + behind)) == walk_mp3(io.BytesIO(data))
        assert len(read_audio(data + behind, 16000)) == len(read_audio(data, 16000))


def test_other_bytes_behind_are_no_frames_and_are_not_searched_for_long() -> None:
    data = mp3(sound(1.0, 16000), 16000)
    noise = np.random.default_rng(1).bytes(2_000_000)
    assert walk_mp3(io.BytesIO(data + noise)) == walk_mp3(io.BytesIO(data))
    with_frames = b"".join(bytes(60_000) + data[:144] for _ in range(50))
    file = io.BytesIO(with_frames)
    walk_mp3(file)
    assert file.tell() < 2 << 20, "the search is bounded in all, whatever lies between"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xfb\x90\x00", b"ID3\x04\x00\x00\x00"]))
def test_any_bytes_are_walked_to_their_end(data: bytes, head: bytes) -> None:
    assert walk_mp3(io.BytesIO(head + data)).samples >= 0
    is_chained(io.BytesIO(head + data))
    is_chained(io.BytesIO(b"OggS" + data))


def test_mp3_files_one_behind_the_other_are_not_read_in_part() -> None:
    data = mp3(sound(2.0, 16000), 16000)
    assert abs(len(read_audio(data, 16000)) - 32000) < 3000
    with pytest.raises(AudioError, match=r"holds 4\.\d s, of which its header tells 2\.\d"):
        read_audio(data + data, 16000)


@pytest.mark.parametrize("loud_first", [True, False])
def test_an_mp3_whose_length_is_guessed_is_read_whole_or_refused(loud_first: bool) -> None:
    """Without a count libsndfile takes the first frames' rate for all of them."""
    parts = [sound(10.0, 16000), np.zeros(160_000, np.float32)]
    data = uncounted(mp3(np.concatenate(parts if loud_first else parts[::-1]), 16000, "VARIABLE"))
    if loud_first:
        with pytest.raises(AudioError, match=r"holds 20\.\d s, of which its header tells"):
            read_audio(data, 16000)
    else:
        assert abs(len(read_audio(data, 16000)) - 320_000) < 5000


def test_a_cut_mp3_is_still_refused() -> None:
    data = mp3(sound(4.0, 16000), 16000)
    with pytest.raises(AudioError, match="cut short"):
        read_audio(data[: len(data) // 2], 16000)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_one_behind_the_other_are_not_read_in_part(subtype: str) -> None:
    data = ogg(sound(1.0, 16000), 16000, subtype)
    assert not is_chained(io.BytesIO(data))
    assert len(read_audio(data, 16000)) >= 15_900
    with pytest.raises(AudioError, match="several recordings one behind the other"):
        read_audio(data + data, 16000)


def test_a_flac_out_of_a_pipe_is_read_to_its_end() -> None:
    """Its header's number of samples, 36 bits, is 0: it was not known yet."""
    samples = sound(1.0, 16000)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_16")
    data = bytearray(file.getvalue())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    np.testing.assert_allclose(read_audio(bytes(data), 16000), samples, atol=1e-4)


def test_a_file_is_walked_once_for_all_its_stretches_and_anew_once_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Mp3] = []

    def counted(file: BinaryIO) -> Mp3:
        walked.append(walk_mp3(file))
        return walked[-1]

    monkeypatch.setattr(sound_files, "walk_mp3", counted)
    path = tmp_path / "long.mp3"
    path.write_bytes(mp3(sound(2.0, 16000), 16000))
    for offset in (0.0, 0.5, 1.0):
        assert len(read_audio(path, 16000, offset=offset, duration=0.5)) == 8000
    assert len(walked) == 1
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(AudioError, match="of which its header tells"):
        read_audio(path, 16000, duration=0.5)
    assert len(walked) == 2
