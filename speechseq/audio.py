"""Audio files to mono float32 samples at a rate; headers are hostile until checked."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from speechseq.errors import AudioError

MAX_SECONDS = 4 * 3600.0
"""Longest stretch read at once."""

MAX_CHANNELS = 64
RATES = (100, 1_000_000)
BLOCK_FRAMES = 1 << 18
"""Frames read at a time, so that memory follows what is there and not what a header claims."""

Source = str | os.PathLike[str] | bytes | BinaryIO


def read_audio(
    source: Source, rate: int, *, offset: float = 0.0, duration: float = 0.0
) -> np.ndarray:
    """Read a file, its bytes or a stream: float32 (samples,) in [-1, 1], mono, at `rate`.

    Channels are averaged; other rates are resampled (soxr). `offset` and `duration` are seconds;
    a duration of 0 reads to the end.

    Raises:
        AudioError: there is no such file, it is not audio, holds no sample or a NaN, is cut
            short before its first sample, or is longer than MAX_SECONDS.
    """
    where = name_of(source)
    with _open(source, where) as file:
        samples = _read(file, where, offset, duration)
        found = file.samplerate
    if not np.isfinite(samples).all():
        raise AudioError(f"{where}: holds NaN or infinite samples; convert it again")
    # A float file may exceed full scale; what plays it would clip it, too.
    samples = np.clip(samples, -1.0, 1.0)
    if found != rate:
        import soxr  # only where it is needed: it takes a tenth of a command's start

        samples = np.clip(soxr.resample(samples, found, rate), -1.0, 1.0)
        if not len(samples):
            raise AudioError(f"{where}: shorter than a sample at {rate} Hz; give longer audio")
    return samples.astype(np.float32, copy=False)


def name_of(source: Source) -> str:
    """Return what to call a source in a message."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) or "''"
    return "audio bytes" if isinstance(source, bytes) else "audio stream"


def duration_seconds(path: str | os.PathLike[str]) -> float:
    """Return how long a file is, as its header says.

    Raises:
        AudioError: as `read_audio`, of the header alone.
    """
    with _open(path, name_of(path)) as file:
        return float(file.frames / file.samplerate)


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, rate: int) -> None:
    """Write samples (samples,) in [-1, 1] as a 16-bit mono wav file."""
    soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")


def _open(source: Source, where: str) -> soundfile.SoundFile:
    if isinstance(source, str | os.PathLike):
        _check_file(Path(source), where)
    elif isinstance(source, bytes):
        source = io.BytesIO(source)
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(". ")
        raise AudioError(
            f"{where}: not audio that can be read ({reason}); give wav, flac, ogg or mp3"
        ) from None
    if not (1 <= file.channels <= MAX_CHANNELS and RATES[0] <= file.samplerate <= RATES[1]):
        shape = f"{file.channels} channels at {file.samplerate} Hz"
        file.close()
        raise AudioError(f"{where}: its header says {shape}; convert it to something usual")
    return file


def _check_file(path: Path, where: str) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        what = "a link to nothing" if path.is_symlink() else "no such file"
        raise AudioError(f"{where}: {what}; check the name") from None
    except (OSError, ValueError) as error:  # too many links, no permission, a null byte
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{where}: cannot be opened ({reason}); check the name") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{where}: a folder; give an audio file")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{where}: not a regular file; give an audio file, or - for a pipe")
    if not status.st_size:
        raise AudioError(f"{where}: empty; give an audio file")


def _read(
    file: soundfile.SoundFile, where: str, offset: float, duration: float
) -> np.ndarray:
    """Read blocks, each mixed down, until the stretch or the file ends: (samples,)."""
    if offset:
        _seek(file, where, offset)
    left = round((duration or MAX_SECONDS) * file.samplerate)
    blocks: list[np.ndarray] = []
    try:
        while left > 0:
            block = file.read(min(BLOCK_FRAMES, left), dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
            left -= len(block)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(". ")
        raise AudioError(f"{where}: damaged after its header ({reason}); convert it again") from None
    if not blocks:
        raise AudioError(f"{where}: holds no samples; give longer audio")
    if not duration and not left:
        raise AudioError(f"{where}: longer than {MAX_SECONDS / 3600:g} h; cut it into parts")
    return np.concatenate(blocks)


def _seek(file: soundfile.SoundFile, where: str, offset: float) -> None:
    start = round(offset * file.samplerate)
    if start >= file.frames:
        raise AudioError(
            f"{where}: ends at {file.frames / file.samplerate:.3f} s, before offset {offset:g} s; "
            f"correct the offset"
        )
    file.seek(start)
