"""Splits for data that has none: who and what is held out, and what is left to learn from."""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import replace

from speechseq.corpora.folder import SPLIT_NAMES, SPLITS
from speechseq.errors import DataError
from speechseq.manifest import MOMENT, Utterance, rank_of
from speechseq.tokens import KINDS

HELD_SHARE = 0.15
"""Of the data, for validation, and as much for test."""

LEAST_HELD = 20
"""Fewer utterances than this say nothing; the test split is left out first."""

LEAST_SPEAKERS = 4
"""Speakers from which on splits are made of whole speakers."""

KNOWN_SHARE = 0.9
"""Of the utterances, with speakers; each of the others counts as a speaker of its own."""

MOST_CLASSES = 200
MOST_CLASS_SECONDS = 3.0
LEAST_CLASS_CLIPS = 3
"""Texts are classes where they are so few, so short, and there are so many clips of each."""


def split(utterances: Sequence[Utterance]) -> tuple[list[Utterance], str]:
    """Return the utterances with a split each, and how they were split.

    Splits that the data has are kept; what names none is to learn from. Otherwise whole speakers
    are held out where enough are known, and else a share of every text's utterances, by a hash of
    their names, whatever their order. Stretches of a file that overlap stay together. Nothing is
    held out without which training would lack a label or a character.

    Raises:
        DataError: a split is called neither train nor validation nor test, or none is train.
    """
    utterances = [replace(u, split=_split_name(u)) for u in utterances]
    given = {u.split for u in utterances}
    if "train" not in given:
        raise DataError(
            f"init: nothing is of split train, all is of {' and '.join(sorted(given))}; "
            f"name what is to learn from so, or leave its split empty"
        )
    if "validation" in given:
        return list(utterances), "as the data has them"
    held = ("validation",) if "test" in given else ("validation", "test")
    rest = [u for u in utterances if u.split == "train"]
    others = [u for u in utterances if u.split != "train"]
    if HELD_SHARE * len(rest) < LEAST_HELD:
        held = held[:1]
    known = [u for u in rest if u.speaker]
    enough = len({u.speaker for u in known}) >= LEAST_SPEAKERS
    if enough and len(known) >= KNOWN_SHARE * len(rest):
        parted = _by_speaker(rest, held) + others
        if {u.split for u in parted}.issuperset(held):
            return parted, "by speakers"
        why = "each speaker has texts alone"
    elif known:
        why = "too many speakers are not known" if enough else "too few speakers"
    else:
        why = "speakers are not known"
    return _by_text(rest, held) + others, f"evenly over the texts; {why}"


def _split_name(utterance: Utterance) -> str:
    name = utterance.split.strip().lower()
    if name not in SPLIT_NAMES:
        name = name.split("-")[0]  # train-clean-100, dev-clean-2
    if name not in SPLIT_NAMES:
        raise DataError(
            f"{utterance.audio_filepath}: split {utterance.split!r}; name it {', '.join(SPLITS)}, "
            f"or leave it empty to learn from"
        )
    return SPLIT_NAMES[name]


def _pieces(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Group utterances whose stretches of a file overlap, which no two splits may share."""
    by_file: dict[str, list[Utterance]] = defaultdict(list)
    for number, utterance in enumerate(utterances):
        path = utterance.audio_filepath  # silence without a file overlaps nothing
        by_file[os.path.realpath(path) if path else str(number)].append(utterance)
    pieces: list[list[Utterance]] = []
    for stretches in by_file.values():
        end = 0.0
        for utterance in sorted(stretches, key=lambda u: u.offset):
            if not end or utterance.offset >= end - MOMENT:
                pieces.append([])
            pieces[-1].append(utterance)
            end = max(end, utterance.offset + utterance.duration)
    return pieces


def _speakers(utterances: Sequence[Utterance]) -> list[str]:
    """Name each utterance's speaker; those who speak at once, in overlapping stretches, are one."""
    first: dict[str, str] = {}

    def named(utterance: Utterance) -> str:
        name = utterance.speaker or utterance.key
        while name in first:
            name = first[name]
        return name

    for piece in _pieces(utterances):
        one, *others = sorted({named(u) for u in piece})
        first.update(dict.fromkeys(others, one))
    return [named(u) for u in utterances]


def _by_speaker(utterances: Sequence[Utterance], held: Sequence[str]) -> list[Utterance]:
    """Give whole speakers to the held-out splits until each has its share."""
    names = _speakers(utterances)
    counts = Counter(names)
    units: dict[str, set[str]] = defaultdict(set)
    for name, found in zip(names, _units(utterances), strict=True):
        units[name] |= found
    ranked = sorted(counts, key=rank_of)
    waiting = [ranked[n] for n in _spare([units[name] for name in ranked])]
    place: dict[str, str] = {}
    for name in held:
        size = 0
        # One speaker at least for each split, and two to learn from.
        while (
            waiting
            and len(counts) - len(place) > 2
            and (not size or size + counts[waiting[0]] / 2 < _wanted(utterances))
        ):
            size += counts[waiting[0]]
            place[waiting.pop(0)] = name
    return [
        replace(u, split=place.get(name, "train"))
        for u, name in zip(utterances, names, strict=True)
    ]


def _units(utterances: Sequence[Utterance]) -> list[set[str]]:
    """Return what each text is made of: its label, or its characters."""
    kind = "classes" if are_classes(utterances) else "characters"
    texts = [KINDS[kind](u.text) for u in utterances]
    return [{text} if kind == "classes" else set(text) for text in texts]


def _spare(units: Sequence[Set[str]]) -> list[int]:
    """Return the numbers of those, in turn, without whom the others still have every unit."""
    left = Counter(unit for own in units for unit in own)
    found = []
    for number, own in enumerate(units):
        if all(left[unit] > 1 for unit in own):
            left.subtract(own)
            found.append(number)
    return found


def _wanted(utterances: Sequence[Utterance]) -> float:
    return HELD_SHARE * len(utterances)


def _by_text(utterances: Sequence[Utterance], held: Sequence[str]) -> list[Utterance]:
    """Give the same share of every text's utterances to each held-out split."""
    units = {id(u): own for u, own in zip(utterances, _units(utterances), strict=True)}
    groups: dict[frozenset[str], list[list[Utterance]]] = defaultdict(list)
    repeated = len(utterances) >= LEAST_CLASS_CLIPS * len({u.text for u in utterances})
    for piece in _pieces(utterances):
        groups[frozenset(u.text for u in piece if repeated)].append(piece)
    found = []
    for group in groups.values():
        ranked = sorted(group, key=lambda piece: rank_of(min(u.key for u in piece)))
        spare = _spare([set[str]().union(*(units[id(u)] for u in piece)) for piece in ranked])
        count = round(HELD_SHARE * len(group))
        parts = dict(zip(spare, (name for name in held for _ in range(count)), strict=False))
        for number, piece in enumerate(ranked):
            found += [replace(u, split=parts.get(number, "train")) for u in piece]
    return found


def are_classes(utterances: Sequence[Utterance]) -> bool:
    """Tell whether texts are labels of short clips, to be classified, and not to be spelt."""
    texts = {u.text for u in utterances}
    many = len(utterances) >= LEAST_CLASS_CLIPS * len(texts)
    return are_short(utterances) and many and 2 <= len(texts) <= MOST_CLASSES


def are_short(utterances: Sequence[Utterance]) -> bool:
    """Tell whether utterances are as short as single words are, most of them."""
    return statistics.median(u.duration for u in utterances) <= MOST_CLASS_SECONDS
