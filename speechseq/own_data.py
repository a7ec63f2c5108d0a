"""Data of one's own, as it is found: its layout, its utterances, and what is odd about them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speechseq.corpora import CORPORA
from speechseq.corpora.clips import clips_in
from speechseq.corpora.folder import NOISE, label_folders
from speechseq.errors import DataError
from speechseq.files import sha256
from speechseq.manifest import Utterance
from speechseq.sound_files import SUFFIXES
from speechseq.tokens import KINDS

NAMED = 5
"""So many of a list are named, and no more."""

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

    Paths are absolute, labels without needless spaces. Files of the same bytes are one, and so are
    speakers whose names differ only in case.

    Raises:
        DataError: it cannot be read, an utterance holds no sound or ends behind its file, or a
            clip has two labels.
        AudioError: clips cannot be read.
    """
    kind = corpus_of(place)
    # A list is believed in training; a folder states nothing.
    read = CORPORA[kind].read(place, **({} if kind == "folder" else {"checked": True}))
    original = _originals(os.path.abspath(u.audio_filepath) for u in read if u.audio_filepath)
    found: dict[tuple[str, float, float], Utterance] = {}
    copies = []
    for utterance in read:
        path = utterance.audio_filepath  # an utterance without a file is silence
        path = path and os.path.abspath(path)
        text = KINDS["classes"](utterance.text)
        own = replace(utterance, audio_filepath=path and original[path], text=text)
        if path and not own.duration:
            raise DataError(f"{path}: holds no sound {own.offset:g} s from its start; drop it")
        where = (*own.stretch, own.duration) if path else ("", float(len(found)), 0.0)
        before = found.setdefault(where, own)
        if before.text != own.text:
            copy = "" if path == own.audio_filepath else f", byte for byte {own.audio_filepath}"
            raise DataError(
                f"{path}{copy}: is listed as {before.text!r} and as {own.text!r}; drop one of them"
            )
        if before is not own and path != own.audio_filepath:
            copies.append(path)
    utterances, odd = _by_one_name(list(found.values()))
    if copies:
        odd.insert(0, f"{len(copies)} clips are copies of others, and left out, {copies[0]} first")
    return utterances, [*_odd(place, read, len(read) - len(found) - len(copies)), *odd]


def _originals(paths: Iterable[str]) -> dict[str, str]:
    """Map each file to the first of the same bytes; only files of the same size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        by_size[Path(path).stat().st_size].append(path)
    found: dict[str, str] = {}
    for alike in by_size.values():
        first: dict[str, str] = {}
        for path in alike:
            found[path] = first.setdefault(sha256(path) if len(alike) > 1 else "", path)
    return found


def _by_one_name(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[str]]:
    """Give speakers whose names differ only in case the most frequent name, and say so."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for utterance in utterances:
        names[utterance.speaker.casefold()][utterance.speaker] += 1
    usual = {folded: max(sorted(own), key=own.__getitem__) for folded, own in names.items()}
    several = [", ".join(sorted(own)) for own in names.values() if len(own) > 1]
    says = (
        f"speakers whose names differ only in case are taken as one: {'; '.join(several[:NAMED])}"
    )
    named = [replace(u, speaker=usual[u.speaker.casefold()]) for u in utterances]
    return named, [says] if several else []


def _odd(place: Path, read: Sequence[Utterance], repeated: int) -> Iterator[str]:
    if repeated:
        yield f"{repeated} utterances are listed more than once, and taken once"
    if corpus_of(place) == "folder":
        known = {os.path.abspath(u.audio_filepath) for u in read}
        empty = [str(path) for path, _ in label_folders(place) if not clips_in(path)]
        if empty:
            more = " …" if len(empty) > NAMED else ""
            yield f"{len(empty)} folders hold no clips: {', '.join(empty[:NAMED])}{more}"
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
