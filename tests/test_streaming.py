"""Streams: frames as the whole's, each once; words that never change; files that carry state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import RATE, tone
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.audio import read_audio
from speechseq.errors import AudioError, GateFailed, ModelError, UsageError
from speechseq.model_file import NEXT_STATES, STATES, open_model, read_model
from speechseq.padding import pad
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser, from_model_file, load
from speechseq.stream_frames import HOP_SECONDS, CarriedFrames, WindowFrames, reach
from speechseq.streaming import Resampler
from speechseq.tokens import BLANK_TOKEN, Vocabulary
from speechseq.training.base import network_of_graph
from speechseq.training.carry import Carry
from speechseq.training.encoder import CELLS, SpeechNetwork
from speechseq.training.export import TOLERANCE, export_network, quantise
from speechseq.training.front_ends import FRONT_ENDS
from speechseq.training.graph import build_graph

SAMPLES = sorted((Path(__file__).parents[1] / "data" / "samples").glob("*.wav"))
LETTERS = Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"), ("aba", "ab", "bb"))


def recipe(model: dict[str, object], features: dict[str, object] | None = None) -> Recipe:
    tree = {
        "features": {"rate": RATE, "mels": 16, "low_hz": 60, **(features or {})},
        "model": {"hidden": 12, "layers": 2, "channels": 4, "bidirectional": False, **model},
    }
    return recipe_from_dict(tree, "test")


def made(model: dict[str, object], features: dict[str, object] | None = None) -> SpeechNetwork:
    torch.manual_seed(0)
    return SpeechNetwork(recipe(model, features), len(LETTERS)).eval()


def exported(
    model: dict[str, object], path: Path, features: dict[str, object] | None = None
) -> Recogniser:
    network, settings_of = made(model, features), recipe(model, features)
    export_network(network, settings_of, LETTERS, path, card={})
    return load(path)


def blocks(samples: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut samples into blocks of these sizes, again and again."""
    begin = 0
    for size in itertools.cycle(sizes):
        if begin >= len(samples):
            return
        yield samples[begin : begin + size]
        begin += size


def whole(recogniser: Recogniser, samples: np.ndarray) -> np.ndarray:
    return recogniser.network(*pad([samples]))[0][0]


# ---- one direction: carried state ----

SOUND = np.concatenate([tone(300, 0.4), tone(900, 0.5, seed=1), np.zeros(1000, np.float32)])

NETWORKS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    **{cell: ({"cell": cell, "front_end": "conv", "time_stride": 4}, {}) for cell in CELLS},
    "none": ({"front_end": "none"}, {"deltas": 2, "cmvn": "none"}),
    "stack": ({"front_end": "stack", "time_stride": 3, "projection": 9}, {"edge_seconds": 0.05}),
    "mfcc": ({"front_end": "stack", "time_stride": 2}, {"kind": "mfcc", "deltas": 1}),
    **{
        f"conv {stride}": (
            {"front_end": "conv", "time_stride": stride, "layer_norm": True, "residual": True},
            {"edge_seconds": 0.1, "hop_seconds": 0.012, "fft_samples": 512},
        )
        for stride in (1, 2, 3, 4)
    },
    **{
        f"blocks {stride}": (
            {"front_end": "conv", "time_stride": stride, "channels": 4, "conv_blocks": 1},
            {},
        )
        for stride in (1, 4)
    },
    "skip": ({"cell": "gru", "skip_input": True, "layers": 1}, {"window_seconds": 0.02}),
}


def test_every_cell_and_front_end_is_streamed() -> None:
    models = [recipe(*settings_of).model for settings_of in NETWORKS.values()]
    assert {model.cell for model in models} == set(CELLS)
    assert {model.front_end for model in models} == set(FRONT_ENDS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stream_gives_the_frames_of_the_batch_one_by_one(name: str) -> None:
    network, settings_of = made(*NETWORKS[name]), recipe(*NETWORKS[name])
    samples = torch.from_numpy(SOUND)[None]
    with torch.inference_mode():
        expected = network(samples, torch.tensor([len(SOUND)]))[0][0].numpy()
    hear_on = from_graph(network, settings_of).hear_on
    assert hear_on is not None
    frames = CarriedFrames(hear_on, settings_of, len(LETTERS))
    step = settings_of.step_samples
    around, edge = reach(settings_of), settings_of.features.edge_samples
    given_out = 0
    for heard in range(7, len(SOUND) + 7, 7):
        found = frames.hear(SOUND[heard - 7 : heard])
        for frame in found:
            np.testing.assert_allclose(frame, expected[given_out], atol=TOLERANCE)
            given_out += 1
        # Each comes as soon as its front end has heard all it hears, and no later.
        due = (min(heard, len(SOUND)) + edge - around.behind) // step + 1
        assert given_out == max(due, 0)
    rest = frames.finish()
    np.testing.assert_allclose(rest, expected[given_out:], atol=TOLERANCE)
    assert given_out > 5


def from_graph(network: SpeechNetwork, settings_of: Recipe) -> Recogniser:
    """A recogniser of a network's graph, without the gate."""
    from onnx import helper

    from speechseq.model_file import metadata

    model = build_graph(network)
    helper.set_model_props(model, metadata(LETTERS, settings_of, {}, "0"))
    return from_model_file(open_model(model.SerializeToString(), Path("m.onnx")))


@pytest.mark.parametrize("name", ["conv 4", "blocks 4", "stack", "none"])
def test_a_front_end_hears_no_further_than_it_says(name: str) -> None:
    """What lies beyond its reach leaves a frame as it is; what lies just inside does not."""
    settings_of = recipe(*NETWORKS[name])
    network = made(*NETWORKS[name])
    step = settings_of.step_samples
    last = 12 * step - settings_of.features.edge_samples + reach(settings_of).behind
    for place, changes in ((last, False), (last - 20, True)):
        loud = SOUND.copy()
        loud[place:] = 0.5
        with torch.inference_mode():
            pair = network(torch.from_numpy(np.stack([SOUND, loud])), torch.full((2,), len(loud)))
        gap = float((pair[0][0, 12] - pair[0][1, 12]).abs().max())
        assert gap > 1e-5 if changes else gap < 1e-6


def test_a_batch_that_names_no_state_begins_anew(tmp_path: Path) -> None:
    recogniser = exported({"layers": 1}, tmp_path / "m.onnx")
    session = read_model(tmp_path / "m.onnx").session
    assert [value.name for value in session.get_inputs()] == ["waveform", "lengths"]
    samples, lengths = pad([SOUND, SOUND[:3000]])
    log_probs, frames = recogniser.network(samples, lengths)
    np.testing.assert_allclose(
        log_probs[1, : frames[1]], whole(recogniser, SOUND[:3000]), atol=TOLERANCE
    )


def test_streams_do_not_mix(tmp_path: Path) -> None:
    recogniser = exported({"layers": 1}, tmp_path / "m.onnx")
    one, two = recogniser.stream_frames(), recogniser.stream_frames()
    found = []
    for block in blocks(SOUND, [400]):
        found.append(one.hear(block))
        two.hear(-block)
        one.peek()
    found.append(one.finish())
    np.testing.assert_allclose(np.concatenate(found), whole(recogniser, SOUND), atol=TOLERANCE)


def test_the_gate_covers_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States that go to the wrong layer: no batch would tell."""
    honest = Carry.begins
    monkeypatch.setattr(Carry, "begins", lambda self, layer, frames: honest(self, 0, frames))
    with pytest.raises(GateFailed, match="its graph and the network differ"):
        exported({"layers": 2}, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_what_carries_no_state_has_the_plain_graph() -> None:
    for model, features in (
        ({"bidirectional": True}, {}),
        ({}, {"cmvn": "utterance"}),
    ):
        graph = build_graph(made(model, features)).graph
        assert [value.name for value in graph.input] == ["waveform", "lengths"]
        assert [value.name for value in graph.output] == ["log_probs", "log_probs_lengths"]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weights_come_back_out_of_a_streams_graph(cell: str, tmp_path: Path) -> None:
    network = made({"cell": cell})
    onnx.save(build_graph(network), tmp_path / "m.onnx")
    found = network_of_graph(tmp_path / "m.onnx", recipe({"cell": cell}), len(LETTERS))
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=0, atol=0)


def test_an_8_bit_file_streams_too(tmp_path: Path) -> None:
    exported({"hidden": 32}, tmp_path / "m.onnx")
    quantise(tmp_path / "m.onnx", tmp_path / "small.onnx")
    assert read_model(tmp_path / "small.onnx").states == dict(zip(STATES, NEXT_STATES, strict=True))
    recogniser = load(tmp_path / "small.onnx")
    frames = recogniser.stream_frames()
    assert isinstance(frames, CarriedFrames)
    found = [*map(frames.hear, blocks(SOUND, [700])), frames.finish()]
    np.testing.assert_allclose(np.concatenate(found), whole(recogniser, SOUND), atol=TOLERANCE)


# ---- two directions: bounded latency ----


def places(made: Recipe, heard: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    """A network that gives the sample before each frame's place, and notes the last it heard."""
    features = made.features
    step = made.step_samples

    def hear(samples: np.ndarray) -> np.ndarray:
        heard.append(int(samples[-1]))
        frames = made.model.output_frames(features.frames(len(samples)))
        padded = np.pad(samples, (features.edge_samples + 1, features.edge_samples + step))
        return padded[np.arange(frames) * step][:, None]

    return hear


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_window_frames_are_the_wholes_each_once_and_in_time(data: st.DataObject) -> None:
    hop, stride = data.draw(st.integers(40, 120), "hop"), data.draw(st.integers(1, 4), "stride")
    made = recipe(
        {"front_end": "stack", "time_stride": stride},
        {"hop_seconds": hop / RATE, "edge_seconds": data.draw(st.integers(0, 900)) / RATE},
    )
    latency = data.draw(st.sampled_from([0.0, 0.03, 0.2, 0.5, 1.0]), "latency")
    samples = np.arange(1, data.draw(st.integers(1, 40_000), "samples") + 1, dtype=np.float32)
    sizes = data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4), "blocks")
    heard: list[int] = []
    frames = WindowFrames(places(made, heard), made, 1, latency)
    found: list[float] = []
    so_far, step = 0, hop * stride
    for block in blocks(samples, sizes):
        so_far += len(block)
        new = frames.hear(block)[:, 0].tolist()
        assert not new or heard[-1] == so_far
        found += new
        due = (so_far + made.features.edge_samples - latency * RATE - 1) // step + 1
        assert len(found) >= due, "a frame waits longer than the latency"
    found += frames.finish()[:, 0].tolist()
    assert found == places(made, [])(samples)[:, 0].tolist()


@pytest.mark.parametrize("latency", [0.0, 0.1, 0.4, 1.0])
def test_a_longer_latency_hears_more_behind_a_frame(latency: float) -> None:
    made, heard = recipe({}), list[int]()
    frames = WindowFrames(places(made, heard), made, 1, latency)
    behind = []
    for block in blocks(np.arange(30_000, dtype=np.float32), [80]):
        new = frames.hear(block)
        behind += [heard[-1] - place for place in new[1:, 0]]
    least = latency - min(latency / 2, HOP_SECONDS)
    assert min(behind) >= least * RATE - 1
    assert max(behind) <= latency * RATE + 160
    assert len(heard) == pytest.approx(30_000 / RATE / max(min(latency / 2, 0.2), 0.01), rel=0.4)


def test_runs_of_the_network_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = recipe({}), list[int]()
    hear = places(made, [])
    frames = WindowFrames(lambda x: (sizes.append(len(x)), hear(x))[1], made, 1, 0.5)
    for block in blocks(np.zeros(200_000, np.float32), [400]):
        frames.hear(block)
    assert max(sizes) < 3 * RATE


# ---- infinite latency, and what cannot stream ----


@pytest.fixture(scope="module")
def digits() -> Recogniser:
    return load("digits")


@pytest.mark.parametrize("latency_ms", [math.inf, 60_000.0])
def test_a_latency_without_end_is_offline(digits: Recogniser, latency_ms: float) -> None:
    for path in SAMPLES[:4]:
        samples = read_audio(path, digits.rate)
        stream = digits.stream(latency_ms=latency_ms)
        for block in blocks(samples, [700, 100]):
            assert stream.hear(block) == ""
        stream.finish()
        assert stream.sure == digits.transcribe(samples)


def test_long_recordings_are_heard_whole_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    from speechseq import recogniser as module

    made, heard = recipe({}), list[int]()
    hear = places(made, heard)

    def network(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [hear(row[:length]) for row, length in zip(samples, lengths, strict=True)]
        size = max(map(len, rows))
        together = np.stack([np.pad(row, ((0, size - len(row)), (0, 0))) for row in rows])
        return together, np.array([len(row) for row in rows])

    monkeypatch.setattr(module, "LONG_SECONDS", 5.0)
    monkeypatch.setattr("speechseq.audio.LOUDEST", math.inf)  # samples that tell their places
    recogniser = Recogniser(network, LETTERS, made)
    samples = np.arange(50 * RATE, dtype=np.float32)
    frames = recogniser.stream_frames(latency_ms=math.inf)
    frames.hear(samples[:70_000])
    assert not len(frames.peek())
    frames.hear(samples[70_000:])
    np.testing.assert_array_equal(frames.finish(), hear(samples))
    assert len(heard) > 2


def test_two_directions_stream_from_their_file(digits: Recogniser) -> None:
    for path in SAMPLES:
        samples = read_audio(path, digits.rate)
        stream = digits.stream(latency_ms=1000)
        parts = [stream.hear(block) for block in blocks(samples, [400])]
        parts.append(stream.finish())
        assert " ".join(filter(None, parts)) == stream.sure.text == digits.transcribe(samples).text
        assert stream.sure.duration == len(samples) / digits.rate


def test_what_cannot_stream_says_so() -> None:
    plain = Recogniser(lambda x, n: (x, n), LETTERS, recipe({}, {"cmvn": "utterance"}))
    classes = recipe_from_dict({"data": {"tokens": "classes"}, "model": {"head": "classify"}}, "t")
    classifier = Recogniser(lambda x, n: (x, n), Vocabulary("classes", ("a", "b")), classes)
    for recogniser, why in ((plain, "cmvn utterance"), (classifier, "a classifier")):
        assert not recogniser.streams
        with pytest.raises(UsageError, match=f"{why}.* transcribe"):
            recogniser.stream_frames()
    with pytest.raises(UsageError, match="cmvn utterance"):
        plain.stream()
    for recogniser, wrong in itertools.product((load("digits"), classifier), (-1.0, math.nan)):
        with pytest.raises(UsageError, match="milliseconds, 0 to 60000 or inf, go here"):
            recogniser.stream(latency_ms=wrong)
    with pytest.raises(AudioError, match="mono samples"):
        load("digits").stream().hear(np.zeros((2, 2), np.float32))


def test_a_stream_that_hears_nothing_says_nothing(digits: Recogniser) -> None:
    for latency_ms in (100.0, math.inf):
        stream = digits.stream(latency_ms=latency_ms)
        assert (stream.hear(np.zeros(0, np.float32)), stream.unsure()) == ("", ())
        assert stream.finish() == ""
        assert (stream.sure.text, stream.sure.duration, stream.resting) == ("", 0.0, True)


# ---- texts ----


def test_what_is_said_never_changes_and_so_far_goes_on(digits: Recogniser) -> None:
    path = next(path for path in SAMPLES if path.stem == "one_two_three")
    samples = read_audio(path, digits.rate)
    stream = digits.stream(latency_ms=1000)
    seen = []
    for block in blocks(np.pad(samples, (0, 3 * digits.rate)), [800]):
        before = stream.sure.text
        stream.hear(block)
        assert stream.sure.text.startswith(before)
        so_far = stream.so_far()
        assert so_far.text.startswith(stream.sure.text)
        assert so_far.duration == stream.seconds
        assert so_far.words == (*stream.sure.words, *stream.unsure())
        seen.append((stream.sure.text, so_far.text))
    assert any(len(sure) < len(so_far) for sure, so_far in seen)
    assert stream.resting
    assert stream.sure.text == "one two three"
    times = [(word.start, word.end) for word in stream.sure.words]
    expected = [(word.start, word.end) for word in digits.transcribe(path).words]
    np.testing.assert_allclose(times, expected, atol=0.2)


def test_samples_of_another_rate_are_resampled_as_they_come() -> None:
    sound = tone(300, 1.0, 16000)
    resample = Resampler(16000, RATE)
    found = np.concatenate([resample(block) for block in blocks(sound, [777])])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tone(300, 1.0)[: len(found)], atol=0.03)
    assert RATE - len(found) < 0.15 * RATE
    rest = resample.finish()
    assert abs(len(found) + len(rest) - RATE) <= 1
    assert Resampler(RATE, RATE)(sound) is sound


def test_a_network_that_fails_is_one_line(tmp_path: Path) -> None:
    recogniser = exported({"layers": 1}, tmp_path / "m.onnx")
    assert recogniser.hear_on
    with pytest.raises(ModelError, match=r"m\.onnx: cannot be run") as error:
        recogniser.hear_on(SOUND, 0, 3, {"state_h": np.zeros((5, 1, 1), np.float32)})
    assert "\n" not in str(error.value)
