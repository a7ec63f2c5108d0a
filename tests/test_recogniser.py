"""The recogniser, over networks that are written out: padding, words, times, errors."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tone
from hypothesis import given
from hypothesis import strategies as st

from speechseq.audio import write_wav
from speechseq.errors import AudioError, ModelError, UsageError
from speechseq.recipe import DecodingSettings, Recipe, recipe_from_dict
from speechseq.recogniser import Recogniser, Recognition, Word, load, pad
from speechseq.tokens import BLANK_TOKEN, Vocabulary
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.export import export_network

RATE = 8000
HOP = 80
CHARACTERS = Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"))
WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right"))
CLASSES = Vocabulary("classes", ("Off", "On"))


def recipe(**sections: dict[str, object]) -> Recipe:
    features = {"rate": RATE, **sections.pop("features", {})}
    return recipe_from_dict({"features": features, **sections}, "test")


def network(best: Sequence[int], tokens: int, sure: float = 0.9):
    """Return a network that says these tokens, frame by frame, whatever it hears."""
    probs = np.full((len(best), tokens), (1 - sure) / (tokens - 1))
    probs[np.arange(len(best)), best] = sure

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs = np.log(np.stack([probs] * len(samples))).astype(np.float32)
        return log_probs, np.full(len(samples), len(best))

    return run


def recognise(
    best: Sequence[int], vocabulary: Vocabulary, made: Recipe, seconds: float = 1.0
) -> Recognition:
    recogniser = Recogniser(network(best, len(vocabulary)), vocabulary, made)
    (found,) = recogniser.transcribe_batch([np.zeros(round(seconds * RATE), np.float32)])
    return found


def seen(found: Recognition) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in found.words]


def test_characters_between_spaces_are_words() -> None:
    found = recognise([0, 2, 2, 3, 0, 1, 0, 3, 0], CHARACTERS, recipe())
    assert found.text == "ab b"
    assert seen(found) == [("ab", 0.01, 0.04), ("b", 0.07, 0.08)]
    assert found.duration == 1.0
    assert found.confidence == pytest.approx(0.9)
    assert [word.confidence for word in found.words] == pytest.approx([0.9, 0.9])


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
    message = r"clip 1: shape \(.*\); mono samples \(samples,\) go here"
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


# ---- real files ----


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.onnx"
    settings = recipe(features={"mels": 16, "low_hz": 60}, model={"hidden": 8, "layers": 1})
    network = SpeechNetwork(settings, len(CHARACTERS)).eval()
    export_network(network, settings, CHARACTERS, path, card={})
    return path


def test_a_batch_recognises_as_one_by_one(model: Path) -> None:
    recogniser = load(model)
    clips = [tone(200.0 * n, 0.15 * n, seed=n) for n in range(1, 6)]
    together = recogniser.transcribe_batch(clips)
    for clip, found in zip(clips, together, strict=True):
        (alone,) = recogniser.transcribe_batch([clip])
        assert alone.text == found.text
        assert seen(alone) == seen(found)
        assert alone.confidence == pytest.approx(found.confidence, abs=1e-5)
        assert alone.duration == len(clip) / RATE


def test_a_run_folder_and_its_file_are_the_same(model: Path) -> None:
    clip = [tone(700.0, 0.4)]
    by_file, by_folder, by_text = (load(name) for name in (model, model.parent, str(model)))
    assert by_file.rate == RATE
    expected = by_file.transcribe_batch(clip)
    assert by_folder.transcribe_batch(clip) == expected
    assert by_text.transcribe_batch(clip) == expected


def test_paths_bytes_and_streams_are_the_same(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    write_wav(path, tone(700.0, 0.4), RATE)
    data = path.read_bytes()
    recogniser = load(model)
    expected = recogniser.transcribe(path)
    assert recogniser.transcribe(str(path)) == expected
    assert recogniser.transcribe(data) == expected
    assert recogniser.transcribe(io.BytesIO(data)) == expected


def test_what_is_not_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model.onnx; finish its training or export"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"nothing: no such model file, run folder or bundled"):
        load("nothing")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x07nothing of use")
    with pytest.raises(ModelError, match=r"bad.onnx: not a usable ONNX model"):
        load(bad)


def test_a_device_that_is_not_there_is_named(model: Path) -> None:
    with pytest.raises(ModelError, match=r"device mps: this onnxruntime runs on .*--device cpu"):
        load(model, device="mps")


def test_an_unknown_decoder_is_named() -> None:
    made = dataclasses.replace(recipe(), decoding=DecodingSettings("greedyy"))
    with pytest.raises(UsageError, match=r"unknown decoding.decoder 'greedyy'; did you mean"):
        Recogniser(network([0], 4), CHARACTERS, made)
