"""A recipe for data of one's own: its splits, task, tokens, network and budget, from its size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from speechseq.audio import read_header
from speechseq.corpora import CORPORA
from speechseq.corpora.clips import clips_in
from speechseq.corpora.folder import NOISE, SPLITS
from speechseq.errors import DataError
from speechseq.files import atomic_write, writing
from speechseq.held_out import are_classes, are_short, split
from speechseq.manifest import (
    Corpus,
    Utterance,
    shared_audio,
    shared_speakers,
    write_manifest,
)
from speechseq.own_data import corpus_of, read_own
from speechseq.tokens import NO_TEXT, SILENCE, UNKNOWN

RECIPE, MANIFEST = "recipe.yaml", "data.jsonl"
"""What a proposal's files are called."""

MOST_LEXICON_WORDS = 500
"""A list of so many words is spelt through; of more, letters are taken as they are heard."""

BASES = "the front end and the recurrent layers are the base's"

BASE, BASE_RATE = "commands-en", 16000
"""The bundled classifier to start from, where there are few clips of the rate it hears."""

FEW_WITHOUT_BASE = 300
"""Clips of a class below which it is the better start: measured up to 100."""

FEW_CLIPS = 30
"""Clips of a class below which more are asked for."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to be: its utterances with their splits, what it says, and what to look at.

    `sections` are the recipe's, each key with its value and the reason for it. `better_base` is
    the model that would be a better start, or empty.
    """

    utterances: Sequence[Utterance]
    head: Sequence[str]
    sections: Mapping[str, Mapping[str, tuple[Any, str]]]
    warnings: Sequence[str]
    better_base: str = ""

    @property
    def scored_split(self) -> str:
        """The split to be scored on: test, or validation where there is too little for one."""
        return "test" if any(u.split == "test" for u in self.utterances) else "validation"


def propose(place: Path, name: str, base: str = "") -> Proposal:
    """Look at data of one's own and propose a recipe called `name` for it.

    Raises:
        DataError: the data cannot be read, or holds too little to learn from.
    """
    found, odd = read_own(place)
    utterances, how = split(found)
    by_split = {s: [u for u in utterances if u.split == s] for s in SPLITS}
    for one, other in combinations(SPLITS, 2):
        if shared := shared_audio(by_split[one], by_split[other]):
            raise DataError(
                f"{place}: {one} and {other} share {len(shared)} clips, {min(shared)} first; "
                f"list each in one split"
            )
    train = by_split["train"]
    classes = are_classes(train)
    nameless = [u for u in found if not u.text]
    if nameless and (classes or len(nameless) == len(found)):
        raise DataError(
            f"{nameless[0].audio_filepath or place}: has no text ({len(nameless)} of {len(found)} "
            f"clips have none); write what is said, or drop it"
        )
    if not by_split["validation"]:
        raise DataError(
            f"{place}: {len(found)} utterances are too few to hold some out; record more"
        )
    if {u.text for u in found} == {train[0].text} != {SILENCE} and are_short(found):
        raise DataError(
            f"{place}: holds nothing but {train[0].text!r}; add other classes, such as "
            f"{UNKNOWN} of other speech and {SILENCE} of noise"
        )
    seconds = sum(u.duration for u in train)
    sections: dict[str, dict[str, tuple[Any, str]]] = {
        "data": _data(train, classes) | _noise(place, CORPORA[corpus_of(place)]),
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
    familiar = list(_familiar(by_split))
    how += "" if familiar else ": no speaker is heard in two"
    head = [_summary(name, found, classes), *_splits_said(by_split, how)]
    warnings = [*odd, *familiar, *_warnings(by_split, sections["data"])]
    better = BASE if classes and not base and _are_few(train, sections["features"]) else ""
    return Proposal(utterances, head, sections, warnings, better)


def _are_few(train: Sequence[Utterance], features: Mapping[str, tuple[Any, str]]) -> bool:
    """Tell whether there are so few clips a class that training on `BASE` is better."""
    clips = len(train) / len({u.text for u in train})
    return clips < FEW_WITHOUT_BASE and features["rate"][0] == BASE_RATE


# ---- what is learnt, by what, for how long ----


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
    some = recorded[:: max(len(recorded) // 200, 1)]
    (usual, _), *_ = Counter(read_header(u.audio_filepath).rate for u in some).most_common(1)
    return {
        "rate": (8000 if usual < 16000 else 16000, f"most recordings have {usual} Hz"),
        "mels": (40, ""),
    }


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


def _familiar(by_split: Mapping[str, Sequence[Utterance]]) -> Iterator[str]:
    """Say who is, or may be, heard in several splits."""
    clips = [u for s in SPLITS for u in by_split[s] if u.audio_filepath and u.text != SILENCE]
    unknown = sum(not u.speaker for u in clips)
    if unknown == len(clips):
        yield (
            "no speakers are known, so scores will say nothing about people who are not in the "
            "data; a CSV or manifest can name the speaker of each clip"
        )
        return
    pairs = combinations(SPLITS, 2)
    shared = sorted({s for a, b in pairs for s in shared_speakers(by_split[a], by_split[b])})
    found = []
    if shared:
        found.append(f"{len(shared)} speakers are heard in several splits, {shared[0]} first")
    if unknown:
        found.append(f"the speakers of {unknown} of {len(clips)} clips are not known")
    if found:
        yield f"{', and '.join(found)}, so scores will say too little about people not in the data"


def _warnings(
    by_split: Mapping[str, Sequence[Utterance]], data: Mapping[str, tuple[Any, str]]
) -> Iterator[str]:
    train = by_split["train"]
    classes = data["tokens"][0] == "classes"
    if not by_split["test"]:
        yield "no test split: there is too little; scores will be those chosen by, so optimistic"
    if classes and not any(u.text.startswith(NO_TEXT) for u in train):
        noise = f", and recordings of noise (data.noise; beside folders of words, {NOISE})"
        yield (
            f"every sound will be heard as one of these words; add other speech with the text "
            f"{UNKNOWN} (of folders, one of that name), or data.others"
            f"{'' if 'noise' in data else noise}"
        )
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
    text = recipe_text(proposal, name, manifest.absolute()).encode()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, proposal.utterances)
    with atomic_write(recipe) as file:
        file.write(text)
    return recipe


def recipe_text(proposal: Proposal, name: str, manifest: Path) -> str:
    """Return a proposal as commented YAML."""
    said = [*proposal.head, *(f"Mind: {warning}." for warning in proposal.warnings)]
    # A label may hold a line break, which would end the comment.
    lines = ["# " + re.sub(r"[\s\x85\u2028\u2029]", " ", line) for line in said]
    # Nor need a file's name be Unicode.
    lines = [line.encode(errors="backslashreplace").decode() for line in lines]
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
