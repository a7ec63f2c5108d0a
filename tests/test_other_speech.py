"""Speech of other corpora in training: how much of it, which, and what of it is known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from layouts import make_layout
from test_splits import words

from speechseq.corpora import CORPORA
from speechseq.errors import DataError, SpeechseqError, UsageError
from speechseq.manifest import CORPORA_VARIABLE, Utterance, read_utterance, write_manifest
from speechseq.recipe import DataSettings
from speechseq.splits import (
    _words,
    load_split,
    other_speech,
    same_words,
    training_splits,
    with_unknown_words,
)
from speechseq.tokens import UNKNOWN

OTHERS = {"mini_librispeech": 3, "librispeech": 9, "speech_commands": 24}
"""Utterances in their training splits: "the cat's yes" in 1.5 s, or single words in 1 s."""


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of corpora that stand where they are looked for."""
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path))
    for name in (*OTHERS, "synthetic_words"):
        make_layout(name, tmp_path)
    return tmp_path


def others(*names: str, share: float = 0.5) -> DataSettings:
    return DataSettings(others=names, others_share=share)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 4), (0.5, 16), (0.9, 24)])
def test_other_speech_makes_its_share_where_there_is_enough(
    around: Path, share: float, count: int
) -> None:
    found = other_speech(words(16), others("speech_commands", share=share), 0)
    assert len(found) == len({u.key for u in found}) == count
    assert all(u.text == UNKNOWN for u in found)
    if count < 24:
        assert count / (count + 16) == pytest.approx(share, abs=0.02)


def test_other_speech_comes_evenly_from_training_splits(around: Path) -> None:
    found = other_speech(words(18), others(*OTHERS, share=0.25), 0)
    at = Counter(Path(u.audio_filepath).relative_to(around).parts[0] for u in found)
    assert at == {"mini_librispeech": 2, "LibriSpeech": 2, "speech_commands_v0.02": 2}
    assert {u.split for u in found} <= {
        "train", "train-clean-5", "train-clean-100", "train-clean-360", "train-other-500"
    }  # fmt: skip
    everything = other_speech(words(200), others(*OTHERS), 0)
    assert len(everything) == sum(OTHERS.values())


def test_other_speech_holds_none_of_ones_own_words(around: Path) -> None:
    own = [*words(50), *words(50, "Bed YES")]
    found = other_speech(own, others(*OTHERS), 0)
    assert {Path(u.audio_filepath).parent.name for u in found} == {"no", "cat"}
    assert len(found) == 12


def test_words_apart_are_none_of_ones_own(around: Path) -> None:
    own = [*words(9, "yes"), *words(9, "_unknown_:bed")]
    found = other_speech(own, others("speech_commands", share=0.9), 0)
    assert {Path(u.audio_filepath).parent.name for u in found} == {"no", "bed", "cat"}


def test_other_speech_leaves_out_words_that_are_to_be_new(around: Path) -> None:
    settings = dataclasses.replace(others("speech_commands"), without_words=("Bed", "cat"))
    found = other_speech(words(50), settings, 0)
    assert {Path(u.audio_filepath).parent.name for u in found} == {"yes", "no"}


def test_other_speech_comes_out_of_a_manifest_and_not_twice(around: Path) -> None:
    listed = CORPORA["speech_commands"].utterances("train")
    validation = [dataclasses.replace(u, split="validation", offset=0.1) for u in listed]
    write_manifest(around / "words.jsonl", [*listed, *validation])
    own = [*words(50), *(dataclasses.replace(u, text=UNKNOWN) for u in listed[:4])]
    found = other_speech(own, others(str(around / "words.jsonl")), 0)
    assert {u.key for u in found} == {u.key for u in listed[4:]}
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        other_speech(own, others(str(around / "missing.jsonl")), 0)


def test_manifests_train_on_training_speech_alone_cut_to_length(around: Path) -> None:
    """As corpora do: their own split names, no labels of no words, durations looked up."""
    (clip,) = CORPORA["librispeech"].utterances("train-clean-100")[:1]
    rows = [
        dataclasses.replace(clip, duration=0.0, split="train-clean-5", text="a b"),
        Utterance("", 1.0, "_silence_", split="train"),
    ]
    write_manifest(around / "words.jsonl", rows)
    (found,) = other_speech(words(9, seconds=0.5), others(str(around / "words.jsonl")), 0)
    assert found.duration == 0.5
    write_manifest(around / "words.jsonl", rows[1:])
    with pytest.raises(DataError, match=r"words\.jsonl holds no training speech; check its splits"):
        other_speech(words(9), others(str(around / "words.jsonl")), 0)


def test_files_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    def clips(folder: str, text: str) -> list[Utterance]:
        names = [str(tmp_path / folder / "wavs" / f"{n}.wav") for n in range(5)]
        return [Utterance(name, 0.5, text, split="train") for name in names]

    path = str(tmp_path / "words.jsonl")
    write_manifest(path, [*clips("a", "cat"), *clips("b", "dog")])
    own = clips("own", "yes")
    settings = dataclasses.replace(others(path, share=0.9), unknown_words=(path,))
    texts = Counter(u.text for u in with_unknown_words(own, own, settings, 0))
    assert texts == {"yes": 5, "_unknown_:cat": 5, "_unknown_:dog": 5}
    assert len(other_speech(own, settings, 0)) == 10
    # What is one's own comes in by no other way.
    write_manifest(path, [*own, *clips("c", "YES")])
    assert len(with_unknown_words(own[:2], own, settings, 0)) == 7
    assert {u.text for u in with_unknown_words(own, own, settings, 0)} == {"yes"}
    assert len(same_words(own, dataclasses.replace(settings, same_words=(path,)))) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Yes, please.", {"yes", "please"}),
        ("हाँ मैं", {"हाँ", "मैं"}),
        ("don’t STOP!", {"don’t", "stop"}),
        ("cafe\u0301", {"café"}),
        ("+ -", {"+", "-"}),
        ("", set()),
    ],
)
def test_words_of_a_text(text: str, found: set[str]) -> None:
    assert _words(text) == found


def test_words_never_to_be_heard_are_in_no_training(around: Path) -> None:
    """Neither as classes nor as unknown ones of the corpus itself."""
    settings = DataSettings(corpus="speech_commands", without_words=("bed",), tokens="classes")
    for more in ({}, {"words": ("yes",), "unknown": True}):
        for part in training_splits(dataclasses.replace(settings, **more), 0):
            assert "bed" not in {Path(u.audio_filepath).parent.name for u in part}
            assert {"yes"} < {Path(u.audio_filepath).parent.name for u in part}


def test_unknown_words_are_learnt_by_themselves(around: Path) -> None:
    settings = DataSettings(
        corpus="speech_commands",
        words=("yes",),
        unknown=True,
        tokens="classes",
        unknown_words=("speech_commands", "synthetic_words"),
    )
    train, held = training_splits(settings, 0)
    texts = Counter(u.text for u in train)
    assert set(texts) == {"yes", *(f"_unknown_:{word}" for word in ("no", "bed", "cat"))} | {
        text for text in texts if text.startswith("_unknown_:")
    }
    assert len({u.key for u in train}) == len(train)
    spoken = {u.text for u in CORPORA["synthetic_words"].utterances("train")}
    assert all(f"_unknown_:{word}" in texts for word in spoken - {"yes"})
    few = training_splits(dataclasses.replace(settings, clips_per_class=2), 0)[0]
    assert max(Counter(u.text for u in few).values()) <= 4, "two of one's own, two others"
    plain = training_splits(dataclasses.replace(settings, unknown_words=()), 0)
    assert held == plain[1]
    assert {UNKNOWN, "yes"} == {u.text for u in plain[0]}


def test_words_are_the_same_in_any_case(around: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = CORPORA["speech_commands"]

    def loud(place: Path) -> list[Utterance]:
        return [dataclasses.replace(u, text=u.text.upper()) for u in commands.read(place)]

    monkeypatch.setitem(CORPORA, "loud", dataclasses.replace(commands, read=loud))
    found = other_speech(words(50, "bed no cat"), others("loud"), 0)
    assert {Path(u.audio_filepath).parent.name for u in found} == {"yes"}


@pytest.mark.parametrize("seconds", [0.3, 1.2, 2.0])
def test_other_speech_is_cut_to_the_longest_of_ones_own(around: Path, seconds: float) -> None:
    own = [*words(99, seconds=0.2), *words(1, "two", seconds=seconds)]
    found = other_speech(own, others("librispeech", "speech_commands"), 0)
    assert len(found) == 33
    for utterance in found:
        whole = 1.0 if "speech_commands" in utterance.audio_filepath else 1.5
        assert utterance.duration == min(whole, seconds)
        assert 0 <= utterance.offset <= whole - utterance.duration + 1e-9
    assert len(read_utterance(found[0], 8000)) == round(found[0].duration * 8000)
    starts = {u.offset for u in found if u.duration == seconds}
    assert len(starts) > 5 or seconds == 2.0, "stretches begin anywhere"


def test_same_words_are_learnt_from_under_their_own_text(around: Path) -> None:
    settings = DataSettings(same_words=("synthetic_words", "librispeech"))
    own = [*words(4, "yes", 1.0), *words(4, "the cat's yes", 1.0), *words(4, "no", 1.0)]
    found = same_words(own, settings)
    assert [u.text for u in found] == ["yes"] * 3, "librispeech's are longer"
    assert {Path(u.audio_filepath).parent.name for u in found} == {"yes"}
    longer = same_words([*own, *words(1, "no", 1.5)], settings)
    assert Counter(u.text for u in longer) == {"yes": 3, "the cat's yes": 9}
    assert same_words(own, DataSettings()) == []


@pytest.mark.parametrize(("tokens", "found"), [("characters", 9), ("classes", 0)])
def test_sentences_in_known_words_are_learnt_from_where_texts_are_spelt(
    around: Path, tokens: str, found: int
) -> None:
    settings = DataSettings(tokens=tokens, same_words=("librispeech",))
    own = [*words(2, "yes the", 1.5), *words(2, "cat's", 1.5)]
    assert [u.text for u in same_words(own, settings)] == ["the cat's yes"] * found
    assert same_words(own[:2], settings) == [], "a word is not known"


def test_same_words_join_training_alone(around: Path) -> None:
    settings = DataSettings(corpus="speech_commands", words=("yes", "no"))
    plain, held = training_splits(settings, 0)
    more, same = training_splits(dataclasses.replace(settings, same_words=("synthetic_words",)), 0)
    assert same == held
    assert [u.text for u in more if u not in plain] == ["yes"] * 3 and len(more) == len(plain) + 3


def test_validation_needs_no_other_corpus(around: Path) -> None:
    settings = DataSettings(
        corpus="speech_commands", words=("yes", "no"), same_words=("an4",), others=("an4",)
    )
    with pytest.raises(DataError, match="an4: not found"):
        load_split(settings, "train", 0)
    held = load_split(settings, "validation", 0)
    assert held == training_splits(dataclasses.replace(settings, same_words=(), others=()), 0)[1]


def test_other_speech_follows_from_the_seed(around: Path) -> None:
    one, again, other = (other_speech(words(9), others(*OTHERS), seed) for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("an5", UsageError, "unknown others 'an5'; did you mean 'an4'"),
        (
            "jsonl",
            UsageError,
            "data.others: jsonl needs a place; name a public corpus or a manifest",
        ),
        ("an4", DataError, "an4: not found at .*data download an4"),
    ],
)
def test_other_corpora_that_cannot_be_had_are_named(
    around: Path, name: str, kind: type[SpeechseqError], says: str
) -> None:
    with pytest.raises(kind, match=says) as error:
        other_speech(words(9), others("speech_commands", name), 0)
    assert "\n" not in str(error.value)


def test_other_speech_is_for_training_alone(around: Path, tmp_path: Path) -> None:
    place = str(make_layout("fsdd", tmp_path / "own"))
    settings = DataSettings(corpus="fsdd", root=place, validation_fraction=0.25)
    with_others = dataclasses.replace(settings, others=("speech_commands",), others_share=0.25)
    own, held = training_splits(settings, 0)
    train, same = training_splits(with_others, 0)
    assert train[: len(own)] == own and same == held
    assert {u.text for u in train[len(own) :]} == {UNKNOWN}
    assert len(train) - len(own) == round(len(own) / 3)
    assert UNKNOWN not in {u.text for u in load_split(with_others, "test", 0)}
