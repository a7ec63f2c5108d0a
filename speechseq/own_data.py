"""Data of one's own, as it is found: its layout, its utterances, and what is odd about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speechseq.corpora import CORPORA
from speechseq.corpora.folder import NOISE
from speechseq.errors import DataError
from speechseq.manifest import Utterance
from speechseq.sound_files import SUFFIXES
from speechseq.tokens import KINDS

OTHER_SUFFIXES = (".m4a", ".aac", ".wma", ".amr", ".webm", ".3gp", ".caf", ".mp4")
"""Recordings that cannot be read, which users have all the same."""


def corpus_of(place: Path) -> str:
    """Return which of the user's layouts a place has: folder, csv or jsonl.

    Raises:
        DataError: it is none of them.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; give the place of your data")
    if place.is_dir():
        for kind in ("csv", "jsonl"):
            if (place / f"train.{kind}").is_file():
                return kind
        return "folder"
    kinds = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
    if place.suffix.lower() not in kinds:
        raise DataError(
            f"{place}: neither a folder of clips nor .csv nor .jsonl; give one of these"
        )
    return kinds[place.suffix.lower()]


def read_own(place: Path) -> tuple[list[Utterance], list[str]]:
    """Read data of one's own: its utterances, without repeated ones, and what to look at.

    Paths are absolute, labels without needless spaces.

    Raises:
        DataError: it cannot be read, an utterance holds no sound, or a clip has two labels.
    """
    read = CORPORA[corpus_of(place)].read(place)
    found: dict[tuple[str, float, float], Utterance] = {}
    for utterance in read:
        path = utterance.audio_filepath  # an utterance without a file is silence
        text = KINDS["classes"](utterance.text)
        own = replace(utterance, audio_filepath=path and os.path.abspath(path), text=text)
        if path and not own.duration:
            raise DataError(f"{path}: holds no sound {own.offset:g} s from its start; drop it")
        where = (*own.stretch, own.duration) if path else ("", float(len(found)), 0.0)
        if (before := found.setdefault(where, own)).text != own.text:
            raise DataError(
                f"{path}: is listed as {before.text!r} and as {own.text!r}; drop one of them"
            )
    return list(found.values()), list(_odd(place, read, len(read) - len(found)))


def _odd(place: Path, read: Sequence[Utterance], repeated: int) -> Iterator[str]:
    if repeated:
        yield f"{repeated} utterances are listed more than once, and taken once"
    if corpus_of(place) == "folder":
        known = {os.path.abspath(u.audio_filepath) for u in read}
        unused = sorted(path for path in _recordings(place) if os.path.abspath(path) not in known)
        if unused:
            yield (
                f"{len(unused)} recordings are not used, {unused[0]} first; clips are "
                f"{', '.join(SUFFIXES)} right in their class' folder, each under a name of its own"
            )


def _recordings(place: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if name[0] != "." and name != NOISE]
        for name in files:
            if name[0] != "." and name.lower().endswith(SUFFIXES + OTHER_SUFFIXES):
                yield Path(folder, name)
