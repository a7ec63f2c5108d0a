"""Starting from a model: its weights come back exactly, and training goes on from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_parity import made, rewritten

from speechseq.errors import ModelError, UsageError
from speechseq.model_file import metadata, read_model
from speechseq.recipe import DataSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import BLANK_TOKEN, UNKNOWN, Vocabulary
from speechseq.training.base import (
    _of_tokens,
    network_of_graph,
    settings_of_base,
    start_from,
    teacher_of,
    weights_of,
)
from speechseq.training.encoder import CELLS, SpeechNetwork, parameters
from speechseq.training.export import export_network, quantise, weights_hash
from speechseq.training.run_folder import _placed

TONES = ("high", "low", "mid")
TOKENS = (BLANK_TOKEN, "high", "low", "mid")


def randomise(network: SpeechNetwork) -> SpeechNetwork:
    """Give every number that training sets a value of its own."""
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=chance))
        if network.features.cmvn.kind == "global":
            network.features.cmvn.mean.uniform_(-9, 0, generator=chance)
            network.features.cmvn.deviation.uniform_(0.5, 3, generator=chance)
    return network


def exported(path: Path, model: dict[str, object], features: dict[str, object]) -> Path:
    network, recipe, vocabulary = made(model, features)
    export_network(randomise(network), recipe, vocabulary, path, card={})
    return path


def recovered(path: Path) -> SpeechNetwork:
    model = read_model(path)
    return network_of_graph(path, model.recipe, model.vocabulary)


# ---- weights out of a graph ----

SETTINGS: list[tuple[dict[str, object], dict[str, object]]] = [
    *[({"cell": cell, "bidirectional": both}, {}) for cell in CELLS for both in (False, True)],
    ({"front_end": "stack", "time_stride": 3, "layer_norm": True, "residual": True}, {}),
    ({"front_end": "conv", "time_stride": 2, "channels": 4, "layer_norm": True}, {}),
    ({"front_end": "conv", "time_stride": 4, "channels": 3, "layers": 1}, {}),
    ({"front_end": "conv", "time_stride": 2, "channels": 3, "conv_blocks": 2}, {}),
    ({"projection": 9, "skip_input": True, "cell": "gru"}, {}),
    ({"head": "classify", "pooling": "last", "skip_input": True}, {}),
    ({"head": "classify", "pooling": "mean", "layer_norm": True}, {}),
    ({"head": "classify", "pooling": "attention"}, {}),
    ({"head": "classify", "pooling": "attention", "attention_heads": 3, "skip_input": True}, {}),
    ({"layers": 1}, {"kind": "mfcc", "deltas": 2}),
    ({"layers": 1}, {"kind": "mfcc", "cmvn": "utterance"}),
    ({"layers": 1}, {"cmvn": "none", "edge_seconds": 0.05}),
    ({"layers": 1}, {"mel_scale": "slaney", "fft_samples": 512}),
    ({"layers": 1, "hidden": 70, "bidirectional": False}, {"mels": 30}),
]


@pytest.mark.parametrize(("model", "features"), SETTINGS)
def test_weights_come_back_exactly(
    model: dict[str, object], features: dict[str, object], tmp_path: Path
) -> None:
    path = exported(tmp_path / "model.onnx", model, features)
    assert weights_hash(recovered(path)) == read_model(path).weights_sha256


def test_more_weights_than_one_digit_counts(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.onnx", {"layers": 1, "hidden": 64}, {})
    found = recovered(path)
    assert sum(weight.numel() for weight in found.parameters()) > 2 * 4096
    assert weights_hash(found) == read_model(path).weights_sha256


@pytest.mark.parametrize("cell", CELLS)
def test_an_8_bit_file_gives_its_rounded_weights(cell: str, tmp_path: Path) -> None:
    path = exported(tmp_path / "model.onnx", {"layers": 1, "hidden": 64, "cell": cell}, {})
    quantise(path, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.8 * path.stat().st_size
    whole, rounded = recovered(path).state_dict(), recovered(tmp_path / "small.onnx").state_dict()
    apart = {name for name in whole if not torch.equal(whole[name], rounded[name])}
    assert {name.rpartition(".")[2] for name in apart} <= {"weight_ih_l0", "weight_hh_l0", "weight"}
    assert len(apart) > 3
    for name in apart:
        rows = whole[name].abs().amax(1, keepdim=True)
        assert ((whole[name] - rounded[name]).abs() <= rows / 254 * 1.001).all()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = {"front_end": "stack", "time_stride": 1, "hidden": 16, "bidirectional": False}
    return exported(tmp_path_factory.mktemp("plain") / "plain.onnx", model, {"mels": 16})


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"hidden": 12}},
        {"model": {"cell": "gru"}},
        {"model": {"layers": 1}},
        {"model": {"layers": 3}},
        {"model": {"layer_norm": True}},
        {"model": {"residual": True}},
        {"model": {"bidirectional": True}},
        {"model": {"front_end": "none"}},
        {"features": {"low_hz": 61.0}},
        {"features": {"window_seconds": 0.02}},
        {"features": {"hop_seconds": 0.02}},
        {"features": {"edge_seconds": 0.1}},
        {"features": {"cmvn": "utterance"}},
        {"features": {"cmvn": "none"}},
        {"features": {"floor": 1e-3}},
        {"features": {"fft_samples": 512}},
        {"features": {"mels": 12}},
    ],
    ids=str,
)
def test_a_graph_of_other_settings_is_refused(
    change: dict[str, dict[str, object]], plain: Path
) -> None:
    tree = read_model(plain).recipe.to_dict()
    for section, values in change.items():
        tree[section] |= values
    path = rewritten(plain, recipe=json.dumps(tree))
    with pytest.raises(
        ModelError, match=r"its (weights cannot be taken over|graph is not)"
    ) as error:
        recovered(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


# ---- settings ----


def of_base(path: Path, **sections: object) -> Recipe:
    return recipe_from_dict({"training": {"base": str(path)}, **sections}, "mine")


def test_features_and_network_are_the_bases_and_the_head_is_ones_own(tmp_path: Path) -> None:
    theirs = {"cell": "gru", "hidden": 20, "layers": 3, "dropout": 0.3, "skip_input": True}
    path = exported(tmp_path / "base.onnx", theirs, {"mels": 18, "deltas": 1})
    own = {"head": "classify", "pooling": "attention", "attention_heads": 3}
    recipe = of_base(
        path, model={**own, "hidden": 64}, data={"tokens": "classes"}, augment={"gain_db": 3}
    )
    base, found = read_model(path).recipe, settings_of_base(recipe)
    assert found.features == base.features
    assert found.model == dataclasses.replace(base.model, **own, skip_input=False)
    rest = dataclasses.replace(found, features=recipe.features, model=recipe.model)
    assert rest == recipe


def test_without_a_base_a_recipe_stays_itself() -> None:
    recipe = Recipe()
    assert settings_of_base(recipe) is recipe


def test_a_projected_base_is_pooled_by_the_mean(tmp_path: Path) -> None:
    path = exported(tmp_path / "base.onnx", {"projection": 9}, {})
    own = {"head": "classify", "pooling": "last"}
    found = settings_of_base(of_base(path, model=own, data={"tokens": "classes"}))
    assert (found.model.pooling, found.model.projection) == ("mean", 9)


def test_settings_that_do_not_go_with_the_base_are_named(tmp_path: Path) -> None:
    path = exported(tmp_path / "base.onnx", {"layers": 1}, {"mel_scale": "slaney"})
    with pytest.raises(UsageError, match=r"recipe, on .*base\.onnx: augment\.vocal_tract warps"):
        settings_of_base(of_base(path, augment={"vocal_tract": 0.1}))


@pytest.mark.parametrize("name", ["no-such-model", "."])
def test_a_base_that_is_no_model_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such model file|holds no model\.onnx") as error:
        settings_of_base(of_base(Path(name)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("/home/me/runs/first", "first"),
        ("runs/first.onnx", "first.onnx"),
        ("digits", "digits"),
        ("", ""),
        (".", "here"),
    ],
)
def test_a_model_file_tells_no_more_of_its_base_than_its_name(
    base: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = recipe_from_dict({"training": {"base": base, "frozen_epochs": int(bool(base))}}, "t")
    written = metadata(Vocabulary.from_texts("words", ["a"]), recipe, {}, "")["speechseq.recipe"]
    read = recipe_from_dict(json.loads(written), "its metadata")
    assert read.training.base == name
    assert str(tmp_path) not in written and "home" not in written


def test_a_model_file_tells_no_more_of_its_manifests_than_their_names() -> None:
    data = {"others": ["an4", "/home/me/w.jsonl"], "same_words": ["/home/me/x.jsonl"]}
    recipe = recipe_from_dict({"data": data}, "t")
    written = metadata(Vocabulary.from_texts("words", ["a"]), recipe, {}, "")["speechseq.recipe"]
    read = recipe_from_dict(json.loads(written), "its metadata")
    assert read.data.others == ("an4", "w.jsonl") and read.data.same_words == ("x.jsonl",)


def test_a_run_finds_its_manifests_and_pronunciations_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataSettings(others=("an4", "w.jsonl"), pronunciations="p.txt")
    placed = _placed(Recipe(data=data)).data
    assert placed.others == ("an4", str(tmp_path / "w.jsonl"))
    assert placed.pronunciations == str(tmp_path / "p.txt")


# ---- taking weights ----


def started(base: Path, *, tokens: tuple[str, ...] = TONES, **model: object):
    """Return a fresh classifier and its weights before and after it was started from a base."""
    sections = {"model": {"head": "classify", **model}, "data": {"tokens": "classes"}}
    recipe = settings_of_base(of_base(base, **sections))
    network, notes = SpeechNetwork(recipe, len(tokens)), []
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    start_from(network, recipe, Vocabulary("classes", tokens), notes.append)
    (note,) = notes
    return before, network.state_dict(), note


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a classifier of the tones, with one attention head."""
    path = tmp_path_factory.mktemp("classifier") / "base.onnx"
    model = {"head": "classify", "pooling": "attention"}
    network, recipe, _ = made(model, {})
    vocabulary = Vocabulary("classes", TONES)
    network = randomise(SpeechNetwork(recipe, len(vocabulary)).eval())
    export_network(network, recipe, vocabulary, path, card={})
    return path


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in one if not one[name].equal(other[name])}


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_the_head_comes_along_where_the_tokens_are_the_same(pooling: str, classifier: Path) -> None:
    theirs, vocabulary = weights_of(str(classifier))
    assert vocabulary.tokens == TONES
    _, after, note = started(classifier, pooling=pooling)
    assert not changed(after, theirs)
    assert note == f"base {classifier}: {len(after)} of {len(after)} tensors taken, its head too"


@pytest.mark.parametrize(
    "other",
    [
        {"tokens": ("high", "new", "newer"), "pooling": "attention"},
        {"pooling": "attention", "attention_heads": 3},
        {"pooling": "attention", "skip_input": True},
        {"tokens": ("high", "low", "new"), "pooling": "attention", "skip_input": True},
    ],
    ids=str,
)
def test_another_head_is_new_as_a_whole(other: dict[str, object], classifier: Path) -> None:
    """A part of a head is no head: a bias without its matrix would only mislead."""
    theirs, _ = weights_of(str(classifier))
    before, after, note = started(classifier, **other)
    rest = {name: weight for name, weight in after.items() if not name.startswith("head.")}
    assert not changed(rest, theirs)
    assert changed(before, after) == {"features", "encoder"}
    assert note.endswith(f"{len(rest)} of {len(after)} tensors taken, the head is new")


@pytest.mark.parametrize("tokens", [("high", "low", "new"), ("low", "high"), ("new", TONES[1])])
def test_rows_come_along_by_the_names_of_their_tokens(
    tokens: tuple[str, ...], classifier: Path
) -> None:
    theirs, _ = weights_of(str(classifier))
    before, after, note = started(classifier, tokens=tokens, pooling="attention")
    shared = [name for name in tokens if name in TONES]
    assert note.endswith(f"of its head {len(shared)} of {len(tokens)} tokens")
    assert after["head.attention.weight"].equal(theirs["head.attention.weight"])
    for part in ("weight", "bias"):
        name = f"head.output.state.{part}"
        for row, token in enumerate(tokens):
            source = theirs[name][TONES.index(token)] if token in TONES else before[name][row]
            assert after[name][row].equal(source)


def test_rows_come_to_a_network_on_another_device(classifier: Path) -> None:
    """As a GPU's: `meta` has no numbers, but refuses to mix with those of the CPU likewise."""
    theirs, _ = weights_of(str(classifier))
    own = {name: weight.to("meta") for name, weight in theirs.items()}
    with pytest.raises(NotImplementedError, match="meta"):  # it went as far as fetching them
        _of_tokens(theirs, TONES, own, ("high", "low", "new"))


def test_a_part_that_ones_own_head_lacks_is_left(tmp_path: Path) -> None:
    model = {"head": "classify", "pooling": "attention", "skip_input": True}
    network, recipe, _ = made(model, {})
    vocabulary, path = Vocabulary("classes", TONES), tmp_path / "base.onnx"
    network = randomise(SpeechNetwork(recipe, vocabulary).eval())
    export_network(network, recipe, vocabulary, path, card={})
    _, after, note = started(path, tokens=("high", "low", "new"), pooling="attention")
    assert "head.output.input.weight" not in after
    assert note.endswith("of its head 2 of 3 tokens")


def test_words_apart_are_told_as_unknown_and_come_back(classifier: Path, tmp_path: Path) -> None:
    """Scores of a word apart add to _unknown_; as a base its rows are those of the words."""
    texts = ["high", "_silence_", "_unknown_:low", "_unknown_:mid"]
    vocabulary = Vocabulary.from_texts("classes", texts)
    assert vocabulary.tokens == ("_silence_", UNKNOWN, "high")
    recipe = settings_of_base(
        of_base(
            classifier,
            model={"head": "classify", "pooling": "attention"},
            data={"tokens": "classes"},
        )
    )
    network = randomise(SpeechNetwork(recipe, vocabulary).eval())
    frames, lengths = torch.randn(2, 30, network.features.dims), torch.tensor([30, 21])
    apart = network.to_learn_from(frames, lengths).log_probs.exp()
    found = network.from_features(frames, lengths)[0].exp()
    torch.testing.assert_close(found[..., 1], apart[..., [1, 3, 4]].sum(-1))
    torch.testing.assert_close(found[..., [0, 2]], apart[..., [0, 2]])
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 1))
    path = tmp_path / "apart.onnx"
    export_network(network, recipe, vocabulary, path, card={})
    assert read_model(path).vocabulary == vocabulary
    assert weights_hash(recovered(path)) == read_model(path).weights_sha256
    theirs, same = weights_of(str(path))
    assert same == vocabulary
    _, after, note = started(path, tokens=("low", "mid", "new"), pooling="attention")
    assert note.endswith("of its head 2 of 3 tokens")
    rows = "head.output.state.weight"
    assert after[rows][:2].equal(theirs[rows][3:])
    with pytest.raises(ModelError, match=r"training\.teacher .*has other words apart"):
        taught = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, base="", teacher=str(path))
        )
        teacher_of(taught, vocabulary, torch.device("cpu"))


def test_what_only_training_uses_stays_ones_own(tmp_path: Path) -> None:
    """The second task's weights are no part of a model, and of no use for other tokens."""
    sections = {"data": {"tokens": "words"}, "training": {"auxiliary": 0.5}}
    plain, second = (
        SpeechNetwork(recipe_from_dict(tree, "t"), 4)
        for tree in ({"data": {"tokens": "words"}}, sections)
    )
    assert parameters(plain) == parameters(second)
    path = tmp_path / "base.onnx"
    theirs = recipe_from_dict(sections, "base")
    export_network(second.eval(), theirs, Vocabulary("words", TOKENS), path, card={})
    own = of_base(path, data={"tokens": "words"})
    own = settings_of_base(
        dataclasses.replace(own, training=dataclasses.replace(own.training, auxiliary=0.5))
    )
    network = SpeechNetwork(own, 4)
    before = network.state_dict()["auxiliary.weight"].clone()
    other = Vocabulary("words", (*TOKENS[:3], "other"))
    start_from(network, own, other, lambda text: None)
    assert network.state_dict()["auxiliary.weight"].equal(before)
    for name, weight in second.encoder.state_dict().items():
        assert network.encoder.state_dict()[name].equal(weight)
