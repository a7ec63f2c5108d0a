"""Which utterances a recipe learns from, chooses by and is measured on."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speechseq.corpora import CORPORA, shards
from speechseq.corpora.clips import measured
from speechseq.errors import DataError, UsageError, choose
from speechseq.manifest import MANIFEST, Corpus, Utterance, rank_of, read_manifest
from speechseq.recipe import DataSettings
from speechseq.tokens import NO_TEXT, UNKNOWN, UNKNOWN_WORD

WATCHED = 100
"""Where nothing is held out, so many training utterances stand in for validation."""


def corpus_options(corpus: Corpus, settings: DataSettings) -> dict[str, object]:
    """Return the options of the corpus as the recipe sets them.

    Raises:
        DataError: the recipe sets an option this corpus does not have.
    """
    defaults = DataSettings()
    for name in ("words", "unknown", "silence", "held_out_speaker"):
        if getattr(settings, name) != getattr(defaults, name) and name not in corpus.options:
            raise DataError(f"data.{name}: corpus {corpus.name} has no such option; leave it out")
    return {name: getattr(settings, name) for name in corpus.options}


def load_split(settings: DataSettings, split: str, seed: int) -> list[Utterance]:
    """List one split as the recipe has it: train and validation as training sees
    them, test as the recipe names it.

    Raises:
        DataError: the corpus or the split is not there.
        UsageError: the corpus has no such split.
    """
    if settings.corpus == shards.CORPUS.name:
        return _unpacked_split(settings, split)
    if split in ("train", settings.train_split):
        return training_splits(settings, seed)[0]
    if split in ("validation", settings.validation_split):
        return own_splits(settings, seed)[1]
    corpus = choose(CORPORA, settings.corpus, "data.corpus")
    split = settings.test_split if split == "test" else split
    return corpus.utterances(split, root=settings.root, **corpus_options(corpus, settings))


def _unpacked_split(settings: DataSettings, split: str) -> list[Utterance]:
    """List a split of shards; that of training is streamed instead."""
    names = {
        "train": settings.train_split,
        "validation": settings.validation_split,
        "test": settings.test_split,
    }
    name = names.get(split, split)
    if name == settings.train_split:
        raise DataError(f"split {name!r}: is streamed from shards, not listed; choose another")
    return shards.list_split(shards.CORPUS.locate(settings.root), name)


def training_splits(settings: DataSettings, seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """List the training and the validation utterances; training hears other corpora, too.

    Raises:
        UsageError: an unknown corpus.
        DataError: a corpus or a split is not there, or holds too little to take a part out of.
    """
    own, held = own_splits(settings, seed)
    train = first_of_each_text(own, settings.clips_per_class, seed)
    train = train + same_words(train, settings)
    if settings.unknown_words:
        train = with_unknown_words(train, own, settings, seed)
    return train + other_speech(train, settings, seed), held


def own_splits(settings: DataSettings, seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """List the training and the validation utterances of the recipe's own corpus.

    Raises:
        DataError: the corpus or a split is not there, or holds too little to take a part out of.
    """
    corpus = choose(CORPORA, settings.corpus, "data.corpus")
    options = corpus_options(corpus, settings)
    found = corpus.read(corpus.locate(settings.root), **options)
    if without := _without(settings):
        found = [u for u in found if without.isdisjoint(_words(_said_in(u)))]
    train = [u for u in found if u.split == settings.train_split]
    if not train:
        raise DataError(f"data.train_split: {corpus.name} has no {settings.train_split!r} here")
    held = [u for u in found if u.split == settings.validation_split]
    return _parted(train, held, corpus, settings, seed)


def _parted(
    train: list[Utterance],
    held: list[Utterance],
    corpus: Corpus,
    settings: DataSettings,
    seed: int,
) -> tuple[list[Utterance], list[Utterance]]:
    """Return the two splits, the second taken out of the first where there is none."""
    if held and not settings.validation_speakers:
        return train, held
    if settings.validation_split in corpus.splits and not settings.validation_speakers:
        raise DataError(
            f"{corpus.name}: split {settings.validation_split!r} is not here; add it, or set "
            f"data.validation_split to '' to take it out of the training split"
        )
    return hold_out(train, settings, seed)


def hold_out(
    utterances: Sequence[Utterance], settings: DataSettings, seed: int
) -> tuple[list[Utterance], list[Utterance]]:
    """Take a validation part out of the training utterances: whole speakers, or a fraction.

    The choice is a hash of the seed and the name, so it is the same on every machine. With neither,
    all is trained on, and some of it stands in for validation: a final run.
    """
    if settings.validation_speakers:
        names = {u.speaker for u in utterances if u.speaker}
        speakers = sorted(names, key=lambda name: _rank(name, seed))
        if len(speakers) <= settings.validation_speakers:
            raise DataError(
                f"data.validation_speakers: {settings.validation_speakers} of "
                f"{len(speakers)} speakers leaves none to train on; lower it"
            )
        chosen = set(speakers[: settings.validation_speakers])
        held = [u for u in utterances if u.speaker in chosen]
    else:
        ranked = sorted(utterances, key=lambda u: _rank(u.key, seed))
        if not settings.validation_fraction:
            return list(utterances), ranked[:WATCHED]
        held = ranked[: round(settings.validation_fraction * len(ranked))]
    if not held:
        raise DataError("data.validation_fraction: holds out no utterance; raise it")
    taken = {id(utterance) for utterance in held}
    return [u for u in utterances if id(u) not in taken], held


def first_of_each_text(utterances: Sequence[Utterance], most: int, seed: int) -> list[Utterance]:
    """Take at most so many utterances of each text; of fewer, the same ones and no others.

    Which ones is a hash of the seed and the name. 0 takes all.
    """
    if not most:
        return list(utterances)
    taken: Counter[str] = Counter()
    chosen = set()
    for utterance in sorted(utterances, key=lambda u: _rank(u.key, seed)):
        if taken[utterance.text] < most:
            taken[utterance.text] += 1
            chosen.add(id(utterance))
    return [u for u in utterances if id(u) in chosen]


def same_words(utterances: Sequence[Utterance], settings: DataSettings) -> list[Utterance]:
    """List what other corpora have, for training, in the words of `utterances`.

    Of classes, the whole text is the word. None is longer than the longest of `utterances`.

    Raises:
        UsageError: an unknown corpus.
        DataError: a corpus is not here.
    """

    def words(text: str) -> list[str]:
        return [text] if settings.tokens == "classes" else text.split()

    if not settings.same_words:
        return []
    known = {word for u in utterances for word in words(u.text)}
    longest = max(u.duration for u in utterances)
    there = {u.stretch for u in utterances}
    return [
        u
        for name in settings.same_words
        for u in _training_speech(name, "data.same_words")
        if known.issuperset(words(u.text)) and u.duration <= longest and u.stretch not in there
    ]


def with_unknown_words(
    utterances: Sequence[Utterance], own: Sequence[Utterance], settings: DataSettings, seed: int
) -> list[Utterance]:
    """Add the clips of `settings.unknown_words`, whose words are labels apart from `UNKNOWN`.

    Those in words that are classes, in any case, are of these. Clips that are there as `UNKNOWN`
    get their word, and no other one of one's `own` comes in by this way.

    Raises:
        UsageError: an unknown corpus.
        DataError: a corpus or a manifest is not here.
    """
    known = {u.text.casefold(): u.text for u in utterances}
    without = _without(settings)
    labels = {
        u.stretch: replace(u, text=known.get(u.text.casefold(), UNKNOWN_WORD + u.text))
        for name in settings.unknown_words
        for u in _training_speech(name, "data.unknown_words")
        if without.isdisjoint(_words(u.text))
    }
    train = [
        labels.get(u.stretch, u) if u.text == UNKNOWN and u.audio_filepath else u
        for u in utterances
    ]
    there = {u.stretch for u in (*own, *utterances)}
    new = [u for stretch, u in labels.items() if stretch not in there]
    return train + first_of_each_text(new, settings.clips_per_class, seed)


def other_speech(
    utterances: Sequence[Utterance], settings: DataSettings, seed: int
) -> list[Utterance]:
    """List speech of other corpora, to be recognised as none of the words of `utterances`.

    It comes from their training splits, without utterances that hold one of those words, one of
    `without_words` or are there already, evenly over the corpora, and none longer than the longest
    of `utterances`: a stretch is cut out.

    Raises:
        UsageError: an unknown corpus.
        DataError: a corpus is not here.
    """
    if not settings.others:
        return []
    known = {u.text for u in utterances if not u.text.startswith(UNKNOWN_WORD)}
    words = {word for text in known for word in _words(text)}
    words |= _without(settings)
    there = {u.stretch for u in utterances}
    longest = max(u.duration for u in utterances)
    share = settings.others_share
    wanted = round(share / (1 - share) * len(utterances) / len(settings.others))
    found = []
    for name in settings.others:
        speech = [
            u
            for u in _training_speech(name, "data.others")
            if words.isdisjoint(_words(u.text)) and u.stretch not in there
        ]
        speech = sorted(speech, key=lambda u: _rank(u.key, seed))[:wanted]
        found += [_unknown_stretch(u, longest, seed) for u in speech]
    return found


def _words(text: str) -> set[str]:
    """Return a text's words, whatever their case and the marks around them."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return {_bare(word) for word in words}


def _bare(word: str) -> str:
    """Return a word without the punctuation and symbols at its ends, unless it is nothing else."""
    said = [n for n, mark in enumerate(word) if unicodedata.category(mark)[0] not in "PS"]
    return word[said[0] : said[-1] + 1] if said else word


def _without(settings: DataSettings) -> set[str]:
    """Return the words that no training clip may hold."""
    return {word for text in settings.without_words for word in _words(text)}


def _said_in(utterance: Utterance) -> str:
    """Return what is said in a clip: of an unknown one, the word its folder is called by."""
    path = Path(utterance.audio_filepath)
    return path.parent.name if utterance.text == UNKNOWN else utterance.text


def _training_speech(name: str, setting: str) -> list[Utterance]:
    """List the training speech that a setting names: a corpus in its usual place, a manifest."""
    if name.endswith(MANIFEST):
        speech = [replace(u, split=u.split or "train") for u in measured(read_manifest(name))]
    else:
        corpus = choose(CORPORA, name, setting)
        if not corpus.folder:
            raise UsageError(f"{setting}: {name} needs a place; name a public corpus or a manifest")
        speech = corpus.read(corpus.locate())
    speech = [u for u in speech if u.split.startswith("train") and u.text not in NO_TEXT]
    if not speech:
        raise DataError(f"{setting}: {name} holds no training speech; check its splits")
    return speech


def _unknown_stretch(utterance: Utterance, longest: float, seed: int) -> Utterance:
    """Return an utterance, or a stretch of it where it is too long, as unknown speech."""
    room = max(utterance.duration - longest, 0.0)
    chance = int(_rank(utterance.key, seed)[:8], 16) / 16**8
    return replace(
        utterance,
        text=UNKNOWN,
        duration=min(utterance.duration, longest),
        offset=math.floor((utterance.offset + chance * room) * 1000) / 1000,
    )


def _rank(name: str, seed: int) -> str:
    return rank_of(f"{seed}:{name}")
