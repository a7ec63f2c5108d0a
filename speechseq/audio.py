"""Audio files to mono float32 samples at a rate; headers are hostile until checked."""

from __future__ import annotations

import functools
import io
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import soundfile

from speechseq.containers import is_chained, walk_mp3
from speechseq.errors import AudioError

MAX_SECONDS = 3600.0
"""Longest stretch read at once; a network's memory grows with it (1.5 GB for half an hour)."""

SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".sph", ".mp3", ".aiff", ".au")
"""What audio files end in, the public corpora's first."""

LONGEST_HEADER_SECONDS = 1e6
"""Lengths beyond this (11 days) in a header stand for "unknown" or are a lie."""

MAX_CHANNELS = 64
RATES = (100, 1_000_000)
UNKNOWN_BYTES = 0x7FFF0000
"""Lengths from here on are what programs write that stream a wav and cannot know its end."""

_CUT_SHORT = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile notes of a wav, aiff or au shorter than its header says; it reads on."""

_NO_END = "Last page lacks an end-of-stream bit"
"""What it notes of an ogg that is cut."""

LEAST_SHARE = 0.98
"""Of the frames a header promises; an mp3's may be an estimate."""

MP3_SLACK = 5000
"""Samples by which an mp3's frames may hold more than is played: what the encoder put around."""

LOUDEST = 100.0
"""Samples beyond were never scaled; some decoders overshoot 1 a little."""

BLOCK_SAMPLES = 1 << 18
"""Samples read at a time, of all channels, or given on if those are more: memory follows what is
there and not what a header claims."""

MOST_FRAMES = 1 << 62
"""What a length without a bound counts as; numbers of frames must be whole."""

SPOOL_BYTES = 1 << 24
"""A pipe's bytes beyond this many go to a temporary file, which can be sought in."""

Source = str | os.PathLike[str] | bytes | BinaryIO
Found = TypeVar("Found")


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
    with _seekable(source, where) as seekable, _open(seekable, where) as file:
        promised = stretch.frames_of(_promised(seekable, file, where), file.samplerate)
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


def name_of(source: Source) -> str:
    """Return what to call a source in a message, on one line whatever its name holds."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return name if name and name.isprintable() else repr(name)
    return "audio bytes" if isinstance(source, bytes) else "audio stream"


def duration_seconds(path: str | os.PathLike[str]) -> float:
    """Return how long a file is, as its header says.

    Raises:
        AudioError: as `read_audio`, of the header alone, or the header gives no length.
    """
    where = name_of(path)
    with _open(path, where) as file:
        _promised(path, file, where)
        seconds = float(file.frames / file.samplerate)
    if seconds > LONGEST_HEADER_SECONDS:
        raise AudioError(f"{where}: its header gives no length; convert it again")
    return seconds


def header_of(path: str | os.PathLike[str]) -> Any:
    """Return what a file's header says, as `soundfile.info` does, whatever bytes its name has.

    Raises: as `soundfile.info`.
    """
    return soundfile.info(_as_opened(path))


def _as_opened(path: str | os.PathLike[str]) -> bytes | str | os.PathLike[str]:
    """Return a path as libsndfile takes it: names that are not UTF-8 as the bytes they are."""
    return os.fsencode(path) if os.name == "posix" else path


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


@contextmanager
def _seekable(source: Source, where: str) -> Iterator[str | os.PathLike[str] | BinaryIO]:
    """Give bytes, and streams that only run forward, as a file that can be sought in."""
    if isinstance(source, str | os.PathLike):
        yield source
    elif isinstance(source, bytes):
        if not source:
            raise AudioError(f"{where}: empty; give an audio file")
        yield io.BytesIO(source)
    elif not hasattr(source, "seekable"):
        raise AudioError(
            f"a {type(source).__name__}: one path, bytes, a binary stream or an array of samples "
            f"goes here; several files go to transcribe_many"
        )
    elif source.seekable():
        yield source
    else:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
            _spool(source, cast(BinaryIO, file), where)
            yield cast(BinaryIO, file)


def _spool(stream: BinaryIO, file: BinaryIO, where: str) -> None:
    """Copy a stream to its end into a file, and go back to the file's start."""
    try:
        shutil.copyfileobj(stream, file)
    except OSError as error:
        raise AudioError(
            f"{where}: cannot be kept to be read ({error.strerror}); give it as a file"
        ) from None
    if not file.tell():
        raise AudioError(f"{where}: empty; give an audio file")
    file.seek(0)


def _open(source: str | os.PathLike[str] | BinaryIO, where: str) -> soundfile.SoundFile:
    if isinstance(source, str | os.PathLike):
        _check_file(source, where)
    try:
        if isinstance(source, str | os.PathLike):
            file = _SoundFile(_as_opened(source))
        else:
            file = _SoundFile(source)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError(
            f"{where}: not audio that can be read ({_reason(error)}); give wav, flac, ogg or mp3"
        ) from None
    if not (1 <= file.channels <= MAX_CHANNELS and RATES[0] <= file.samplerate <= RATES[1]):
        shape = f"{file.channels} channels at {file.samplerate} Hz"
        file.close()
        raise AudioError(f"{where}: its header says {shape}; convert it to something usual")
    if cut := _cut_short(file.extra_info):
        file.close()
        raise AudioError(f"{where}: cut short{cut}; copy it again")
    return file


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is not sought in where it cannot know its length: a flac out of a pipe."""

    def seekable(self) -> bool:
        """Whether reading may go back and forth."""
        return self.frames < MOST_FRAMES and bool(super().seekable())


def _promised(
    source: str | os.PathLike[str] | BinaryIO, file: soundfile.SoundFile, where: str
) -> int:
    """Return how many frames a file's header promises; 0 where it cannot know.

    Raises:
        AudioError: it holds more than the header tells, which would be lost without a word.
    """
    if file.format not in ("MP3", "OGG"):
        return int(file.frames) if file.frames < MOST_FRAMES else 0
    if file.format == "OGG":
        if _found_by(is_chained, source):
            raise AudioError(
                f"{where}: several recordings one behind the other; give each as a file"
            )
        return int(file.frames)
    there = _found_by(walk_mp3, source)
    if there.samples * LEAST_SHARE > file.frames + MP3_SLACK:
        told, held = (count / file.samplerate for count in (file.frames, there.samples))
        raise AudioError(
            f"{where}: holds {held:.1f} s, of which its header tells {told:.1f}; convert it again"
        )
    return int(file.frames if there.is_counted else min(file.frames, there.samples))


def _found_by(
    walk: Callable[[BinaryIO], Found], source: str | os.PathLike[str] | BinaryIO
) -> Found:
    """Return what a walk finds from the first byte on; a stream is left where it stood."""
    if isinstance(source, str | os.PathLike):
        status = Path(source).stat()
        return _found_in_file(walk, os.fspath(source), status.st_size, status.st_mtime_ns)
    place = source.tell()
    source.seek(0)
    found = walk(source)
    source.seek(place)
    return found


@functools.lru_cache(256)
def _found_in_file(walk: Callable[[BinaryIO], Found], name: str, size: int, changed: int) -> Found:
    """Walk a file once, however many stretches of it are read, as long as it does not change."""
    with open(name, "rb") as file:
        return walk(file)


def _cut_short(notes: str) -> str:
    """Say what libsndfile noted of a file that ends too early; nothing where it does not."""
    if _NO_END in notes:
        return ", its end is missing"
    if found := _CUT_SHORT.search(notes):
        there, promised = sorted(map(int, found.groups()))
        if promised < UNKNOWN_BYTES:
            return f", {there} of {promised} bytes of sound are there"
    return ""


def _reason(error: Exception) -> str:
    """Return libsndfile's own words, but where they would send the reader looking for a file."""
    reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(". ")
    return "cut short or damaged" if reason.startswith("File does not exist") else reason


def _check_file(name: str | os.PathLike[str], where: str) -> None:
    path = Path(name)
    if not os.fspath(name):
        raise AudioError(f"{where}: an empty name; give an audio file")
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
        raise AudioError(
            f"{where}: not a regular file; give an audio file, or transcribe - for a pipe"
        )
    if not status.st_size:
        raise AudioError(f"{where}: empty; give an audio file")


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
            yield _mono(block, where)
        more = not stretch.duration and found == wanted and len(file.read(1))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"{where}: damaged after its header ({_reason(error)}); convert it again"
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


def _mono(block: np.ndarray, where: str) -> np.ndarray:
    """Average the channels of (samples, channels); full scale is the most that any plays at."""
    if not np.isfinite(block).all():
        raise AudioError(f"{where}: holds NaN or infinite samples; convert it again")
    # A float file may exceed full scale; what plays it would clip it, too.
    samples: np.ndarray = np.clip(block, -1.0, 1.0).mean(axis=1)
    return samples


def _resample(blocks: Iterable[np.ndarray], found: int, rate: int) -> Iterator[np.ndarray]:
    """Resample block by block: a small file of a high rate must not fill the memory."""
    import soxr  # only where it is needed: it takes a tenth of a command's start

    stream = soxr.ResampleStream(found, rate, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
