"""Splits: the same choice everywhere, whole speakers, and no split missing in silence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import make_layout

from speechseq.corpora import CORPORA
from speechseq.errors import DataError, SpeechseqError, UsageError
from speechseq.manifest import Utterance, read_manifest, write_manifest
from speechseq.recipe import DataSettings
from speechseq.splits import (
    WATCHED,
    corpus_options,
    first_of_each_text,
    hold_out,
    load_split,
    training_splits,
)

FRACTION = DataSettings(validation_fraction=0.25)


def some(count: int, speakers: int = 5, folder: str = "a") -> list[Utterance]:
    return [
        Utterance(f"/{folder}/clips/{n}.wav", 1.0, "x", f"s{n % speakers}" if speakers else "")
        for n in range(count)
    ]


@given(st.integers(2, 80), st.integers(1, 90), st.integers(0, 99))
def test_a_fraction_parts_the_list_in_two(count: int, percent: int, seed: int) -> None:
    fraction = percent / 100
    settings = DataSettings(validation_fraction=fraction)
    everything = some(count)
    if not round(fraction * count):
        with pytest.raises(DataError, match=r"validation_fraction: holds out no utterance"):
            hold_out(everything, settings, seed)
        return
    train, held = hold_out(everything, settings, seed)
    assert len(held) == round(fraction * count)
    assert sorted(u.key for u in [*train, *held]) == sorted(u.key for u in everything)
    assert train == [u for u in everything if u in train], "the order is kept"
    assert hold_out(everything, settings, seed) == (train, held)


def test_a_final_run_trains_on_all_and_watches_some_of_it() -> None:
    train, watched = hold_out(some(240), DataSettings(validation_fraction=0), 0)
    assert train == some(240) and len(watched) == WATCHED
    assert all(utterance in train for utterance in watched)


def test_the_choice_depends_on_the_seed_and_not_on_place_or_order() -> None:
    keys = [u.key for u in hold_out(some(40), FRACTION, 0)[1]]
    assert keys != [u.key for u in hold_out(some(40), FRACTION, 1)[1]]
    assert keys == [u.key for u in hold_out(some(40, folder="elsewhere"), FRACTION, 0)[1]]
    assert keys == [u.key for u in hold_out(some(40)[::-1], FRACTION, 0)[1]]


def test_the_choice_never_changes_between_versions() -> None:
    """Frozen: a published score names its validation set by this."""
    assert [u.key for u in hold_out(some(8), FRACTION, 0)[1]] == FROZEN


FROZEN = ["clips/6@0.000", "clips/4@0.000"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_whole_speakers_are_held_out(count: int) -> None:
    settings = DataSettings(validation_speakers=count)
    train, held = hold_out(some(30), settings, 0)
    assert len({u.speaker for u in held}) == count
    assert not {u.speaker for u in held} & {u.speaker for u in train}
    assert len(train) + len(held) == 30


def test_an_unknown_speaker_stays_in_training() -> None:
    nameless = [dataclasses.replace(u, speaker="") for u in some(3, folder="b")]
    _, held = hold_out([*some(10), *nameless], DataSettings(validation_speakers=2), 0)
    assert all(u.speaker for u in held)


@pytest.mark.parametrize("speakers", [0, 3])
def test_too_few_speakers_are_refused(speakers: int) -> None:
    with pytest.raises(DataError, match=f"3 of {speakers} speakers leaves none to train on"):
        hold_out(some(12, speakers), DataSettings(validation_speakers=3), 0)


def test_options_not_of_the_corpus_are_refused() -> None:
    fsdd = CORPORA["fsdd"]
    assert corpus_options(fsdd, DataSettings(held_out_speaker="anna")) == {
        "held_out_speaker": "anna"
    }
    for name, value in (("words", ("yes",)), ("unknown", True), ("silence", True)):
        settings = dataclasses.replace(DataSettings(), **{name: value})
        with pytest.raises(DataError, match=rf"data.{name}: corpus fsdd has no such option"):
            corpus_options(fsdd, settings)
    with pytest.raises(DataError, match=r"data.held_out_speaker: corpus yesno"):
        corpus_options(CORPORA["yesno"], DataSettings(held_out_speaker="anna"))
    words = corpus_options(CORPORA["speech_commands"], DataSettings(words=("yes",), unknown=True))
    assert words == {"words": ("yes",), "unknown": True, "silence": False}


@pytest.fixture
def at(tmp_path: Path) -> Callable[..., DataSettings]:
    def settings(corpus: str, **more: object) -> DataSettings:
        return DataSettings(corpus=corpus, root=str(make_layout(corpus, tmp_path)), **more)

    return settings


def test_a_corpus_with_a_validation_split_keeps_it(at: Callable[..., DataSettings]) -> None:
    train, held = training_splits(at("arabic_speech_commands"), 0)
    assert {u.split for u in train} == {"train"}
    assert {u.split for u in held} == {"validation"}


def test_a_corpus_without_one_gets_a_part_of_train(at: Callable[..., DataSettings]) -> None:
    settings = at("fsdd", validation_fraction=0.5)
    train, held = training_splits(settings, 0)
    assert {u.split for u in [*train, *held]} == {"train"}
    assert len(held) == round(0.5 * (len(train) + len(held)))
    assert load_split(settings, "train", 0) == train
    assert load_split(settings, "validation", 0) == held
    test = load_split(settings, "test", 0)
    assert not {u.key for u in test} & {u.key for u in [*train, *held]}


def test_one_may_hold_out_speakers_though_there_is_a_split(
    at: Callable[..., DataSettings],
) -> None:
    train, held = training_splits(at("arabic_speech_commands", validation_speakers=1), 0)
    assert {u.split for u in [*train, *held]} == {"train"}
    assert len({u.speaker for u in held}) == 1


def write_without(tmp_path: Path, split: str) -> DataSettings:
    place = make_layout("jsonl", tmp_path)
    (place / f"{split}.jsonl").unlink()
    return DataSettings(corpus="jsonl", root=str(place))


def test_a_missing_training_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.train_split: jsonl has no 'train' here"):
        training_splits(write_without(tmp_path, "train"), 0)


def test_ones_own_data_need_no_validation_split(tmp_path: Path) -> None:
    settings = dataclasses.replace(write_without(tmp_path, "validation"), validation_fraction=0.5)
    train, held = training_splits(settings, 0)
    assert (len(train), len(held)) == (2, 2)


def test_a_missing_validation_list_is_not_replaced_in_silence(
    at: Callable[..., DataSettings],
) -> None:
    settings = at("arabic_speech_commands")
    (Path(settings.root) / "val.csv").unlink()
    with pytest.raises(DataError, match=r"split 'validation' is not here; add it, or set data"):
        training_splits(settings, 0)
    own = dataclasses.replace(settings, validation_split="", validation_fraction=0.25)
    train, held = training_splits(own, 0)
    assert (len(train), len(held)) == (9, 3)


def test_a_missing_test_split_is_named(tmp_path: Path) -> None:
    settings = write_without(tmp_path, "test")
    with pytest.raises(
        DataError,
        match=r"jsonl: split 'test' is not in .* holds train, validation; it must be added",
    ):
        load_split(settings, "test", 0)


def test_unknown_names_are_answered(at: Callable[..., DataSettings]) -> None:
    with pytest.raises(UsageError, match=r"fsdd: no split 'dev'; it has train, test"):
        load_split(at("fsdd"), "dev", 0)
    with pytest.raises(UsageError, match=r"unknown corpus 'fsd'; did you mean 'fsdd'"):
        training_splits(DataSettings(corpus="fsd"), 0)
    with pytest.raises(SpeechseqError, match=r"jsonl: needs the place of your data"):
        training_splits(DataSettings(corpus="jsonl"), 0)


def test_a_manifest_without_validation_gives_a_part(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    write_manifest(path, [dataclasses.replace(u, split="train") for u in some(20)])
    settings = DataSettings(
        corpus="jsonl", root=str(path), validation_split="", validation_fraction=0.2
    )
    train, held = training_splits(settings, 0)
    assert (len(train), len(held)) == (16, 4)
    assert len(read_manifest(path)) == 20


def spoken(count: int) -> list[Utterance]:
    """Three texts; of "c" there are but two clips."""
    texts = ["a", "b"] * count
    texts[3:3] = ["c", "c"]
    return [Utterance(f"/x/clips/{n}.wav", 1.0, text) for n, text in enumerate(texts)]


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 9))
def test_few_of_each_text_are_among_more(count: int, most: int, seed: int) -> None:
    everything = spoken(count + 2)
    few, more = (first_of_each_text(everything, n, seed) for n in (most, most + 1))
    assert Counter(u.text for u in few) == {
        "a": min(most, count + 2), "b": min(most, count + 2), "c": min(most, 2)
    }  # fmt: skip
    assert {u.key for u in few} <= {u.key for u in more}
    assert few == [u for u in everything if u in few], "the order is kept"
    turned = first_of_each_text(everything[::-1], most, seed)
    assert {u.key for u in turned} == {u.key for u in few}


def test_which_of_a_text_depends_on_the_seed() -> None:
    chosen = {tuple(u.key for u in first_of_each_text(spoken(20), 3, seed)) for seed in range(5)}
    assert len(chosen) == 5


def test_no_limit_takes_all() -> None:
    assert first_of_each_text(spoken(5), 0, 0) == spoken(5)


def test_training_takes_few_clips_of_each_text_and_validation_all(
    at: Callable[..., DataSettings],
) -> None:
    settings = at("arabic_speech_commands")
    train, held = training_splits(settings, 0)
    few, same = training_splits(dataclasses.replace(settings, clips_per_class=2), 0)
    assert Counter(u.text for u in few) == dict.fromkeys({u.text for u in train}, 2)
    assert len(train) == 12 and few == [u for u in train if u in few]
    assert same == held


def words(count: int, text: str = "seven", seconds: float = 0.7) -> list[Utterance]:
    return [Utterance(f"/own/{text}/{n}.wav", seconds, text, "me") for n in range(count)]
