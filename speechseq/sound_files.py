"""Audio files opened with soundfile: what their headers say is hostile until checked."""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import soundfile

from speechseq.containers import is_chained, is_sample_dump, walk_mp3
from speechseq.errors import AudioError

SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".sph", ".mp3", ".aiff", ".au")
"""What audio files end in, the public corpora's first."""

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

MOST_FRAMES = 1 << 62
"""What a length without a bound counts as; numbers of frames must be whole."""

SPOOL_BYTES = 1 << 24
"""A pipe's bytes beyond this many go to a temporary file, which can be sought in."""

Source = str | os.PathLike[str] | bytes | BinaryIO
Found = TypeVar("Found")


def name_of(source: Source) -> str:
    """Return what to call a source in a message, on one line whatever its name holds."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return name if name and name.isprintable() else repr(name)
    return "audio bytes" if isinstance(source, bytes) else "audio stream"


@contextmanager
def opened(source: Source) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """Open a file, its bytes or a stream; how many frames come with it, 0 where none can be told.

    A stream that only runs forward goes to a temporary file first.

    Raises:
        AudioError: there is no such file, it is not audio, is cut short, or holds more than its
            header tells.
    """
    where = name_of(source)
    with _seekable(source, where) as seekable, _open(seekable, where) as file:
        yield file, _promised(seekable, file, where)


@contextmanager
def _seekable(source: Source, where: str) -> Iterator[str | os.PathLike[str] | BinaryIO]:
    """Give bytes, and streams that only run forward, as a file that can be sought in.

    So is an mp3 beside which a Mac has put a `._` file: libsndfile would read that in its place.
    """
    if isinstance(source, str | os.PathLike):
        _check_file(source, where)
        if _has_resource_fork(Path(source)) and os.access(source, os.R_OK):
            with open(source, "rb") as file:
                yield file
        else:
            yield source
    elif isinstance(source, bytes):
        if not source:
            raise AudioError(f"{where}: empty; give an audio file")
        yield _Bytes(source)
    elif not hasattr(source, "seekable"):
        raise AudioError(
            f"a {type(source).__name__}: one path, bytes, a binary stream or an array of samples "
            f"goes here; several files go to transcribe_many"
        )
    elif source.seekable():
        yield source
    else:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spooled:
            _spool(source, cast(BinaryIO, spooled), where)
            yield cast(BinaryIO, spooled)


def _has_resource_fork(path: Path) -> bool:
    forks = path.with_name(f"._{path.name}"), path.parent / ".AppleDouble" / path.name
    return any(os.path.lexists(fork) for fork in forks)  # a name that is too long is none


class _Bytes(io.BytesIO):
    """Bytes in which a damaged header leads nowhere before the first one."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, or, where there is none, nowhere: libsndfile takes no exceptions."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


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
    try:
        if _found_by(is_sample_dump, source):  # libsndfile prints what is damaged in it
            raise AudioError(f"{where}: a MIDI sample dump; convert it to wav")
        is_name = isinstance(source, str | os.PathLike) and os.name == "posix"
        # A name need not be UTF-8.
        file = _SoundFile(os.fsencode(cast(str, source)) if is_name else source)
    except (OSError, soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError(
            f"{where}: not audio that can be read ({reason_of(error)}); give wav, flac, ogg or mp3"
        ) from None
    try:
        check_shape(file.channels, file.samplerate, where)
    except AudioError:
        file.close()
        raise
    if cut := _cut_short(file.extra_info):
        file.close()
        raise AudioError(f"{where}: cut short{cut}; copy it again")
    return file


def check_shape(channels: int, rate: int, where: str) -> None:
    """Refuse a header's number of channels or rate where no sound has such.

    Raises:
        AudioError: it is so.
    """
    if not (1 <= channels <= MAX_CHANNELS and RATES[0] <= rate <= RATES[1]):
        raise AudioError(
            f"{where}: its header says {channels} channels at {rate} Hz; "
            f"convert it to something usual"
        )


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


def reason_of(error: Exception) -> str:
    """Return libsndfile's or the system's own words, unless they send one looking for a file."""
    told = (getattr(error, name, "") for name in ("error_string", "strerror"))
    reason = next(filter(None, told), str(error)).removeprefix("Error : ").rstrip(". ")
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
