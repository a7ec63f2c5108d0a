"""What the corpora share: finding clips whatever their suffix, and measuring them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from speechseq.audio import duration_seconds
from speechseq.errors import AudioError, DataError
from speechseq.manifest import Utterance
from speechseq.sound_files import SUFFIXES

_THREADS = 8


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


def measured(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Fill in the durations that are 0 from the headers of the audio files.

    Raises:
        AudioError: clips cannot be read; the first is named, the others are counted.
    """
    utterances = list(utterances)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(_measure, utterances))
    failed = [error for error in found if isinstance(error, AudioError)]
    if len(failed) > 1:
        raise AudioError(f"{failed[0]} (and {len(failed) - 1} more of {len(found)} clips fail)")
    if failed:
        raise failed[0]
    return [utterance for utterance in found if isinstance(utterance, Utterance)]


def _measure(utterance: Utterance) -> Utterance | AudioError:
    if utterance.duration or not utterance.audio_filepath:
        return utterance
    try:
        seconds = duration_seconds(utterance.audio_filepath) - utterance.offset
    except AudioError as error:
        return error
    return replace(utterance, duration=max(seconds, 0.0))


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
