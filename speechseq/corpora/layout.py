"""What the corpora's readers share: finding clips by stem, and reading their lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from speechseq.audio import duration_seconds
from speechseq.manifest import Utterance

SUFFIXES = (".wav", ".flac", ".opus", ".sph", ".ogg", ".mp3")
"""Audio file endings, the public archives' own first: lists name .wav or .sph, disks may differ."""


def clips(folder: Path) -> list[Path]:
    """List a folder's audio files, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def find_clip(folder: Path, name: str) -> Path | None:
    """Find a clip that a corpus' list names, whatever the ending it is stored with."""
    path = folder / name
    if path.is_file():
        return path
    stem = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
    candidates = (path.with_name(stem + suffix) for suffix in SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def measured(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Fill in the durations that are still 0 from the files' headers.

    Raises:
        AudioError: a file is not audio.
    """
    found = list(utterances)
    with ThreadPoolExecutor() as pool:
        seconds = pool.map(_duration, found)
        return [replace(u, duration=d) for u, d in zip(found, seconds, strict=True)]


def _duration(utterance: Utterance) -> float:
    return utterance.duration or duration_seconds(utterance.audio_filepath)


def labelled_folders(folder: Path) -> list[tuple[str, Sequence[Path]]]:
    """List a folder's sub-folders, which are classes, with their clips."""
    return [(sub.name, clips(sub)) for sub in sorted(folder.iterdir()) if sub.is_dir()]
