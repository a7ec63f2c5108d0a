"""A recipe for data of one's own: its splits, task, tokens, network and budget, from its size."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from speechseq.audio import header_of
from speechseq.corpora import CORPORA
from speechseq.corpora.clips import clips_in
from speechseq.errors import DataError
from speechseq.files import atomic_write, writing
from speechseq.manifest import Corpus, Utterance, rank_of, write_manifest
from speechseq.tokens import KINDS

RECIPE, MANIFEST = "recipe.yaml", "data.jsonl"
"""What a proposal's files are called."""

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

MOST_LEXICON_WORDS = 500
"""A list of so many words is spelt through; of more, letters are taken as they are heard."""

BASES = "the front end and the recurrent layers are the base's"

FEW_CLIPS = 30
"""Clips of a class below which more are asked for."""

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "testing"), "test"),
}
"""What splits are called, in small letters."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to be: its utterances with their splits, what it says, and what to look at.

    `sections` are the recipe's, each key with its value and the reason for it.
    """

    utterances: Sequence[Utterance]
    head: Sequence[str]
    sections: Mapping[str, Mapping[str, tuple[Any, str]]]
    warnings: Sequence[str]

    @property
    def scored_split(self) -> str:
        """The split to be scored on: test, or validation where there is too little for one."""
        return "test" if any(u.split == "test" for u in self.utterances) else "validation"


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


def propose(place: Path, name: str, base: str = "") -> Proposal:
    """Look at data of one's own and propose a recipe called `name` for it.

    Raises:
        DataError: the data cannot be read, or holds too little to learn from.
    """
    corpus = CORPORA[corpus_of(place)]
    found = corpus.read(place)
    # An utterance without a file is silence.
    found = [
        replace(u, audio_filepath=u.audio_filepath and os.path.abspath(u.audio_filepath))
        for u in found
    ]
    utterances, how = split(found)
    by_split = {s: [u for u in utterances if u.split == s] for s in SPLITS}
    train = by_split["train"]
    if not train or not by_split["validation"]:
        raise DataError(
            f"{place}: {len(found)} utterances are too few to hold some out; record more"
        )
    classes = are_classes(train)
    seconds = sum(u.duration for u in train)
    sections: dict[str, dict[str, tuple[Any, str]]] = {
        "data": _data(train, classes) | _noise(place, corpus),
        "features": {} if base else _features(train),
        "model": _head(classes, BASES) if base else _model(len(train), seconds, classes),
        "augment": _augment(classes),
        "training": _training(len(train), seconds, classes, base),
    }
    if classes:
        longest = sorted(u.duration for u in train)[len(train) * 9 // 10]
        sections["decoding"] = {
            "clip_seconds": (round(max(longest, 0.5), 1), "what listen hears at a time")
        }
    elif len({w for u in train for w in u.text.split()}) <= MOST_LEXICON_WORDS:
        sections["decoding"] = {
            "decoder": ("lexicon", "the words of the training texts and no others")
        }
    head = [_summary(name, found, classes), *_splits_said(by_split, how)]
    return Proposal(utterances, head, sections, list(_warnings(by_split, classes)))


# ---- splits ----


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


# ---- what is learnt, by what, for how long ----


def are_classes(utterances: Sequence[Utterance]) -> bool:
    """Tell whether texts are labels of short clips, to be classified, and not to be spelt."""
    texts = Counter(u.text for u in utterances)
    short = statistics.median(u.duration for u in utterances) <= MOST_CLASS_SECONDS
    many = len(utterances) >= LEAST_CLASS_CLIPS * len(texts)
    return short and many and 2 <= len(texts) <= MOST_CLASSES


def _data(train: Sequence[Utterance], classes: bool) -> dict[str, tuple[Any, str]]:
    texts = len({u.text for u in train})
    why = f"{texts} labels of short clips" if classes else f"{texts} texts, spelt letter by letter"
    return {"tokens": ("classes" if classes else "characters", why)}


def _noise(place: Path, corpus: Corpus) -> dict[str, tuple[Any, str]]:
    folder = place / corpus.noise
    if not corpus.noise or not folder.is_dir() or not clips_in(folder):
        return {}
    return {"noise": (str(folder.absolute()), "recordings to mix in, beside made noise")}


def _features(train: Sequence[Utterance]) -> dict[str, tuple[Any, str]]:
    recorded = [u for u in train if u.audio_filepath]
    if not recorded:
        raise DataError("init: nothing but silence to learn from; give recordings")
    rates = Counter(_rate(u) for u in recorded[:: max(len(recorded) // 200, 1)])
    rate = 8000 if rates.most_common(1)[0][0] < 16000 else 16000
    return {
        "rate": (rate, f"most recordings have {rates.most_common(1)[0][0]} Hz"),
        "mels": (40, ""),
    }


def _rate(utterance: Utterance) -> int:
    try:
        return int(header_of(utterance.audio_filepath).samplerate)
    except (RuntimeError, OSError):
        raise DataError(f"{utterance.audio_filepath}: cannot be read; correct or drop it") from None


def _head(classes: bool, why: str = "") -> dict[str, tuple[Any, str]]:
    if not classes:
        return {"head": ("ctc", why)}
    return {"head": ("classify", why), "pooling": ("attention", ""), "attention_heads": (4, "")}


def _model(clips: int, seconds: float, classes: bool) -> dict[str, tuple[Any, str]]:
    """Choose the network: the more speech, the more of it."""
    if classes:
        hidden, layers = (64 if clips < 1000 else 96 if clips < 4000 else 128), 2
        why = f"for {clips} clips"
    else:
        sizes = ((0.5, 96, 2), (3, 160, 3), (30, 256, 3), (float("inf"), 512, 4))
        hidden, layers = next((h, n) for hours, h, n in sizes if seconds < 3600 * hours)
        why = f"for {seconds / 3600:.2f} h"
    return {
        "front_end": ("conv", ""),
        "time_stride": (4 if classes or seconds > 1800 else 2, "frames of 10 ms to one step"),
        "cell": ("lstm", ""),
        "layers": (layers, ""),
        "hidden": (hidden, why),
        "layer_norm": (True, ""),
        "residual": (layers > 2, ""),
        "dropout": (0.3, ""),
        **_head(classes),
    }


def _augment(classes: bool) -> dict[str, tuple[Any, str]]:
    return {
        "speeds": ([0.9, 0.95, 1.0, 1.05, 1.1], "slower and faster speakers"),
        "vocal_tract": (0.08, "larger and smaller ones"),
        **({"shift_seconds": (0.1, "cut a little early or late")} if classes else {}),
        "gain_db": (6, "closer and farther microphones"),
        "reverberation_probability": (0.2, "rooms"),
        "noise_probability": (0.5, "noise, so many decibels below the speech"),
        "noise_low_db": (5, ""),
        "frequency_masks": (2, ""),
        "time_masks": (2, ""),
    }


def _training(clips: int, seconds: float, classes: bool, base: str) -> dict[str, tuple[Any, str]]:
    """Choose a batch and so many epochs that there are steps enough."""
    batch = (16 if clips < 1000 else 32) if classes else (8 if seconds < 7200 else 16)
    wanted = (6000 if classes else 10_000) // (2 if base else 1)
    epochs = min(max(wanted * batch // clips, 15), 200)
    found: dict[str, tuple[Any, str]] = {
        "epochs": (epochs, f"{epochs * -(-clips // batch)} steps"),
        "batch": (batch, ""),
        "learning_rate": (0.001 if base else 0.002, ""),
    }
    if classes:
        found["label_smoothing"] = (0.1, "")
    if base:
        found["base"] = (base, "its weights are where training starts")
        found["frozen_epochs"] = (max(epochs // 10, 1), "in which the new head learns alone")
    return found


# ---- what is said ----


def _summary(name: str, utterances: Sequence[Utterance], classes: bool) -> str:
    hours = sum(u.duration for u in utterances) / 3600
    speakers = len({u.speaker for u in utterances if u.speaker})
    what = f"{len({u.text for u in utterances})} {'classes' if classes else 'texts'}"
    of = f"{len(utterances)} clips, {hours:.2f} h, {speakers or 'no known'} speakers"
    return f"{name}: {what}, {of}."


def _splits_said(by_split: Mapping[str, Sequence[Utterance]], how: str) -> Iterator[str]:
    yield f"Splits ({MANIFEST}) {how}:"
    for name, purpose in zip(SPLITS, ("to learn", "to choose by", "to look at once"), strict=True):
        clips = by_split[name]
        speakers = len({u.speaker for u in clips if u.speaker})
        of = f" of {speakers} speakers" if speakers else ""
        yield f"  {name}: {len(clips)} clips{of}, {purpose}"


def _warnings(by_split: Mapping[str, Sequence[Utterance]], classes: bool) -> Iterator[str]:
    train = by_split["train"]
    if not any(u.speaker for u in train):
        yield (
            "no speakers are known, so scores will say nothing about people who are not in the "
            "data; a CSV or manifest can name the speaker of each clip"
        )
    if not by_split["test"]:
        yield "no test split: there is too little; scores will be those chosen by, so optimistic"
    if classes:
        counts = Counter(u.text for u in train)
        few = [f"{text} {count}" for text, count in sorted(counts.items()) if count < FEW_CLIPS]
        if few:
            yield f"under {FEW_CLIPS} clips to learn from: {', '.join(few[:8])}; record more"
        for part in ("validation", "test"):
            missing = sorted(counts.keys() - {u.text for u in by_split[part]})
            if missing and by_split[part]:
                yield f"{part} has no clip of {', '.join(missing[:8])}"


def write_proposal(proposal: Proposal, name: str, folder: Path) -> Path:
    """Write a proposal's manifest and recipe into a folder and return the recipe's path.

    Raises:
        DataError: one of them is there already, or cannot be written.
    """
    recipe, manifest = folder / RECIPE, folder / MANIFEST
    for path in (recipe, manifest):
        if path.exists():
            raise DataError(f"{path}: is there already; name another recogniser, or delete it")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, proposal.utterances)
    with atomic_write(recipe) as file:
        file.write(recipe_text(proposal, name, manifest.absolute()).encode())
    return recipe


def recipe_text(proposal: Proposal, name: str, manifest: Path) -> str:
    """Return a proposal as commented YAML."""
    said = [*proposal.head, *(f"Mind: {warning}." for warning in proposal.warnings)]
    # A label may hold a line break, which would end the comment.
    lines = ["# " + re.sub(r"[\s\x85\u2028\u2029]", " ", line) for line in said]
    lines.append(f"name: {_written(name)}")
    places = {"corpus": ("jsonl", ""), "root": (str(manifest), "every clip, and its split")}
    for section, keys in proposal.sections.items():
        keys = {**places, **keys} if section == "data" else keys
        if keys:
            lines.append(f"{section}:")
        for key, (value, why) in keys.items():
            lines.append(f"  {key}: {_written(value)}" + (f"  # {why}" if why else ""))
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
