"""Which of one's own clips are held out: whole speakers, or a share of every text."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import combinations

import pytest

from speechseq.corpora.folder import SPLITS
from speechseq.errors import DataError
from speechseq.held_out import HELD_SHARE, split
from speechseq.manifest import (
    Utterance,
    shared_audio,
    shared_speakers,
)


def utterances(count: int, *, speakers: int = 0, texts: int = 4, seconds: float = 1.0):
    """Utterances of so many texts and speakers, in turns."""
    return [
        Utterance(
            f"clips/{n}.wav",
            seconds,
            f"text{n % texts}",
            f"s{n // texts % speakers}" if speakers else "",
            split="train",
        )
        for n in range(count)
    ]


def parts(found: list[Utterance]) -> dict[str, list[Utterance]]:
    return {name: [u for u in found if u.split == name] for name in SPLITS}


@pytest.mark.parametrize("speakers", [4, 9, 40])
def test_known_speakers_are_heard_in_one_split_only(speakers: int) -> None:
    found, how = split(utterances(800, speakers=speakers))
    by_split = parts(found)
    assert "by speakers" in how
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not shared_speakers(by_split[one], by_split[other])
    assert all(by_split.values())
    assert len(by_split["train"]) >= 400
    assert len(found) == 800


def test_without_speakers_every_text_gives_its_share() -> None:
    found, how = split(utterances(400, texts=4))
    assert "evenly" in how
    for name in ("validation", "test"):
        counts = Counter(u.text for u in parts(found)[name])
        assert set(counts.values()) == {round(HELD_SHARE * 100)}


@pytest.mark.parametrize("speakers", [0, 6])
@pytest.mark.parametrize("rare", range(0, 200, 10))
@pytest.mark.parametrize("classes", [True, False])
def test_nothing_is_held_out_without_which_training_lacks_a_unit(
    classes: bool, rare: int, speakers: int
) -> None:
    texts = [chr(ord("a") + n % 20) if classes else f"{n % 20} of {n}" for n in range(200)]
    texts[rare] = "quiz"
    clips = [
        Utterance(
            f"{n}.wav",
            1.0 if classes else 5.0,
            text,
            f"s{n % speakers}" if speakers else "",
            split="train",
        )
        for n, text in enumerate(texts)
    ]
    by_split = parts(split(clips)[0])
    held = [u.text for name in ("validation", "test") for u in by_split[name]]
    left = [u.text for u in by_split["train"]]
    assert held
    if classes:
        assert set(held) <= set(left)
    else:
        assert set("".join(held)) <= set("".join(left))


def test_a_few_clips_without_a_speaker_do_not_undo_the_rest() -> None:
    clips = utterances(400, speakers=10)
    noise = [Utterance(f"noise/{n}.wav", 1.0, "text0", "", split="train") for n in range(20)]
    assert "by speakers" in split(clips + noise)[1]
    assert "evenly" in split(clips + noise * 5)[1]


def test_little_data_is_not_split_three_ways() -> None:
    found, _ = split(utterances(60))
    assert not parts(found)["test"]
    assert parts(found)["validation"]


def test_splits_of_the_data_are_kept() -> None:
    clips = [
        Utterance(f"{n}.wav", 1.0, "a", split=name)
        for n, name in enumerate(["train"] * 5 + ["dev"] * 3 + ["test"] * 2)
    ]
    found, how = split(clips)
    assert "as the data has them" in how
    assert [u.split for u in found] == ["train"] * 5 + ["validation"] * 3 + ["test"] * 2


def test_only_validation_is_made_where_a_test_split_is_there() -> None:
    test = [Utterance(f"t{n}.wav", 1.0, "text0", split="test") for n in range(9)]
    found, _ = split(utterances(400) + test)
    assert {u.audio_filepath for u in parts(found)["test"]} == {u.audio_filepath for u in test}
    assert parts(found)["validation"]


@pytest.mark.parametrize("speakers", [0, 20])
def test_splits_do_not_hang_on_the_order(speakers: int) -> None:
    clips = utterances(400, speakers=speakers)
    one, other = (
        {u.audio_filepath: u.split for u in split(order)[0]} for order in (clips, clips[::-1])
    )
    assert one == other


def test_clips_added_to_a_proposal_are_to_learn_from() -> None:
    before, _ = split(utterances(400))
    added = [Utterance(f"new/{n}.wav", 1.0, "text0") for n in range(50)]
    found, how = split([*before, *added])
    assert how == "as the data has them"
    assert found[:400] == before
    assert {u.split for u in found[400:]} == {"train"}


@pytest.mark.parametrize(
    "names", [("Train", "Dev", "Test"), ("training", "valid", "eval"), ("", " val ", "TESTING")]
)
def test_splits_by_other_names_are_known(names: tuple[str, str, str]) -> None:
    found, _ = split([Utterance(f"{n}.wav", 1.0, "a", split=s) for n, s in enumerate(names)])
    assert tuple(u.split for u in found) == SPLITS


def test_a_split_of_another_name_is_refused() -> None:
    clips = utterances(60)
    with pytest.raises(DataError, match=r"0\.wav: split 'held out'; name it train, "):
        split([dataclasses.replace(clips[0], split="held out"), *clips[1:]])


def test_speakers_with_words_of_their_own_are_parted_by_texts() -> None:
    alone = [dataclasses.replace(u, speaker=u.text) for u in utterances(800, speakers=1, texts=8)]
    found, how = split(alone)
    assert how == "evenly over the texts; each speaker has texts alone"
    assert all(parts(found).values())


def test_what_the_data_parts_itself_is_not_called_parted() -> None:
    train = utterances(800, speakers=8)
    test = [dataclasses.replace(u, split="test") for u in utterances(80, speakers=8)]
    assert split([*train, *test])[1] == "by speakers"


def test_splits_may_have_the_names_of_public_corpora() -> None:
    names = ["train-clean-5", "dev-clean-2", "test-other"]
    found, _ = split([Utterance(f"{name}.wav", 1.0, "a b", split=name) for name in names])
    assert tuple(u.split for u in found) == SPLITS


@pytest.mark.parametrize("speakers", [0, 8])
def test_stretches_that_overlap_are_in_one_split(speakers: int) -> None:
    clips = [
        dataclasses.replace(
            u,
            offset=begin,
            duration=seconds,
            # Where they are known, two speak in turns, and now and then at once.
            speaker=f"s{int(u.speaker[1:]) ^ turn % 2}" if u.speaker else "",
        )
        for u in utterances(200, speakers=speakers)
        for turn, (begin, seconds) in enumerate(((0.0, 0.5), (0.0, 0.499), (0.4, 0.3), (0.7, 0.3)))
    ]
    by_split = parts(split(clips)[0])
    assert all(by_split.values())
    for one, other in combinations(SPLITS, 2):
        assert not shared_audio(by_split[one], by_split[other])
    assert sum(len(part) for part in by_split.values()) == len(clips)


@pytest.mark.parametrize("names", [("test",), ("validation",), ("dev", "eval")])
def test_data_without_anything_to_learn_from_is_refused(names: tuple[str, ...]) -> None:
    clips = [
        dataclasses.replace(u, split=names[n % len(names)]) for n, u in enumerate(utterances(60))
    ]
    with pytest.raises(DataError, match=r"nothing is of split train, all is of (test|validation)"):
        split(clips)
