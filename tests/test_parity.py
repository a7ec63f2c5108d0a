"""The shipped graph computes what the network computes: every cell, direction, front end, head."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from speechseq.errors import GateFailed, ModelError
from speechseq.model_file import KEYS, read_model
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser, load
from speechseq.tokens import Vocabulary
from speechseq.training import export as export_module
from speechseq.training.encoder import CELLS, SpeechNetwork
from speechseq.training.export import TOLERANCE, _gap, build_graph, export_network, parity
from speechseq.training.features import FEATURES
from speechseq.training.front_ends import FRONT_ENDS


def made(model: dict[str, object], features: dict[str, object]):
    torch.manual_seed(0)
    classify = model.get("head") == "classify"
    tree = {
        "data": {"tokens": "classes" if classify else "characters"},
        "model": {"hidden": 12, "layers": 2, **model},
        "features": {"rate": 8000, "mels": 16, "low_hz": 60, **features},
    }
    recipe = recipe_from_dict(tree, "test")
    vocabulary = Vocabulary.from_texts(recipe.data.tokens, ["ab", "c d"])
    return SpeechNetwork(recipe, len(vocabulary)).eval(), recipe, vocabulary


def assert_parity(path: Path, model: dict[str, object], features: dict[str, object]) -> None:
    network, recipe, vocabulary = made(model, features)
    found = export_network(network, recipe, vocabulary, path, card={})
    assert found.largest_difference < TOLERANCE
    assert found.different_texts == 0
    assert path.is_file()


@pytest.mark.parametrize(("steepness", "allowed"), [(1.0, False), (1e3, True)])
def test_where_rounding_alone_goes_far_more_is_allowed(steepness: float, allowed: bool) -> None:
    """Two networks 3e-4 apart: that is much, but for one that a millionth moves as far."""
    _, recipe, vocabulary = made({}, {})

    def recogniser(more: float) -> Recogniser:
        def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            heard = np.sin(steepness * samples.sum(1, dtype=np.float64)) + more
            log_probs = np.full((len(samples), 3, len(vocabulary)), -2.0)
            return log_probs + heard[:, None, None], np.full(len(samples), 3)

        return Recogniser(run, vocabulary, recipe)

    clips = [np.full(800, 0.3, np.float32)]
    found = parity(recogniser(0.0), recogniser(3e-4), clips)
    assert found.different_texts == 0
    assert (found.largest_difference < TOLERANCE) == allowed
    far = parity(recogniser(0.0), recogniser(0.5), clips)
    assert far.largest_difference > TOLERANCE


def test_unlikely_tokens_may_differ_in_proportion() -> None:
    likely, unlikely = np.array([[-1.0, -4.9]]), np.array([[-20.0, -30.0]])
    assert _gap(likely, likely + 2e-4) == pytest.approx(2e-4)
    assert _gap(unlikely, unlikely + np.array([[4e-4, 0.0]])) == pytest.approx(1e-4, rel=1e-3)
    assert _gap(likely, unlikely) == pytest.approx(25.1)
    assert _gap(likely, likely[:, :1]) == _gap(likely, likely * np.nan) == float("inf")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_cells(cell: str, bidirectional: bool, tmp_path: Path) -> None:
    model = {"cell": cell, "bidirectional": bidirectional}
    assert_parity(tmp_path / "model.onnx", model, {})


@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
@pytest.mark.parametrize(
    "more", [{}, {"skip_input": True, "bidirectional": False}, {"projection": 9}]
)
def test_classifiers(pooling: str, more: dict[str, object], tmp_path: Path) -> None:
    if pooling == "last" and "projection" in more:
        more = {**more, "bidirectional": False}  # both directions are refused
    assert_parity(tmp_path / "m.onnx", {"head": "classify", "pooling": pooling, **more}, {})


@pytest.mark.parametrize("heads", [2, 5])
@pytest.mark.parametrize("more", [{}, {"skip_input": True}, {"projection": 9}])
def test_several_attention_heads(heads: int, more: dict[str, object], tmp_path: Path) -> None:
    model = {"head": "classify", "pooling": "attention", "attention_heads": heads, **more}
    assert_parity(tmp_path / "m.onnx", model, {})


@pytest.mark.parametrize(
    ("front_end", "stride"),
    [("none", 1), *itertools.product([x for x in FRONT_ENDS if x != "none"], [1, 2, 3, 4])],
)
def test_front_ends(front_end: str, stride: int, tmp_path: Path) -> None:
    model = {"front_end": front_end, "time_stride": stride, "channels": 4, "layers": 1}
    assert_parity(tmp_path / "m.onnx", {**model, "layer_norm": True, "residual": True}, {})


@pytest.mark.parametrize("stride", [1, 4])
def test_blocks_of_convolutions(stride: int, tmp_path: Path) -> None:
    model = {"front_end": "conv", "time_stride": stride, "channels": 3, "layers": 1}
    assert_parity(tmp_path / "m.onnx", {**model, "conv_blocks": 2}, {})


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("cmvn", ["none", "global", "utterance"])
@pytest.mark.parametrize(
    "more", [{}, {"deltas": 2, "edge_seconds": 0.05}, {"mel_scale": "slaney", "fft_samples": 512}]
)
def test_features(kind: str, cmvn: str, more: dict[str, object], tmp_path: Path) -> None:
    assert_parity(tmp_path / "m.onnx", {"layers": 1}, {"kind": kind, "cmvn": cmvn, **more})


def test_the_file_is_the_whole_recogniser(tmp_path: Path) -> None:
    network, recipe, vocabulary = made({}, {})
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root="/my/place"))
    path = tmp_path / "model.onnx"
    export_network(network, recipe, vocabulary, path, card={"licence": "CC0"})
    model = read_model(path)
    assert model.vocabulary == vocabulary
    assert model.card == {"licence": "CC0"}
    assert model.recipe.data.root == ""
    assert model.recipe.features == recipe.features
    assert len(model.weights_sha256) == 64
    assert not load(path).transcribe_batch([])


def test_a_failed_gate_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, recipe, vocabulary = made({}, {})
    honest = build_graph

    def crooked(network: SpeechNetwork) -> onnx.ModelProto:
        model = honest(network)
        weights = max(model.graph.initializer, key=lambda constant: constant.ByteSize())
        values = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return model

    monkeypatch.setattr(export_module, "build_graph", crooked)
    with pytest.raises(GateFailed, match="not written; its graph and the network differ") as error:
        export_network(network, recipe, vocabulary, tmp_path / "model.onnx", card={})
    assert error.value.exit_code == 4
    assert not list(tmp_path.iterdir())


def rewritten(path: Path, **changes: str | None) -> Path:
    model = onnx.load(path)
    values = {prop.key: prop.value for prop in model.metadata_props}
    for key, value in changes.items():
        values[f"speechseq.{key}"] = value or ""
        if value is None:
            del values[f"speechseq.{key}"]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, values)
    target = path.with_name("changed.onnx")
    onnx.save(model, target)
    return target


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "good.onnx"
    network, recipe, vocabulary = made({"layers": 1}, {})
    export_network(network, recipe, vocabulary, path, card={})
    return path


@pytest.mark.parametrize("key", KEYS)
def test_missing_metadata_is_named(good: Path, key: str) -> None:
    with pytest.raises(ModelError, match=f"not a speechseq model \\(no {key} in its metadata"):
        read_model(rewritten(good, **{key: None}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "99", "written in format '99', this version reads 1"),
        ("vocabulary", "[]", "its metadata is damaged"),
        ("vocabulary", '{"kind": "characters", "tokens": ["a"]}', "does not begin with <blank>"),
        ("vocabulary", "{", "its metadata is damaged"),
        (
            "vocabulary",
            '{"kind": "characters", "tokens": ["<blank>", "a"]}',
            r"its graph gives \[6\] scores a frame, its vocabulary holds 2 tokens",
        ),
        ("recipe", '{"modle": {}}', "unknown key 'modle'; did you mean 'model'"),
        ("recipe", "7", "its metadata is wrong .* not a mapping"),
        ("card", "[1]", "its metadata is damaged"),
        ("recipe", "[" * 100_000, "its metadata is damaged"),
    ],
)
def test_wrong_metadata_is_one_line(good: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        read_model(rewritten(good, **{key: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95pickle", b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a usable ONNX model") as error:
        read_model(path)
    assert "\n" not in str(error.value)


def test_a_cut_file_is_refused(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(good.read_bytes()[:-500])
    with pytest.raises(ModelError):
        read_model(path)


def test_names_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file, run folder or bundled model"):
        read_model("nothing-of-this-name")
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="onnxruntime-gpu"):
        read_model(__file__, device="mps")


def test_metadata_is_plain_json(good: Path) -> None:
    values = {prop.key: prop.value for prop in onnx.load(good).metadata_props}
    assert json.loads(values["speechseq.recipe"])["model"]["layers"] == 1
    assert Recipe().to_dict().keys() == json.loads(values["speechseq.recipe"]).keys()


def test_another_graph_is_refused(good: Path) -> None:
    model = onnx.load(good)
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            if name == "waveform":
                node.input[number] = "sound"
    model.graph.input[0].name = "sound"
    path = good.with_name("other.onnx")
    onnx.save(model, path)
    with pytest.raises(ModelError, match="its graph takes or gives other values"):
        read_model(path)
