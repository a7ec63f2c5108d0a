"""Audio: every usable format gives the same samples, every unusable file one clear line."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq import audio, sound_files
from speechseq.audio import duration_seconds, read_audio, read_blocks, write_wav
from speechseq.errors import AudioError
from speechseq.sound_files import name_of

RATE = 8000
UNKNOWN_LENGTH = 0xFFFFFFFF


def wav(
    data: bytes,
    *,
    claimed: int | None = None,
    rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    floats: bool = False,
) -> bytes:
    """Return a wav file, whose header may claim what is not so."""
    size = len(data) if claimed is None else claimed
    frame = channels * bits // 8 & 0xFFFF
    second = min(rate * frame, 0xFFFFFFFF)
    kind = struct.pack("<IHHIIHH", 16, 3 if floats else 1, channels, rate, second, frame, bits)
    riff = struct.pack("<I", min(36 + size, 0xFFFFFFFF))
    return b"RIFF" + riff + b"WAVEfmt " + kind + b"data" + struct.pack("<I", size) + data


def pcm(count: int) -> bytes:
    return np.arange(1, count + 1, dtype="<i2").tobytes()


def floats(*values: float, channels: int = 1) -> bytes:
    return wav(np.array(values, "<f4").tobytes(), bits=32, floats=True, channels=channels)


def tone(seconds: float, rate: int) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def fails(source: audio.Source, **stretch: float) -> str:
    """Return the message, which fits one line, of a read that must fail."""
    with pytest.raises(AudioError) as caught:
        read_audio(source, RATE, **stretch)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{name_of(source)}: ")
    assert "; " in message
    return message


# ---- what can be read ----


def test_wav_samples_are_exact() -> None:
    samples = read_audio(wav(pcm(100)), RATE)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.arange(1, 101) / 32768)


def test_path_bytes_and_stream_agree(tmp_path: Path) -> None:
    data = wav(pcm(50))
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data)):
        np.testing.assert_array_equal(read_audio(source, RATE), np.arange(1, 51) / 32768)


@pytest.mark.parametrize("fork", ["._clip.mp3", ".AppleDouble/clip.mp3"])
def test_what_a_mac_puts_beside_a_file_is_not_read_in_its_place(tmp_path: Path, fork: str) -> None:
    path = tmp_path / "clip.mp3"
    soundfile.write(path, np.zeros(RATE), RATE, format="MP3")
    (tmp_path / fork).parent.mkdir(exist_ok=True)
    (tmp_path / fork).write_bytes(bytes(4096))
    assert len(read_audio(path, RATE)) == RATE
    assert duration_seconds(path) == 1.0


def test_a_header_that_leads_before_the_first_byte_is_no_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(100), RATE, format="AIFF", subtype="PCM_16")
    data = bytearray(file.getvalue())
    data[39:43] = bytes(4)
    with contextlib.suppress(AudioError):
        read_audio(bytes(data), RATE)
    assert capfd.readouterr() == ("", "")


def test_stream_that_cannot_seek_is_read() -> None:
    reading, writing = os.pipe()
    with open(writing, "wb") as sink:
        sink.write(wav(pcm(50)))
    with open(reading, "rb") as stream:
        assert len(read_audio(stream, RATE)) == 50


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.05),
        ("NIST", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
    ],
)
def test_formats(kind: str, subtype: str, error: float) -> None:
    rate = 16000
    file = io.BytesIO()
    soundfile.write(file, tone(1.0, rate), rate, format=kind, subtype=subtype)
    samples = read_audio(file.getvalue(), rate)
    assert len(samples) == rate
    middle = slice(2000, 14000)
    assert np.abs(samples[middle] - tone(1.0, rate)[middle]).max() < error


def test_channels_are_averaged() -> None:
    np.testing.assert_allclose(read_audio(floats(0.5, 0.1, -0.5, 0.5, channels=2), RATE), [0.3, 0])


def test_beyond_full_scale_is_clipped() -> None:
    np.testing.assert_array_equal(read_audio(floats(2.0, -3e38, 0.25), RATE), [1, -1, 0.25])


def test_channels_are_clipped_before_they_are_averaged() -> None:
    data = floats(3e38, 3e38, 3.0, -1.0, channels=2)
    np.testing.assert_array_equal(read_audio(data, RATE), [1, 0])


@pytest.mark.parametrize("found", [16000, 44100, 11025])
def test_resampling_is_soxr_over_block_borders(found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 1000)
    file = io.BytesIO()
    noise = np.random.default_rng(1).uniform(-0.4, 0.4, 9_999).astype(np.float32)
    soundfile.write(file, noise, found, format="WAV", subtype="FLOAT")
    expected = soxr.resample(noise, found, RATE)
    np.testing.assert_allclose(read_audio(file.getvalue(), RATE), expected, atol=1e-6)


def test_resampling_stays_within_full_scale() -> None:
    square = np.sign(tone(0.5, 16000)).astype("<f4")
    data = wav(square.tobytes(), rate=16000, bits=32, floats=True)
    assert soxr.resample(square, 16000, RATE).max() > 1  # Gibbs: else this proves nothing
    assert np.abs(read_audio(data, RATE)).max() == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(1, 150))
def test_a_stretch_is_a_slice(start: int, count: int) -> None:
    data = wav(pcm(100))
    part = read_audio(data, RATE, offset=start / RATE, duration=count / RATE)
    np.testing.assert_array_equal(part, read_audio(data, RATE)[start : start + count])


def test_one_sample_is_audio() -> None:
    np.testing.assert_array_equal(read_audio(wav(pcm(1)), RATE), np.float32([1 / 32768]))


def test_streamed_wav_is_read_to_its_end() -> None:
    assert len(read_audio(wav(pcm(100), claimed=UNKNOWN_LENGTH), RATE)) == 100


@pytest.mark.parametrize("claimed", [202, 400, 2_000_000_000])
def test_wav_cut_short_is_named(claimed: int) -> None:
    message = f"cut short, 200 of {claimed} bytes of sound are there; copy it again"
    with pytest.raises(AudioError, match=message):
        read_audio(wav(pcm(100), claimed=claimed), RATE)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(wav(pcm(10)))
    (tmp_path / "link.wav").symlink_to("real.wav")
    assert len(read_audio(tmp_path / "link.wav", RATE)) == 10


@settings(deadline=None, max_examples=60)
@given(st.floats(-1, 1), st.integers(1, 300))
def test_write_wav_round_trip(
    tmp_path_factory: pytest.TempPathFactory, level: float, count: int
) -> None:
    path = tmp_path_factory.mktemp("wav") / "clip.wav"
    write_wav(path, np.full(count, level), RATE)
    samples = read_audio(path, RATE)
    assert len(samples) == count
    assert np.abs(samples - level).max() <= 1 / 32767
    assert duration_seconds(path) == count / RATE


# ---- blocks ----


@pytest.mark.parametrize("found", [RATE, 11025])
@pytest.mark.parametrize("stretch", [{}, {"offset": 0.01}, {"offset": 0.01, "duration": 0.1}])
def test_blocks_are_the_whole_in_parts(
    found: int, stretch: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 300)
    data = wav(pcm(4000), rate=found)
    blocks = list(read_blocks(data, RATE, **stretch))
    assert len(blocks) > 1
    assert all(0 < len(block) <= 2 * 300 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(data, RATE, **stretch))


def test_blocks_have_no_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 100 / RATE)
    data = wav(pcm(500))
    assert sum(map(len, read_blocks(data, RATE))) == 500
    assert sum(map(len, read_blocks(data, RATE, duration=400 / RATE))) == 400
    with pytest.raises(AudioError, match=r"longer than 0.062375 s; cut it into parts"):
        list(read_blocks(data, RATE, longest_seconds=499 / RATE))


def test_blocks_come_before_damage_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 2)
    blocks = read_blocks(floats(0.1, 0.2, 0.3, np.nan), RATE)
    np.testing.assert_allclose(next(blocks), [0.1, 0.2], rtol=1e-6)
    with pytest.raises(AudioError, match="holds NaN"):
        next(blocks)


@pytest.mark.parametrize(("found", "channels"), [(100, 1), (RATE, 64), (100, 64)])
def test_blocks_are_as_small_whatever_the_header_says(
    found: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch_reads(monkeypatch)
    blocks = list(read_blocks(wav(pcm(64 * 2000), rate=found, channels=channels), RATE))
    assert max(asked) * channels <= audio.BLOCK_SAMPLES
    assert max(map(len, blocks)) <= 1.5 * audio.BLOCK_SAMPLES  # soxr holds some back


@pytest.fixture
def pipe() -> Iterator[Callable[[bytes], BinaryIO]]:
    """A function that returns bytes as a stream that cannot be sought in."""
    with contextlib.ExitStack() as opened:

        def make(data: bytes) -> BinaryIO:
            reading, writing = os.pipe()
            with open(writing, "wb") as sink:
                sink.write(data)
            return opened.enter_context(open(reading, "rb"))

        yield make


def test_a_long_pipe_goes_over_a_file(
    pipe: Callable[[bytes], BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = []
    rollover = tempfile.SpooledTemporaryFile.rollover

    def watch(file: tempfile.SpooledTemporaryFile[bytes]) -> None:
        rolled.append(file)
        rollover(file)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", watch)
    assert len(read_audio(pipe(wav(pcm(100))), RATE)) == 100
    assert not rolled
    monkeypatch.setattr(sound_files, "SPOOL_BYTES", 50)
    np.testing.assert_array_equal(
        read_audio(pipe(wav(pcm(100))), RATE), read_audio(wav(pcm(100)), RATE)
    )
    (file,) = rolled
    assert file.closed


def test_pipes_that_cannot_be_read(
    pipe: Callable[[bytes], BinaryIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "audio stream: empty; give" in fails(pipe(b""))
    assert "not audio that can be read" in fails(pipe(b"no audio at all"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    assert "cannot be kept to be read (No space left on device)" in fails(pipe(wav(pcm(9))))


# ---- what cannot ----


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    dangling, loop, pipe = (tmp_path / name for name in ("dangling", "loop", "pipe"))
    dangling.symlink_to(tmp_path / "nowhere")
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    (tmp_path / "empty.wav").touch()
    assert "no such file; check" in fails(tmp_path / "none.wav")
    assert "a folder;" in fails(tmp_path)
    assert "a link to nothing;" in fails(dangling)
    assert "cannot be opened (Too many levels of symbolic links)" in fails(loop)
    assert "not a regular file;" in fails(pipe)
    assert "not a regular file;" in fails("/dev/zero")
    assert "empty; give" in fails(tmp_path / "empty.wav")
    assert "an empty name;" in fails("")
    assert "embedded null byte" in fails("a\0b")
    assert "no such file" in fails("two\nlines.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "locked.wav"
    path.write_bytes(wav(pcm(5)))
    path.chmod(0)
    assert "Permission denied" in fails(path)


def test_a_sample_dump_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "dump.wav"
    soundfile.write(path, tone(0.1, RATE), RATE, format="SDS", subtype="PCM_16")
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert "a MIDI sample dump; convert it to wav" in fails(source)


def test_a_stream_that_is_only_written_is_no_audio(tmp_path: Path) -> None:
    with open(tmp_path / "new.wav", "wb") as file:
        assert "not audio that can be read" in fails(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty;"),
        (b"no audio at all " * 20, "not audio that can be read (Format not recognised)"),
        (wav(pcm(9))[:30], "not audio that can be read"),
        (wav(b""), "holds no samples"),
        (wav(pcm(1)[:1]), "holds no samples"),
        (wav(b"", claimed=4000), "cut short, 0 of 4000 bytes"),
        (wav(b"", claimed=UNKNOWN_LENGTH), "holds no samples"),
        (wav(pcm(100), claimed=0), "holds no samples"),
        (wav(pcm(9), rate=0), "not audio that can be read"),
        (wav(pcm(9), rate=50), "its header says 1 channels at 50 Hz"),
        (wav(pcm(9), rate=2_000_000), "its header says 1 channels at 2000000 Hz"),
        (wav(pcm(9), channels=0), "Channel count is zero"),
        (wav(pcm(999), channels=65), "its header says 65 channels"),
        (wav(pcm(9), channels=65535), "Too many channels"),
        (floats(0.0, np.nan), "holds NaN or infinite samples"),
        (floats(0.0, np.inf), "holds NaN or infinite samples"),
        (floats(np.inf, -np.inf, channels=2), "holds NaN or infinite samples"),
    ],
)
def test_hostile_bytes(data: bytes, says: str, tmp_path: Path) -> None:
    assert says in fails(data)
    path = tmp_path / "hostile.wav"
    path.write_bytes(data)
    assert says in fails(path)


def test_cut_flac_is_named_damaged() -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(1.0, RATE), RATE, format="FLAC")
    half = file.getvalue()[: len(file.getvalue()) // 2]
    assert "damaged after its header" in fails(half)
    assert "damaged after its header" in fails(half, offset=0.9)


def test_one_sample_may_be_too_short_for_a_lower_rate() -> None:
    assert "shorter than a sample at 8000 Hz" in fails(wav(pcm(1), rate=44100))


@pytest.mark.parametrize(
    ("stretch", "says"),
    [
        ({"offset": -1.0}, "offset is -1 s"),
        ({"offset": float("nan")}, "offset is nan s"),
        ({"duration": -1.0}, "duration is -1 s"),
        ({"duration": float("inf")}, "duration is inf s"),
        ({"duration": 1e6}, "at most 1 h"),
        ({"offset": 5.0}, "ends at 0.013 s, before offset 5 s"),
        ({"duration": 1e-9}, "holds no samples"),
    ],
)
def test_stretches_that_are_not_there(stretch: dict[str, float], says: str) -> None:
    assert says in fails(wav(pcm(100)), **stretch)


def test_length_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 100 / RATE)
    assert len(read_audio(wav(pcm(100)), RATE)) == 100
    assert "longer than" in fails(wav(pcm(101)))
    assert len(read_audio(wav(pcm(500)), RATE, offset=0.02, duration=100 / RATE)) == 100


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with the number of frames of every read."""
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def watch(file: soundfile.SoundFile, frames: int, **how: object) -> np.ndarray:
        asked.append(frames)
        return read(file, frames, **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", watch)
    return asked


def test_a_header_alone_allocates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = watch_reads(monkeypatch)
    read_audio(wav(pcm(100), claimed=UNKNOWN_LENGTH), RATE)
    assert max(asked) <= audio.BLOCK_SAMPLES


@pytest.mark.parametrize("total", [b"\xf0\0\0\0\0", b"\xff\xff\xff\xff\xff"])
def test_flac_header_without_a_length(total: bytes, tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(0.1, RATE), RATE, format="FLAC")
    data = bytearray(file.getvalue())
    data[21] = (
        data[21] & 0xF0 | total[0] & 0x0F
    )  # 36 bits of samples end the STREAMINFO's 18th byte
    data[22:26] = total[1:]
    path = tmp_path / "endless.flac"
    path.write_bytes(data)
    with pytest.raises(AudioError, match="its header gives no length"):
        duration_seconds(path)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_is_audio_or_an_audio_error(data: st.DataObject) -> None:
    whole = bytearray(wav(pcm(40)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        samples = read_audio(cut, RATE)
    except AudioError as error:
        assert str(error).isprintable()
    else:
        assert samples.size
        assert np.abs(samples).max() <= 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au"])
def test_half_a_file_is_an_error_and_a_whole_one_is_not(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{suffix}"
    soundfile.write(path, 0.3 * np.sin(np.arange(48000) * 0.2), 16000)
    assert len(read_audio(path, 16000)) >= 0.98 * 48000
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"cut short|damaged|malformed"):
        read_audio(half, 16000)


def test_a_name_that_is_not_unicode_is_a_name(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(name).write_bytes(wav(pcm(100)))
    assert len(read_audio(name, RATE)) == 100


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav: cannot be written \(.*\); check the folder"):
        write_wav(tmp_path / "nowhere" / "a.wav", np.zeros(8, np.float32), 8000)
