"""A classifier in a stream: what it spots, how often it says so, and what it passes over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conftest import tone
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.errors import AudioError
from speechseq.recipe import DecodingSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser, load
from speechseq.spotting import AGAIN_SECONDS, LOOK_SECONDS, Spotter
from speechseq.tokens import SILENCE, UNKNOWN, Vocabulary

RATE = 8000
LABELS = Vocabulary("classes", (SILENCE, UNKNOWN, "high", "low"))
HERTZ = (0.0, 2500.0, 1500.0, 500.0)
"""What each label sounds like."""


def settings_of(**decoding: float) -> Recipe:
    return recipe_from_dict(
        {
            "data": {"tokens": "classes"},
            "features": {"rate": RATE},
            "model": {"head": "classify"},
            "decoding": decoding,
        },
        "spotting",
    )


def classify(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Give each label the share of the clip's power that is near its frequency."""
    powers = np.abs(np.fft.rfft(np.stack(clips), axis=1)) ** 2
    width = powers.shape[1] // (RATE // 2) * 200
    bands = [powers[:, round(hz / RATE * 2 * powers.shape[1]) :][:, :width] for hz in HERTZ]
    found = np.stack([band.sum(axis=1) for band in bands], axis=1)
    return found / np.maximum(powers.sum(axis=1, keepdims=True), 1e-9)


def spotter(**decoding: float) -> Spotter:
    return Spotter(classify, LABELS, settings_of(**decoding))


def syllables(hertz: float, seconds: float) -> np.ndarray:
    """A tone that fades five times a second, as only what is not steady stands out."""
    sound = tone(hertz, seconds, RATE)
    return sound * (1.05 - np.arange(len(sound)) / (0.2 * RATE) % 1)


def sounds(*parts: tuple[str, float]) -> np.ndarray:
    """String labels' sounds together, each so many seconds, on faint noise; "" is a pause."""
    hertz = dict(zip(LABELS.tokens, HERTZ, strict=True))
    pieces = [
        syllables(hertz[label] + 50, seconds) if label else np.zeros(round(seconds * RATE))
        for label, seconds in parts
    ]
    whole = np.concatenate(pieces)
    noise = np.random.default_rng(0).standard_normal(len(whole))
    return (whole + 1e-4 * noise).astype(np.float32)


THREE = sounds(("", 1.5), ("high", 0.4), ("", 1.5), ("low", 0.4), ("", 0.4), ("high", 0.4), ("", 2))


def test_words_are_said_once_each_and_where_they_were() -> None:
    stream = spotter()
    assert stream.hear(THREE) == "high low high"
    assert stream.finish() == ""
    found = stream.sure
    assert found.text == "high low high" and found == stream.so_far()
    assert found.duration == stream.seconds == len(THREE) / RATE
    for word, begun in zip(found.words, (1.5, 3.4, 4.2), strict=True):
        assert word.start <= begun < begun + LOOK_SECONDS <= word.end
        assert DecodingSettings().spotting_confidence <= word.confidence <= 1
    assert stream.unsure() == ()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 30_000), max_size=12))
def test_blocks_change_nothing(sizes: list[int]) -> None:
    stream, said = spotter(), []
    for piece in np.split(THREE, np.cumsum(sizes)):
        said += stream.hear(piece).split()
    said += stream.finish().split()
    assert said == ["high", "low", "high"] == stream.sure.text.split()


def test_a_word_is_said_again_when_it_is_out_of_sight() -> None:
    gone = DecodingSettings().clip_seconds + AGAIN_SECONDS
    twice = sounds(("", 1), ("low", 0.4), ("", gone), ("low", 0.4), ("", 1))
    assert spotter().hear(twice) == "low low"


@pytest.mark.parametrize("seconds", [1.0, 1.7, 4.0])
def test_a_word_is_said_once_while_it_is_in_sight(seconds: float) -> None:
    once = sounds(("", 1), ("low", 0.2), ("", 2 * seconds))
    assert spotter(clip_seconds=seconds).hear(once) == "low"


def test_what_is_no_word_is_not_said() -> None:
    stream = spotter()
    assert stream.hear(sounds(("", 1), (UNKNOWN, 1.0), ("", 1))) == ""
    assert stream.finish() == "" and stream.sure.words == () and stream.sure.confidence == 1.0


@pytest.mark.parametrize("before", [0.0, 0.05, 0.3])
def test_words_at_both_ends_of_a_short_recording_are_spotted(before: float) -> None:
    stream = spotter()
    parts = [*([("", before)] if before else []), ("high", 0.4)]
    said = stream.hear(sounds(*parts))
    assert (said + stream.finish()) == "high"
    assert stream.sure.words[0].end <= stream.seconds


def test_steady_noise_is_not_asked_about() -> None:
    def never(clips: Sequence[np.ndarray]) -> np.ndarray:
        raise AssertionError("asked about noise")

    noise = np.random.default_rng(1).standard_normal(5 * RATE).astype(np.float32)
    for sound in (0.05 * noise, 0 * noise):
        stream = Spotter(never, LABELS, settings_of())
        assert stream.hear(sound) == stream.finish() == ""
    with pytest.raises(AssertionError, match="asked"):
        Spotter(never, LABELS, settings_of()).hear(THREE)


def test_less_sure_words_are_left_out() -> None:
    low, high = sounds(("", 1), ("low", 0.4), ("", 1)), sounds(("", 1), ("high", 0.4), ("", 1))
    both = 0.8 * low + 0.6 * high
    assert spotter().hear(both) == "low"
    assert spotter(spotting_confidence=0.7).hear(both) == ""
    equal = 0.7 * low + 0.7 * high
    assert spotter().hear(equal) == "" != spotter(spotting_confidence=0.4).hear(equal)


def test_silence_says_nothing_however_little_is_asked_for() -> None:
    for labels in (LABELS, Vocabulary("classes", ("a", "b", "high", "low"))):
        stream = Spotter(classify, labels, settings_of(spotting_confidence=0.0))
        assert stream.hear(np.zeros(6 * RATE, np.float32)) + stream.finish() == ""


def test_it_rests_a_while_after_a_word() -> None:
    stream = spotter()
    assert stream.resting
    stream.hear(sounds(("", 1), ("low", 0.4), ("", 0.3)))
    assert not stream.resting
    stream.hear(sounds(("", 1.5)))
    assert stream.resting


def test_clips_are_as_long_as_the_recipe_says() -> None:
    seen = set()

    def watch(clips: Sequence[np.ndarray]) -> np.ndarray:
        seen.update(map(len, clips))
        return classify(clips)

    Spotter(watch, LABELS, settings_of(clip_seconds=1.7)).hear(THREE)
    assert seen == {round(1.7 * RATE)}


def test_a_classifier_streams_by_spotting() -> None:
    def network(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.log(classify(samples) + 1e-9)[:, None], np.ones(len(samples), np.int64)

    recogniser = Recogniser(network, LABELS, settings_of())
    stream = recogniser.stream()
    assert isinstance(stream, Spotter)
    assert stream.hear(THREE) == "high low high"
    with pytest.raises(AudioError, match="mono samples"):
        stream.hear(np.zeros((2, 2), np.float32))


def test_the_least_confidence_of_a_command_is_that_of_spotting_too() -> None:
    recogniser = load("commands-en")
    own = recogniser.recipe.decoding
    assert own.spotting_confidence != own.least_confidence
    for least in (0.0, 0.3):
        changed = recogniser.decoding_with(least_confidence=least).recipe.decoding
        assert changed.spotting_confidence == changed.least_confidence == least
    assert recogniser.recipe.decoding == own
