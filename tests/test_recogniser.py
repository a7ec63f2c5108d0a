"""The recogniser, over networks that are written out: words, times, padding, errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recognised import CHARACTERS, CLASSES, RATE, WORDS, network, recipe, seen

from speechseq.errors import AudioError, UsageError
from speechseq.padding import pad
from speechseq.recipe import DecodingSettings, Recipe
from speechseq.recogniser import Recogniser, load
from speechseq.recognition import Recognition, Word
from speechseq.tokens import UNKNOWN, Vocabulary


def recognise(
    best: Sequence[int], vocabulary: Vocabulary, made: Recipe, seconds: float = 1.0
) -> Recognition:
    recogniser = Recogniser(network(best, len(vocabulary)), vocabulary, made)
    (found,) = recogniser.transcribe_batch([np.zeros(round(seconds * RATE), np.float32)])
    return found


def test_characters_between_spaces_are_words() -> None:
    found = recognise([0, 2, 2, 3, 0, 1, 0, 3, 0], CHARACTERS, recipe())
    assert found.text == "ab b"
    assert seen(found) == [("ab", 0.01, 0.04), ("b", 0.07, 0.08)]
    assert found.duration == 1.0
    assert found.confidence == pytest.approx(0.9)
    assert [word.confidence for word in found.words] == pytest.approx([0.9, 0.9])


def test_a_letter_told_long_after_the_others_makes_a_word_little_longer() -> None:
    late = recognise([2, *[0] * 30, 3, 2, 1, 3], CHARACTERS, recipe())
    assert seen(late) == [("aba", 0.0, 0.23), ("b", 0.34, 0.35)], "b 0.2 s behind a, not 0.3"
    soon = recognise([2, *[0] * 20, 3, 2, 1, 3], CHARACTERS, recipe())
    assert seen(soon) == [("aba", 0.0, 0.23), ("b", 0.24, 0.25)]


def test_spaces_at_the_ends_and_twice_make_no_words() -> None:
    found = recognise([1, 2, 1, 0, 1, 3, 1], CHARACTERS, recipe())
    assert found.text == "a b"
    assert [word.text for word in found.words] == ["a", "b"]


def test_each_token_is_a_word_where_tokens_are_words() -> None:
    found = recognise([1, 1, 0, 2, 0], WORDS, recipe(data={"tokens": "words"}))
    assert found.text == "left right"
    assert seen(found) == [("left", 0.0, 0.02), ("right", 0.03, 0.04)]


@pytest.mark.parametrize("vocabulary", [CHARACTERS, WORDS])
def test_silence_has_no_words(vocabulary: Vocabulary) -> None:
    found = recognise([0, 0, 0], vocabulary, recipe(data={"tokens": vocabulary.kind}))
    assert (found.text, found.words) == ("", ())


@pytest.mark.parametrize(("least", "text"), [(0.0, "ab b"), (0.8, "b"), (0.95, "")])
def test_words_that_are_not_sure_enough_are_left_out(least: float, text: str) -> None:
    """The first word's letters have probabilities of 0.9 and 0.5, the second's has 0.9."""
    best, sure = [2, 3, 1, 3, 0], [0.9, 0.5, 0.9, 0.9, 0.9]

    def unsure(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames = [network([t], 4, p)(samples, lengths)[0] for t, p in zip(best, sure, strict=True)]
        return np.concatenate(frames, axis=1), np.full(len(samples), len(best))

    recogniser = Recogniser(unsure, CHARACTERS, recipe()).decoding_with(least_confidence=least)
    found = recogniser.transcribe_batch([np.zeros(RATE, np.float32)])[0]
    assert found.text == text
    assert [word.text for word in found.words] == text.split()


@pytest.mark.parametrize("classes", [("Off", "On"), (UNKNOWN, "On")])
def test_a_class_that_is_not_sure_enough_is_unknown_or_none(classes: tuple[str, ...]) -> None:
    settings = recipe(data={"tokens": "classes"}, model={"head": "classify"})
    recogniser = Recogniser(network([1], 2, 0.7), Vocabulary("classes", classes), settings)
    clip = [np.zeros(RATE, np.float32)]
    assert recogniser.decoding_with(least_confidence=0.6).transcribe_batch(clip)[0].text == "On"
    unsure = recogniser.decoding_with(least_confidence=0.8).transcribe_batch(clip)[0]
    # One of two is as likely as the other is not; where neither is told, the best is as it was.
    known = UNKNOWN in classes
    assert unsure.confidence == pytest.approx(0.3 if known else 0.7)
    expected = [Word(UNKNOWN, 0.0, 1.0, unsure.confidence)] if known else []
    assert unsure.words == tuple(expected)
    assert unsure.text == " ".join(word.text for word in expected)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros(800, np.int16), "samples of int16; floats from -1 to 1 go here"),
        (np.full(800, np.nan, np.float32), "holds NaN or infinite samples"),
        (np.full(800, 2e4, np.float32), "a sample is 20000; scale them to -1 to 1"),
        (np.zeros((2, 800), np.float32), r"shape \(2, 800\); mono samples"),
    ],
)
def test_what_are_no_samples_is_refused(samples: np.ndarray, says: str) -> None:
    digits = load("digits")
    for hear in (
        digits.transcribe,
        lambda found: digits.transcribe_batch([found]),
        lambda found: list(digits.transcribe_blocks([found])),
        digits.stream().hear,
        load("commands-en").stream().hear,
    ):
        with pytest.raises(AudioError, match=says):
            hear(samples)


def test_a_list_of_files_is_refused_with_what_takes_it() -> None:
    with pytest.raises(AudioError, match=r"a list: one path.*several files go to transcribe_many"):
        load("digits").transcribe(["a.wav"])  # type: ignore[arg-type]


def test_a_class_is_one_word_as_long_as_the_clip() -> None:
    settings = recipe(data={"tokens": "classes"}, model={"head": "classify"})
    found = recognise([1], CLASSES, settings, seconds=0.7)
    assert found.text == "On"
    assert found.words == (Word("On", 0.0, 0.7, found.confidence),)
    assert found.confidence == pytest.approx(0.9)


def test_frames_of_a_front_end_are_longer() -> None:
    settings = recipe(model={"front_end": "conv", "time_stride": 4})
    recogniser = Recogniser(network([2], 4), CHARACTERS, settings)
    assert recogniser.frame_seconds == pytest.approx(0.04)
    assert seen(recognise([0, 2, 0], CHARACTERS, settings)) == [("a", 0.04, 0.08)]


def test_times_leave_out_the_silence_put_around() -> None:
    settings = recipe(features={"edge_seconds": 0.05})
    best = [0] * 12
    best[8] = 2
    assert seen(recognise(best, CHARACTERS, settings)) == [("a", 0.03, 0.04)]


def test_times_stay_inside_the_clip() -> None:
    settings = recipe(features={"edge_seconds": 0.05})
    found = recognise([2, *[0] * 6, 1, 3, 3, 3, 3], CHARACTERS, settings, seconds=0.05)
    assert seen(found) == [("a", 0.0, 0.0), ("b", 0.03, 0.05)]


def test_a_words_confidence_is_the_mean_of_its_tokens() -> None:
    probs = np.full((3, 4), 1e-3)
    probs[[0, 1, 2], [2, 3, 0]] = [0.9, 0.4, 0.8]

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.log(probs)[None], np.array([3])

    (found,) = Recogniser(run, CHARACTERS, recipe()).transcribe_batch([np.zeros(9)])
    assert found.words[0].confidence == pytest.approx((0.9 * 0.4) ** 0.5)


def test_an_unknown_decoder_is_named() -> None:
    made = dataclasses.replace(recipe(), decoding=DecodingSettings("greedyy"))
    with pytest.raises(UsageError, match=r"unknown decoder 'greedyy'; did you mean"):
        Recogniser(network([0], 4), CHARACTERS, made)


# ---- padding ----


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_padding_keeps_the_clips_and_fills_with_zeros(sizes: list[int]) -> None:
    clips = [np.full(size, number + 1.0, np.float32) for number, size in enumerate(sizes)]
    samples, lengths = pad(clips)
    assert samples.dtype == np.float32
    assert lengths.dtype == np.int64
    assert lengths.tolist() == sizes
    assert samples.shape == (len(sizes), max(sizes))
    for row, clip in zip(samples, clips, strict=True):
        np.testing.assert_array_equal(row[: len(clip)], clip)
        assert not row[len(clip) :].any()


@pytest.mark.parametrize("shape", [(0,), (2, 100), (1, 100), ()])
def test_clips_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    says = "holds no samples; give" if shape == (0,) else r"shape \(.*\); mono samples \(samples,\)"
    message = f"clip 1: {says}"
    recogniser = Recogniser(network([0], 4), CHARACTERS, recipe())
    for call in (pad, recogniser.transcribe_batch):
        with pytest.raises(AudioError, match=message):
            call([np.zeros(5, np.float32), np.zeros(shape, np.float32)])


def test_no_clips_give_no_recognitions() -> None:
    def never(*_: object):
        raise AssertionError

    assert Recogniser(never, CHARACTERS, recipe()).transcribe_batch([]) == []


def test_frames_beyond_an_utterance_are_not_decoded() -> None:
    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs, _ = network([2, 0, 3, 0], 4)(samples, lengths)
        return log_probs, np.array([1, 4])

    clips = [np.zeros(100, np.float32), np.zeros(400, np.float32)]
    found = Recogniser(run, CHARACTERS, recipe()).transcribe_batch(clips)
    assert [recognition.text for recognition in found] == ["a", "ab"]
