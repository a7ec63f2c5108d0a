"""Recipes: defaults, YAML's traps, every message, and that no setting is idle."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speechseq
from speechseq import recipe as module
from speechseq.errors import UsageError
from speechseq.recipe import (
    BOUNDS,
    CHOICES,
    FeatureSettings,
    ModelSettings,
    Recipe,
    recipe_from_dict,
)
from speechseq.recipe_file import read_recipe

SECTIONS: dict[str, type] = {
    name: kind
    for name, kind in typing.get_type_hints(Recipe).items()
    if dataclasses.is_dataclass(kind)
}
KINDS: dict[str, Any] = {
    f"{section}.{name}": kind
    for section, cls in SECTIONS.items()
    for name, kind in typing.get_type_hints(cls).items()
} | {"name": str, "seed": int}


@pytest.fixture
def recipe(tmp_path: Path):
    """Return a function that reads a recipe text."""

    def read(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return read_recipe(path, overrides)

    return read


@pytest.fixture
def refusal(recipe, tmp_path: Path):
    """Return a function that reads a wrong recipe text, and returns what is said of it."""

    def read(text: str, *overrides: str) -> str:
        with pytest.raises(UsageError) as caught:
            recipe(text, *overrides)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        return message.removeprefix(f"{tmp_path / 'mine.yaml'}: ")

    return read


# Reading


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "model:\ntraining: {}\n"])
def test_an_empty_recipe_is_the_defaults(recipe, text: str) -> None:
    assert recipe(text) == Recipe(name="mine")


def test_the_file_names_the_recipe_unless_it_names_itself(recipe) -> None:
    assert recipe("seed: 1").name == "mine"
    assert recipe("name: other").name == "other"


def test_what_is_written_and_nothing_else_differs(recipe) -> None:
    found = recipe("model: {cell: gru, hidden: 64}\naugment: {speeds: [0.9, 1, 1.1]}\nseed: 7")
    assert found == dataclasses.replace(
        Recipe(name="mine", seed=7),
        model=dataclasses.replace(Recipe().model, cell="gru", hidden=64),
        augment=dataclasses.replace(Recipe().augment, speeds=(0.9, 1.0, 1.1)),
    )


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "'0.001'"])
def test_numbers_with_exponents_are_numbers(recipe, number: str) -> None:
    assert recipe(f"training: {{learning_rate: {number}}}").training.learning_rate == 1e-3
    assert recipe("", f"training.learning_rate={number}").training.learning_rate == 1e-3


def test_a_whole_number_will_do_for_a_float(recipe) -> None:
    found = recipe("training: {clip_norm: 5}").training.clip_norm
    assert isinstance(found, float)
    assert found == 5.0


def test_one_item_will_do_for_a_list(recipe) -> None:
    assert recipe("data: {words: yes please}").data.words == ("yes please",)
    assert recipe("augment: {speeds: 1.1}").augment.speeds == (1.1,)


def test_aliases_of_yaml_work(recipe) -> None:
    found = recipe("augment: {gain_db: &many 3, shift_seconds: *many}")
    assert found.augment.shift_seconds == 3.0


# Wrong keys, types, values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modle: {}", "unknown key 'modle'; did you mean 'model'?"),
        ("model: {hiden: 3}", "unknown key 'model.hiden'; did you mean 'hidden'?"),
        ("zzz: 1", "unknown key 'zzz'; choose from augment, data, decoding, features, model,"),
        ("decoding: {x: 1}", "unknown key 'decoding.x'; choose from clip_seconds, decoder"),
        ("5: 1", "unknown key '5'; choose from"),
        ("model: {null: 1}", "unknown key 'model.None'"),
        ('"a\\nb": 1', r"unknown key 'a\nb'"),
        ("model: 3", "'model' is 3; a section of keys goes here"),
        ("model: [hidden]", "'model' is ['hidden']; a section of keys goes here"),
        ("seed: true", "'seed' is True; a whole number goes here"),
        ("model: {layers: yes}", "'model.layers' is True; a whole number goes here"),
        ("model: {layers: 2.0}", "'model.layers' is 2.0; a whole number goes here"),
        ("model: {layers: '2'}", "'model.layers' is '2'; a whole number goes here"),
        ("model: {layers: }", "'model.layers' is None; a whole number goes here"),
        ("training: {ema: no}", "'training.ema' is False; a number goes here"),
        ("training: {ema: much}", "'training.ema' is 'much'; a number goes here"),
        ("model: {residual: 1}", "'model.residual' is 1; true or false goes here"),
        ("model: {residual: 'true'}", "'model.residual' is 'true'; true or false goes here"),
        ("name: 5", "'name' is 5; text goes here"),
        ("name: 2020-01-01", "'name' is datetime.date(2020, 1, 1); text goes here"),
        ("name: {x: 1}", "'name' is {'x': 1}; text goes here"),
        ("data: {words: [yes]}", "'data.words' is read as True by YAML; put quotes around it"),
        ("data: {words: [1]}", "'data.words' is 1; text goes here"),
        ("augment: {speeds: [1, fast]}", "'augment.speeds' is 'fast'; a number goes here"),
        ("model: {cell: ltsm}", "'model.cell' is 'ltsm'; did you mean 'lstm'?"),
        ("model: {cell: cnn}", "'model.cell' is 'cnn'; did you mean 'rnn'?"),
        ("model: {cell: xyz}", "'model.cell' is 'xyz'; choose from gru, lstm, rnn"),
        ("training: {ema: .nan}", "'training.ema' is nan; a number from 0.0 to 0.99999 goes here"),
        ("training: {ema: inf}", "'training.ema' is inf; a number from"),
        (f"training: {{ema: {'9' * 400}}}", "not YAML (a number beyond 64 bits"),
        (f"model: {{hidden: 0x{'f' * 5000}}}", "not YAML (a number beyond 64 bits"),
        ("a: &a [*a]", "unknown key 'a'; choose from"),
        ("name: &a [*a]", "'name' is [[...]]; text goes here"),
        ("&a {data: *a}", "unknown key 'data.data'"),
    ],
)
def test_what_is_wrong_is_named(refusal, text: str, says: str) -> None:
    assert refusal(text).startswith(says)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_fields_with_a_choice_for_default(refusal, name: str) -> None:
    assert KINDS[name] is str
    assert setting_of(Recipe(), name) in CHOICES[name]
    assert refusal("", f"{name}=nonsense").startswith(f"'{name}' is 'nonsense'; ")


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_fields_that_keep_them(refusal, name: str) -> None:
    low, high = BOUNDS[name]
    assert KINDS[name] in (int, float)
    assert low <= setting_of(Recipe(), name) <= high
    for beyond in (KINDS[name](low) - 1, KINDS[name](high) * 2 + 1):
        says = f"'{name}' is {beyond!r}; a number from {low} to {high} goes here"
        assert refusal("", f"{name}={beyond!r}") == says


def test_every_number_has_its_bounds() -> None:
    numbers = {name for name, kind in KINDS.items() if kind in (int, float)}
    assert numbers - {"seed"} == set(BOUNDS)


def setting_of(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for part in name.split("."):
        value = getattr(value, part)
    return value


# Contradictions

CONTRADICTIONS = [
    (
        "{data: {tokens: words}, decoding: {decoder: lexicon}}",
        "decoding.decoder lexicon spells words in characters; use data.tokens characters",
    ),
    ("seed: -1", "seed -1 is not from 0 to 4294967295; choose one that is"),
    ("seed: 4294967296", "seed 4294967296 is not from 0 to 4294967295; choose one that is"),
    (
        "features: {rate: 1000, window_seconds: 0.001, low_hz: 1}",
        "features.hop_seconds and window_seconds are under a sample; raise them",
    ),
    (
        "features: {fft_samples: 256}",
        "features.fft_samples 256 is shorter than the window of 400 samples; "
        "raise it or leave it 0",
    ),
    (
        "features: {high_hz: 9000}",
        "features.low_hz 20 and high_hz 9000 must rise and stay under half the rate, 8000; "
        "correct them",
    ),
    ("features: {low_hz: 500, high_hz: 500}", "features.low_hz 500 and high_hz 500 must rise"),
    (
        "features: {kind: mfcc, coefficients: 41}",
        "features.coefficients is more than features.mels; lower it",
    ),
    (
        "model: {head: classify}",
        "model.head classify does not go with data.tokens characters; "
        "ctc takes characters or words, classify takes classes",
    ),
    ("data: {tokens: classes}", "model.head ctc does not go with data.tokens classes;"),
    (
        "model: {time_stride: 2}",
        "model.time_stride needs model.front_end stack or conv; choose one",
    ),
    (
        "{model: {front_end: conv}, features: {kind: mfcc}}",
        "model.front_end conv needs neighbouring frequencies; use log_mel without deltas",
    ),
    (
        "{model: {front_end: conv}, features: {deltas: 1}}",
        "model.front_end conv needs neighbouring frequencies; use log_mel without deltas",
    ),
    (
        "{model: {head: classify, projection: 8}, data: {tokens: classes}}",
        "model.projection mixes both directions' last states; use pooling mean",
    ),
    (
        "model: {attention_heads: 2}",
        "model.attention_heads are for model.head classify with pooling attention; set 1",
    ),
    (
        "{model: {head: classify, pooling: mean, attention_heads: 2}, data: {tokens: classes}}",
        "model.attention_heads are for model.head classify with pooling attention; set 1",
    ),
    (
        "training: {logit_adjustment: 1}",
        "training.logit_adjustment evens out classes, which need model.head classify; set 0",
    ),
    (
        "training: {frozen_epochs: 1}",
        "training.frozen_epochs waits for nothing without training.base; set it to 0",
    ),
    (
        "{augment: {vocal_tract: 0.1}, features: {mel_scale: slaney}}",
        "augment.vocal_tract warps HTK mels; use features.mel_scale htk",
    ),
    (
        "model: {front_end: conv, time_stride: 5}",
        "model.time_stride over 4 would step over frames; lower it or use front_end stack",
    ),
    (
        "{model: {head: classify}, data: {tokens: classes}, augment: {join: 2}}",
        "augment.join makes strings, which need model.head ctc; set it to 1",
    ),
    (
        "augment: {splice: 0.1}",
        "augment.splice makes clips of no class, which need model.head classify; set it to 0",
    ),
    (
        "augment: {noise_alone: 0.1}",
        "augment.noise_alone needs model.head ctc and augment.noise_probability above 0; "
        "set it to 0",
    ),
    (
        "augment: {mixup: 0.2}",
        "augment.mixup mixes classes, which need model.head classify; set it to 0",
    ),
    (
        "{model: {layers: 1}, training: {intermediate: 0.3}}",
        "training.intermediate needs model.head ctc and two model.layers or more; set it to 0",
    ),
    (
        "{model: {head: classify}, data: {tokens: classes}, training: {auxiliary: 0.3}}",
        "training.auxiliary is a task beside CTC, which needs model.head ctc; set it to 0",
    ),
    ("augment: {speeds: []}", "augment.speeds holds a factor outside 0.25 to 4; correct it"),
    ("augment: {speeds: [1, 5]}", "augment.speeds holds a factor outside 0.25 to 4; correct it"),
    ("augment: {speeds: [.nan]}", "augment.speeds holds a factor outside 0.25 to 4; correct it"),
    (
        "augment: {noise_low_db: 31}",
        "augment.noise_low_db is above noise_high_db; swap them",
    ),
]


@pytest.mark.parametrize(("text", "says"), CONTRADICTIONS)
def test_contradictions(refusal, text: str, says: str) -> None:
    assert refusal(text).startswith(says)


def test_what_goes_together_is_read(recipe) -> None:
    heads = "model: {head: classify, pooling: attention, attention_heads: 2}"
    assert recipe(heads, "data.tokens=classes").model.attention_heads == 2
    assert recipe("training: {frozen_epochs: 1, base: digits}").training.frozen_epochs == 1


def test_every_contradiction_is_tested() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    (function,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "_contradictions"
    )
    yields = [node.value for node in ast.walk(function) if isinstance(node, ast.Yield)]
    for value in yields:
        parts = value.values if isinstance(value, ast.JoinedStr) else [value]
        said = [p.value.rstrip() for p in parts if isinstance(p, ast.Constant)]
        assert any(all(part in says for part in said[:1]) for _, says in CONTRADICTIONS), said
    assert len(yields) > 9


def test_a_number_of_json_too_large_for_a_float() -> None:
    with pytest.raises(UsageError, match=r"'training.ema' is 1000*; a number goes here"):
        recipe_from_dict({"training": {"ema": 10**400}}, "m.onnx")


# Overrides


def test_overrides_are_laid_over(recipe) -> None:
    found = recipe(
        "model: {hidden: 64, cell: gru}\nfeatures:\n",
        "model.hidden=32",
        "features.rate=8000",
        "augment.speeds=[0.9, 1.1]",
        "name=over",
        "seed=3",
        "data.root=a=b",
    )
    assert (found.model.hidden, found.model.cell) == (32, "gru")
    assert found.features.rate == 8000
    assert found.augment.speeds == (0.9, 1.1)
    assert (found.name, found.seed, found.data.root) == ("over", 3, "a=b")


def test_the_last_override_wins(recipe) -> None:
    assert recipe("", "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "seed: not an override; write section.key=value"),
        ("=1", "=1: not an override; write section.key=value"),
        (".hidden=1", ".hidden=1: not an override; write section.key=value"),
        ("model.=1", "model.=1: not an override; write section.key=value"),
        ("name=[", "name=[: '[' is not a YAML value; quote it"),
        ("seed=0b_", "seed=0b_: '0b_' is not a YAML value; quote it"),
        ("seed=!!int", "seed=!!int: '!!int' is not a YAML value; quote it"),
        ("name.x=1", "name.x=1: 'name' is 'mine', not a section; correct the key"),
        ("model.hiden=1", "unknown key 'model.hiden'; did you mean 'hidden'?"),
        ("model.a.b=1", "unknown key 'model.a.b'"),
        ("model=5", "'model' is 5; a section of keys goes here"),
        ("model.hidden=", "'model.hidden' is None; a whole number goes here"),
    ],
)
def test_wrong_overrides(refusal, override: str, says: str) -> None:
    assert refusal("", override).startswith(says)


def test_an_override_into_what_is_no_section(refusal) -> None:
    assert refusal("training: 5", "training.epochs=3").startswith(
        "training.epochs=3: 'training' is 5, not a section; correct the key"
    )


# Files that are no recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [", "not YAML (while parsing"),
        ("a: b: c", "not YAML (mapping values are not allowed here"),
        ("seed: 1\nseed: 2", "not YAML ('seed' is written twice"),
        ("model:\n  hidden: 1\n  hidden: 1\n", "not YAML ('hidden' is written twice"),
        ("\tseed: 1", "not YAML (while scanning"),
        ("seed: !!python/object:os.system x", "not YAML (could not determine a constructor"),
        ("name: !!bool maybe", "not YAML ("),
        ("name: !!timestamp maybe", "not YAML ("),
        ("name: !!int", "not YAML ("),
        ("name: !!float 1:2:x", "not YAML ("),
        ("name: 0b_", "not YAML ("),
        ("name: 2020-13-45", "not YAML ("),
        ("name: " + "9" * 5000, "not YAML ("),
        ("? [a]\n: b", "not YAML ("),
        ("!!map [[a, b]]", "not YAML ("),
        ("!!map x", "not YAML ("),
        ("name: *nothing", "not YAML (found undefined alias"),
        ("seed: 1\n---\nseed: 2", "not YAML (expected a single document"),
        ("\x00", "not YAML (unacceptable character"),
        ("[" * 5000, "not YAML ("),
        ("just words", "not a mapping; write 'section:' and its keys below it"),
        ("- seed", "not a mapping; write 'section:' and its keys below it"),
        ("[]", "not a mapping; write 'section:' and its keys below it"),
        ("0", "not a mapping; write 'section:' and its keys below it"),
    ],
    ids=range(24),
)
def test_what_is_no_recipe_is_said_in_one_line(refusal, text: str, says: str) -> None:
    assert refusal(text).startswith(says)


def test_the_line_is_named(refusal) -> None:
    assert "line 3, column 1" in refusal("seed: 1\nmodel: {}\nseed: 2\n")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    for name, says in {"none": "[Errno 2]", ".": "[Errno 21]", "latin.yaml": "'utf-8'"}.items():
        with pytest.raises(UsageError) as caught:
            read_recipe(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: cannot be read ({says}")
        assert len(str(caught.value).splitlines()) == 1


PIECES = """
model seed name : - ? !!int !!map !!bool !!set !!timestamp !!binary
&a *a << [ ] { } ' " | 0x 1 e . _ ~
"""
pieces = st.sampled_from([*PIECES.split(), " ", "\n", "  "])


@settings(deadline=None)
@given(st.text() | st.lists(pieces).map("".join), st.text())
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, value: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    for overrides in ([], [value], [f"name={value}"]):
        with contextlib.suppress(UsageError):
            assert isinstance(read_recipe(path, overrides), Recipe)


# Round trip


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Return the values a field may have."""
    kind = KINDS[name]
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    if name in BOUNDS:
        low, high = BOUNDS[name]
        return st.integers(int(low), int(high)) if kind is int else st.floats(low, high)
    if kind == tuple[float, ...]:
        return st.lists(st.floats(0.25, 4), min_size=1).map(tuple)
    if kind is int:
        return st.integers(0, 2**32 - 1)
    return {bool: st.booleans(), str: st.text()}.get(kind, st.lists(st.text()).map(tuple))


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={name: values_of(name) for name in KINDS}))
def test_round_trip(values: dict[str, Any]) -> None:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, key = name.partition(".")
        if dot:
            tree.setdefault(section, {})[key] = value
        else:
            tree[name] = value
    try:
        recipe = recipe_from_dict(tree, "tree")
    except UsageError as error:
        # Each value alone is right: only a contradiction may be found.
        message = str(error)
        assert any(says.split()[0] in message for _, says in CONTRADICTIONS)
        return
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "json") == recipe
    for name, value in values.items():
        assert setting_of(recipe, name) == value


def test_to_dict_holds_every_setting_as_plain_json() -> None:
    tree = Recipe().to_dict()
    assert json.loads(json.dumps(tree)) == tree
    found = {f"{section}.{name}" for section in SECTIONS for name in tree[section]}
    assert found | {"name", "seed"} == set(KINDS)
    assert recipe_from_dict(tree, "defaults") == Recipe()


# What follows from settings


def test_samples_and_frames() -> None:
    own = FeatureSettings(rate=8000, window_seconds=0.025, hop_seconds=0.01, edge_seconds=0.1)
    assert (own.hop_samples, own.window_samples, own.edge_samples) == (80, 200, 800)
    assert own.transform_samples == 256
    assert own.top_hz == 4000
    assert [own.frames(n) for n in (1, 79, 80, 8000)] == [21, 21, 22, 121]
    assert dataclasses.replace(own, fft_samples=512, high_hz=3800).transform_samples == 512
    assert dataclasses.replace(own, high_hz=3800).top_hz == 3800


@given(st.integers(1, 10**6), st.integers(1, 8))
def test_output_frames_are_strides_begun(frames: int, stride: int) -> None:
    found = ModelSettings(time_stride=stride).output_frames(frames)
    assert (found - 1) * stride < frames <= found * stride


# No setting is idle


def reads(tree: ast.AST) -> set[str]:
    """Return the names of all attributes that are read."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_field_is_read_outside_the_recipe() -> None:
    """A field that only a property of its dataclass reads counts where that property is read."""
    own = Path(module.__file__)
    elsewhere = set()
    for path in Path(speechseq.__file__).parent.rglob("*.py"):
        if path != own:
            elsewhere |= reads(ast.parse(path.read_text(encoding="utf-8")))
    for cls in ast.parse(own.read_text(encoding="utf-8")).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        methods = {node.name: reads(node) for node in cls.body if isinstance(node, ast.FunctionDef)}
        for _ in methods:  # properties read each other
            elsewhere |= {n for name, read in methods.items() if name in elsewhere for n in read}
    idle = sorted(name for name in KINDS if name.rpartition(".")[2] not in elsewhere)
    assert idle == []
