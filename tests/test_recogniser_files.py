"""The recogniser on files: long ones, many, and a model of a real file."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tone
from hypothesis import given
from hypothesis import strategies as st
from recognised import CHARACTERS, CLASSES, HOP, RATE, network, recipe, seen

from speechseq import recogniser as recogniser_module
from speechseq.audio import read_audio, write_wav
from speechseq.errors import AudioError, ModelError
from speechseq.long_audio import LONG_SECONDS
from speechseq.padding import by_length
from speechseq.recipe import Recipe
from speechseq.recogniser import Recogniser, load
from speechseq.recognition import Network, Recognition
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.export import export_network

# ---- long recordings ----


def listening(made: Recipe) -> Network:
    """Return a network that hears `a` where a sample is loud, `b` where it is softer.

    In the first frame of silence it hears a space.
    """
    features = made.features

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames = features.frames(lengths)
        edge = features.edge_samples
        padded = np.pad(samples, ((0, 0), (edge, edge + features.hop_samples)))
        levels = padded[:, :: features.hop_samples][:, : frames.max()]
        before = np.pad(levels, ((0, 0), (1, 0)))[:, :-1]
        best = np.select([levels > 0.7, levels > 0.2, before > 0.2], [2, 3, 1], 0)
        probs = np.where(np.arange(4) == best[..., None], 0.91, 0.03)
        return np.log(probs).astype(np.float32), frames

    return run


def strings(seconds: float, *, seed: int = 0) -> np.ndarray:
    """Samples that `listening` hears words of two letters in."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE), np.float32)
    at = 0
    while (at := at + int(rng.integers(30, 200))) < len(samples) // HOP - 20:
        samples[at * HOP : (at + 5) * HOP] = rng.choice([0.5, 0.9])
        samples[(at + 5) * HOP : (at + 10) * HOP] = rng.choice([0.5, 0.9])
        at += 10
    return samples


@pytest.fixture
def long_recogniser() -> Recogniser:
    made = recipe(features={"edge_seconds": 0.05})
    return Recogniser(listening(made), CHARACTERS, made)


@pytest.mark.parametrize("seconds", [61.0, 95.3, 300.0])
def test_a_long_recording_is_recognised_as_a_whole(
    long_recogniser: Recogniser, seconds: float
) -> None:
    samples = strings(seconds)
    (expected,) = long_recogniser.transcribe_batch([samples])
    found = long_recogniser.transcribe(samples)
    assert len(found.words) > seconds / 3
    assert found == dataclasses.replace(expected, confidence=found.confidence)
    assert found.confidence == pytest.approx(expected.confidence)


def test_long_files_and_arrays_go_through_windows_and_short_ones_do_not(
    long_recogniser: Recogniser, tmp_path: Path
) -> None:
    longest = []
    network = long_recogniser.network

    def watched(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        longest.append(samples.shape[1] / RATE)
        return network(samples, lengths)

    long_recogniser.network = watched
    path = tmp_path / "clip.wav"
    for seconds, most in ((LONG_SECONDS, LONG_SECONDS), (LONG_SECONDS + 1, 40.0)):
        samples = strings(seconds)
        write_wav(path, samples, RATE)
        longest.clear()
        by_array = long_recogniser.transcribe(samples)
        assert long_recogniser.transcribe(path) == by_array
        assert 30 < max(longest) <= most
        assert by_array.duration == seconds


def test_segments_come_as_they_are_done(long_recogniser: Recogniser) -> None:
    samples = strings(300.0)
    given: list[int] = []
    told: list[float] = []

    def blocks() -> Iterator[np.ndarray]:
        for begin in range(0, len(samples), RATE):
            given.append(begin)
            yield samples[begin : begin + RATE]

    found = long_recogniser.transcribe_blocks(blocks(), progress=told.append)
    first = next(found)
    assert len(given) < 200
    rest = list(found)
    whole = long_recogniser.transcribe(samples)
    assert [w for part in (first, *rest) for w in part.words] == list(whole.words)
    assert " ".join(part.text for part in (first, *rest)) == whole.text
    assert sum(part.duration for part in (first, *rest)) == pytest.approx(300.11)
    assert told == list(range(1, 301))


def test_words_do_not_go_on_behind_the_end(long_recogniser: Recogniser) -> None:
    samples = np.zeros(61 * RATE, np.float32)
    samples[-3 * HOP // 2 :] = 0.9
    found = long_recogniser.transcribe(samples)
    assert found.words[-1].end == found.duration == 61.0


def test_steady_noise_is_left_out_on_demand(long_recogniser: Recogniser) -> None:
    heard = []
    network = long_recogniser.network

    def watched(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        heard.append(len(samples))
        return network(samples, lengths)

    long_recogniser.network = watched
    samples = 0.01 * np.random.default_rng(0).standard_normal(200 * RATE)
    samples[50 * RATE : 52 * RATE] += tone(100.0, 2.0) / 2 + 0.45
    everything = long_recogniser.transcribe(samples)
    assert sum(heard) == 7
    heard.clear()
    assert long_recogniser.transcribe(samples, skip_silence=True).words == everything.words
    assert sum(heard) == 1
    assert [word.text for word in everything.words] == ["b"]
    with pytest.raises(AudioError, match="holds no samples"):
        list(long_recogniser.transcribe_blocks([samples[:0]], skip_silence=True))


def test_a_classifier_hears_wholes() -> None:
    settings = recipe(data={"tokens": "classes"}, model={"head": "classify"})
    recogniser = Recogniser(network([1], 2), CLASSES, settings)
    assert recogniser.transcribe(np.zeros(70 * RATE, np.float32)).text == "On"
    with pytest.raises(ModelError, match="a classifier hears wholes; give it each one by itself"):
        next(recogniser.transcribe_blocks([np.zeros(9)]))


def strung(paths: Sequence[Path], seconds: float) -> np.ndarray:
    """Clips in random order, with pauses of up to a second in faint noise between."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        parts.append(read_audio(paths[int(rng.integers(len(paths)))], RATE))
        parts.append(np.zeros(int(rng.uniform(0, RATE)), np.float32))
    samples = np.concatenate(parts)
    return (samples + 0.001 * rng.standard_normal(len(samples))).astype(np.float32)


def check_windows_say_what_the_whole_says(samples: np.ndarray) -> None:
    for decoder in ("greedy", "lexicon"):
        recogniser = load().decoding_with(decoder)
        (whole,) = recogniser.transcribe_batch([samples])
        found = recogniser.transcribe(samples)
        assert (found.text, seen(found)) == (whole.text, seen(whole))
        assert found.confidence == pytest.approx(whole.confidence, abs=1e-4)
        assert len(found.words) > len(samples) / RATE / 2


def test_the_bundled_model_hears_in_windows_what_it_hears_in_the_whole() -> None:
    paths = sorted((Path(__file__).parents[1] / "data" / "samples").glob("*.wav"))
    check_windows_say_what_the_whole_says(strung(paths, 75.0))


@pytest.mark.corpus
def test_so_it_does_with_real_speech(real_corpora: Path) -> None:
    folder = real_corpora / "free-spoken-digit-dataset" / "recordings"
    check_windows_say_what_the_whole_says(strung(sorted(folder.glob("*_4*.wav")), 150.0))


# ---- many recordings ----


def test_many_are_recognised_as_one_by_one(model: Path, tmp_path: Path) -> None:
    recogniser = load(model)
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.wav")
        write_wav(paths[-1], tone(200.0 * number, 0.1 + 0.3 * (number * 7 % 12)), RATE)
    found = recogniser.transcribe_many([*paths, paths[0].read_bytes()])
    for path, recognition in zip([*paths, paths[0]], found, strict=True):
        alone = recogniser.transcribe(path)
        assert isinstance(recognition, Recognition)
        assert (recognition.text, seen(recognition)) == (alone.text, seen(alone))
        assert recognition.duration == alone.duration


def test_each_error_takes_the_place_of_a_result(model: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    write_wav(clip, tone(300.0, 0.2), RATE)
    nothing = np.zeros(0, np.float32)
    found = load(model).transcribe_many([tmp_path / "none.wav", clip, nothing, clip])
    assert [type(answer) for answer in found] == [AudioError, Recognition, AudioError, Recognition]
    assert found[1] == found[3]
    assert load(model).transcribe_many([]) == []


def test_a_clip_that_fails_does_not_take_its_batch_along(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(5)]
    for number, path in enumerate(paths):
        write_wav(path, np.full(800 + number, 0.1), RATE)

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if 802 in lengths:
            raise ModelError("too much")
        return network([2], 4)(samples, lengths)

    found = Recogniser(run, CHARACTERS, recipe()).transcribe_many(paths)
    assert [isinstance(answer, Recognition) for answer in found] == [True, True, False, True, True]
    assert str(found[2]) == "too much"


def test_long_ones_among_many_go_through_windows(
    long_recogniser: Recogniser, tmp_path: Path
) -> None:
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    write_wav(paths[0], strings(70.0), RATE)
    write_wav(paths[1], strings(5.0), RATE)
    found = long_recogniser.transcribe_many(paths)
    assert found == [long_recogniser.transcribe(path) for path in paths]


def test_clips_in_hand_are_few(
    long_recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.wav"
    write_wav(path, strings(2.0), RATE)
    monkeypatch.setattr(recogniser_module, "CLIPS_SECONDS", 7.0)
    taken = []
    together = Recogniser._transcribe_clips

    def watched(self: Recogniser, clips: Mapping[int, np.ndarray]) -> object:
        taken.append(len(clips))
        return together(self, clips)

    monkeypatch.setattr(Recogniser, "_transcribe_clips", watched)
    found = long_recogniser.transcribe_many([path] * 10)
    assert taken == [4, 4, 2]
    assert found == [long_recogniser.transcribe(path)] * 10


@given(st.dictionaries(st.integers(), st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_by_length_are_bounded(sizes: dict[int, int], most: int) -> None:
    found = list(by_length(sizes, most))
    assert sorted(number for batch in found for number in batch) == sorted(sizes)
    for batch in found:
        longest = max(sizes[number] for number in batch)
        assert len(batch) == 1 or longest * len(batch) <= most
    lengths = [sizes[number] for batch in found for number in batch]
    assert lengths == sorted(lengths, reverse=True)


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
    with pytest.raises(ModelError, match=r"runs/digits: no such run; train its recipe first"):
        load("runs/digits")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x07nothing of use")
    with pytest.raises(ModelError, match=r"bad.onnx: not a usable ONNX model"):
        load(bad)


def test_a_device_that_is_not_there_is_named(model: Path) -> None:
    with pytest.raises(ModelError, match=r"device mps: this onnxruntime runs on .*--device cpu"):
        load(model, device="mps")
