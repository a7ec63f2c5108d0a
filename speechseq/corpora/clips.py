"""What the corpora share: finding clips whatever their suffix, and measuring them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf
from pathlib import Path

from speechseq.audio import duration_seconds
from speechseq.errors import AudioError, DataError
from speechseq.manifest import Utterance
from speechseq.sound_files import SUFFIXES

_THREADS = 8

BEYOND_SECONDS = 0.05
"""A stated end may lie so far behind the file's: it is rounded, or was measured otherwise."""

_NAMED = 5


def stem(name: str) -> str:
    """Return a clip's name without its suffixes; some public files are called x.wav.wav."""
    while name.lower().endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def clips_in(folder: Path) -> dict[str, Path]:
    """Map the stem of every clip in a folder to its path, by name; no folder, no clips.

    Hidden files are no clips: macOS puts one of its own beside every file it copies to a disk.
    Where a clip is there twice, the earlier of `SUFFIXES` is taken.
    """
    if not folder.is_dir():
        return {}
    found = [
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    ]
    found.sort(key=lambda path: (stem(path.name), SUFFIXES.index(path.suffix.lower())))
    clips: dict[str, Path] = {}
    for path in found:
        clips.setdefault(stem(path.name), path)
    return clips


def hashed_speaker(name: str) -> str:
    """Return the speaker that names such as Speech Commands' tell; none where they do not.

    Of bed_0a7c2a8d_nohash_0, as of 0a7c2a8d_nohash_0, it is 0a7c2a8d.
    """
    hashed, marker, _ = name.partition("_nohash_")
    return hashed.rpartition("_")[2] if marker else ""


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def measured(utterances: Iterable[Utterance], *, checked: bool = False) -> list[Utterance]:
    """Fill in the durations that are 0 from the headers of the audio files.

    With `checked`, every file's header is read, and the durations that are stated are compared.

    Raises:
        AudioError: clips cannot be read; the first ones are named, all are counted.
        DataError: with `checked`, stretches end behind their files; the first is named.
    """
    utterances = list(utterances)
    wanted = (u.audio_filepath for u in utterances if checked or not u.duration)
    paths = [path for path in dict.fromkeys(wanted) if path]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(paths, pool.map(_seconds, paths), strict=True))
    if failed := {path: error for path, error in found.items() if isinstance(error, AudioError)}:
        first, *others = failed
        more = f" (and {len(others)} more of {len(paths)} clips fail: {_first(others)})"
        raise AudioError(f"{failed[first]}{more if others else ''}")
    seconds = {path: length for path, length in found.items() if isinstance(length, float)}
    if checked:
        _check_ends(utterances, seconds)
    return [
        u
        if u.duration or not u.audio_filepath
        else replace(u, duration=max(seconds[u.audio_filepath] - u.offset, 0.0))
        for u in utterances
    ]


def _seconds(path: str) -> float | AudioError:
    try:
        return duration_seconds(path)
    except AudioError as error:
        return error


def _first(paths: Sequence[str]) -> str:
    """Name the first of many, one being named already."""
    return ", ".join(paths[: _NAMED - 1]) + (" …" if len(paths) >= _NAMED else "")


def _check_ends(utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> None:
    late = [
        u
        for u in utterances
        if u.duration
        and u.offset + u.duration > seconds.get(u.audio_filepath, inf) + BEYOND_SECONDS
    ]
    if late:
        path, end = late[0].audio_filepath, late[0].offset + late[0].duration
        raise DataError(
            f"{path}: is {seconds[path]:.3f} s long, but listed up to {end:g} s ({len(late)} of "
            f"{len(utterances)} utterances end behind their file); correct offset and duration"
        )


def require(found: Collection[object], place: Path, what: str) -> None:
    """Check that a corpus' layout was recognised.

    Raises:
        DataError: nothing was found; the message says what a corpus has there.
    """
    if not found:
        raise DataError(f"{place}: no {what} here; give the folder the corpus' archive unpacks to")


def require_all(missing: Sequence[str], wanted: int, where: Path) -> bool:
    """Tell a split that is there (true) from one whose clips are all absent (false).

    Raises:
        DataError: only some of its clips are absent; a score over the rest would mislead.
    """
    if missing and len(missing) < wanted:
        raise DataError(
            f"{where}: {len(missing)} of {wanted} clips are missing, {missing[0]} among them; "
            f"unpack the corpus again"
        )
    return wanted > len(missing)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8; a byte order mark is dropped.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not UTF-8; save it so (a spreadsheet calls it CSV UTF-8)"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); correct or replace it") from None


def read_lines(path: Path) -> list[str]:
    """Read a list's lines, stripped, without blank ones.

    Raises:
        DataError: the file cannot be read.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
