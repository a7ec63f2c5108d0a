"""Audio files to mono float32 samples at a rate, in bounded memory; and back."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile

from speechseq.errors import AudioError
from speechseq.sound_files import LEAST_SHARE, MOST_FRAMES, Source, name_of, opened, reason_of

MAX_SECONDS = 3600.0
"""Longest stretch read at once; a network's memory grows with it (1.5 GB for half an hour)."""

LONGEST_HEADER_SECONDS = 1e6
"""Lengths beyond this (11 days) in a header stand for "unknown" or are a lie."""

LOUDEST = 100.0
"""Samples beyond were never scaled; some decoders overshoot 1 a little."""

BLOCK_SAMPLES = 1 << 18
"""Samples read at a time, of all channels, or given on if those are more: memory follows what is
there and not what a header claims."""


def read_audio(
    source: Source, rate: int, *, offset: float = 0.0, duration: float = 0.0
) -> np.ndarray:
    """Read a file, its bytes or a stream: float32 (samples,) in [-1, 1], mono, at `rate`.

    Channels are averaged; other rates are resampled (soxr). `offset` and `duration` are seconds;
    a duration of 0 reads to the end. A wav header's length of 0xFFFFFFFF, as programs write that
    cannot know it yet, stands for all there is.

    Raises:
        AudioError: there is no such file, it is not audio, holds no sample or a NaN, is cut
            short, or is longer than MAX_SECONDS.
    """
    blocks = read_blocks(
        source, rate, offset=offset, duration=duration, longest_seconds=MAX_SECONDS
    )
    return np.concatenate(list(blocks))


def read_blocks(
    source: Source,
    rate: int,
    *,
    offset: float = 0.0,
    duration: float = 0.0,
    longest_seconds: float = math.inf,
) -> Iterator[np.ndarray]:
    """Yield audio in blocks (samples,): float32 in [-1, 1], mono, at `rate`.

    One after the other they are what `read_audio` returns. A block is at most about BLOCK_SAMPLES
    long, so the memory taken does not grow with the file; a pipe goes to a temporary file first.

    Raises:
        AudioError: as `read_audio`, some of it not before the end; by default no length is too
            long.
    """
    where = name_of(source)
    stretch = _Stretch(offset, duration, longest_seconds)
    stretch.check(where)
    found = 0
    with opened(source) as (file, whole):
        promised = stretch.frames_of(whole, file.samplerate)
        read = _blocks(file, where, stretch, _block_frames(file, rate), promised)
        for block in read if file.samplerate == rate else _resample(read, file.samplerate, rate):
            found += len(block)
            if len(block):
                yield np.clip(block, -1.0, 1.0, out=block)
    if not found:
        raise AudioError(f"{where}: shorter than a sample at {rate} Hz; give longer audio")


def check_samples(samples: np.ndarray, where: str) -> None:
    """See that samples are mono and floats about -1 to 1, as all that hears takes them.

    Raises:
        AudioError: they are not.
    """
    if samples.ndim != 1:
        raise AudioError(f"{where}: shape {samples.shape}; mono samples (samples,) go here")
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{where}: samples of {samples.dtype}; floats from -1 to 1 go here")
    most = float(np.abs(samples).max(initial=0.0))  # NaN, if there is one
    if not math.isfinite(most):
        raise AudioError(f"{where}: holds NaN or infinite samples; give numbers from -1 to 1")
    if most > LOUDEST:
        raise AudioError(f"{where}: a sample is {most:g}; scale them to -1 to 1")


def mono(block: np.ndarray, where: str) -> np.ndarray:
    """Average the channels of (samples, channels); full scale is the most that any plays at.

    Raises:
        AudioError: a sample is NaN or infinite.
    """
    if not np.isfinite(block).all():
        raise AudioError(f"{where}: holds NaN or infinite samples; convert it again")
    # A float file may exceed full scale; what plays it would clip it, too.
    clipped = np.clip(block, -1.0, 1.0)
    # numpy takes the mean of one channel for half as long as the file took to read.
    return clipped[:, 0] if clipped.shape[1] == 1 else np.asarray(clipped.mean(axis=1))


@dataclass(frozen=True)
class Header:
    """What a file says of itself; `subtype` is libsndfile's name of how samples are coded."""

    rate: int
    channels: int
    subtype: str
    seconds: float


def read_header(path: str | os.PathLike[str]) -> Header:
    """Return what a file's header says.

    Raises:
        AudioError: as `read_audio`, of the header alone, or the header gives no length.
    """
    with opened(path) as (file, _):
        seconds = float(file.frames / file.samplerate)
        header = Header(file.samplerate, file.channels, file.subtype, seconds)
    if seconds > LONGEST_HEADER_SECONDS:
        raise AudioError(f"{name_of(path)}: its header gives no length; convert it again")
    return header


def duration_seconds(path: str | os.PathLike[str]) -> float:
    """Return how long a file is, as its header says.

    Raises:
        AudioError: as `read_header`.
    """
    return read_header(path).seconds


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, rate: int) -> None:
    """Write samples (samples,) in [-1, 1] as a 16-bit mono wav file.

    Raises:
        AudioError: the file cannot be written.
    """
    try:
        soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")
    except (soundfile.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", None) or error
        raise AudioError(
            f"{name_of(path)}: cannot be written ({reason}); check the folder, its permissions "
            f"and the room on the disk"
        ) from None


@dataclass(frozen=True)
class _Stretch:
    """Which part of a file is read, in seconds; `duration` 0 is all of it, up to the longest."""

    offset: float
    duration: float
    longest: float

    def check(self, where: str) -> None:
        for name, seconds in (("offset", self.offset), ("duration", self.duration)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise AudioError(f"{where}: {name} is {seconds:g} s; seconds, 0 or more, go here")
        if self.duration > self.longest:
            raise AudioError(
                f"{where}: {self.duration:g} s asked for at once; at most {self.limit} go"
            )

    def frames_of(self, whole: int, rate: int) -> int:
        """Return how many of so many frames of a file should come; 0 where none can be told."""
        left = whole - round(self.offset * rate)
        return max(min(left, round(self.duration * rate)) if self.duration else left, 0)

    @property
    def limit(self) -> str:
        """The longest, to be read."""
        return f"{self.longest / 3600:g} h" if self.longest >= 3600 else f"{self.longest:g} s"

    def frames(self, rate: int) -> int:
        """Return how many frames there may be."""
        return round(min((self.duration or self.longest) * rate, MOST_FRAMES))


def _block_frames(file: soundfile.SoundFile, rate: int) -> int:
    """Return how many frames to read at a time."""
    return max(BLOCK_SAMPLES // max(file.channels, rate // file.samplerate), 1)


def _blocks(
    file: soundfile.SoundFile, where: str, stretch: _Stretch, size: int, promised: int
) -> Iterator[np.ndarray]:
    """Yield blocks (samples,) of up to `size`, mixed down, until the stretch or the file ends.

    At its end nearly all samples that were `promised` must have come.
    """
    found = 0
    wanted = stretch.frames(file.samplerate)
    try:
        if stretch.offset:
            _seek(file, where, stretch.offset)
        while found < wanted:
            block = file.read(min(size, wanted - found), dtype="float32", always_2d=True)
            if not len(block):
                break
            found += len(block)
            yield mono(block, where)
        more = not stretch.duration and found == wanted and len(file.read(1))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"{where}: damaged after its header ({reason_of(error)}); convert it again"
        ) from None
    if more:
        raise AudioError(f"{where}: longer than {stretch.limit}; cut it into parts")
    if found < LEAST_SHARE * promised:
        raise AudioError(f"{where}: cut short, {found} of {promised} samples; copy it again")
    if not found:
        raise AudioError(f"{where}: holds no samples; give longer audio")


def _seek(file: soundfile.SoundFile, where: str, offset: float) -> None:
    start = round(offset * file.samplerate)
    if start >= file.frames:
        raise AudioError(
            f"{where}: ends at {file.frames / file.samplerate:.3f} s, before offset {offset:g} s; "
            f"correct the offset"
        )
    file.seek(start)


def _resample(blocks: Iterable[np.ndarray], found: int, rate: int) -> Iterator[np.ndarray]:
    """Resample block by block: a small file of a high rate must not fill the memory."""
    import soxr  # only where it is needed: it takes a tenth of a command's start

    stream = soxr.ResampleStream(found, rate, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
