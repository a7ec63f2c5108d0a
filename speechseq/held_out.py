"""Splits for data that has none: who and what is held out, and what is left to learn from."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import replace

from speechseq.corpora.folder import SPLIT_NAMES, SPLITS
from speechseq.errors import DataError
from speechseq.manifest import Utterance, rank_of
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
    their names, whatever their order. Nothing is held out without which training would lack a
    label or a character.

    Raises:
        DataError: a split is called neither train nor validation nor test.
    """
    utterances = [replace(u, split=_split_name(u)) for u in utterances]
    given = {u.split for u in utterances}
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
            heard = {(u.speaker, u.split) for u in parted if u.speaker}
            apart = len(heard) == len({speaker for speaker, _ in heard})
            return parted, "by speakers" + (": none is heard in two splits" if apart else "")
        return _by_text(rest, held) + others, "evenly over the texts; each speaker has texts alone"
    return _by_text(rest, held) + others, "evenly over the texts; speakers are not known"


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


def _by_speaker(utterances: Sequence[Utterance], held: Sequence[str]) -> list[Utterance]:
    """Give whole speakers to the held-out splits until each has its share."""
    counts = Counter(u.speaker or u.key for u in utterances)
    units: dict[str, set[str]] = defaultdict(set)
    for utterance, found in zip(utterances, _units(utterances), strict=True):
        units[utterance.speaker or utterance.key] |= found
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
    return [replace(u, split=place.get(u.speaker or u.key, "train")) for u in utterances]


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
    groups: dict[str, list[Utterance]] = defaultdict(list)
    repeated = len(utterances) >= LEAST_CLASS_CLIPS * len({u.text for u in utterances})
    for utterance in utterances:
        groups[utterance.text if repeated else ""].append(utterance)
    found = []
    for group in groups.values():
        ranked = sorted(group, key=lambda u: rank_of(u.key))
        spare = _spare([units[id(u)] for u in ranked])
        count = round(HELD_SHARE * len(group))
        parts = dict(zip(spare, (name for name in held for _ in range(count)), strict=False))
        found += [replace(u, split=parts.get(n, "train")) for n, u in enumerate(ranked)]
    return found


def are_classes(utterances: Sequence[Utterance]) -> bool:
    """Tell whether texts are labels of short clips, to be classified, and not to be spelt."""
    texts = {u.text for u in utterances}
    many = len(utterances) >= LEAST_CLASS_CLIPS * len(texts)
    return are_short(utterances) and many and 2 <= len(texts) <= MOST_CLASSES


def are_short(utterances: Sequence[Utterance]) -> bool:
    """Tell whether utterances are as short as single words are, most of them."""
    return statistics.median(u.duration for u in utterances) <= MOST_CLASS_SECONDS
