"""What a recipe's settings may be: every message, every bound, and that what is read comes back."""

from __future__ import annotations

import ast
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq import recipe_checks
from speechseq.errors import UsageError
from speechseq.recipe import Recipe
from speechseq.recipe_checks import BOUNDS, CHOICES, recipe_from_dict

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
        ("a: &a [*a]", "not YAML (an alias of a list or mapping; write it out"),
        ("name: &a [*a]", "not YAML (an alias of a list or mapping; write it out"),
        ("&a {data: *a}", "not YAML (an alias of a list or mapping; write it out"),
        ("a: &a {seed: 1}\nmodel: {<<: *a}", "not YAML (an alias of a list or mapping"),
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
    ("name: ''", "name '' calls no folder, as a run's is; write one without / and \\"),
    ("name: .", "name '.' calls no folder"),
    ("name: ..", "name '..' calls no folder"),
    ("name: ../escaped", "name '../escaped' calls no folder"),
    ("name: 'a\\b'", r"name 'a\\b' calls no folder"),
    ('name: "a\\0b"', r"name 'a\x00b' calls no folder"),
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
    ("features: {fft_samples: 401}", "features.fft_samples 401 is odd; set an even number"),
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
        "data: {unknown_words: [fsdd]}",
        "data.unknown_words are classes, which need data.tokens classes; leave them out",
    ),
    (
        "model: {conv_blocks: 2}",
        "model.conv_blocks are of model.front_end conv; choose that, or set 0",
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
        "augment: {eventful_noises: 3}",
        "augment.eventful_noises needs augment.noise_probability above 0; set it to 0",
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
        "training.auxiliary beside classes spells their phones; set model.phones, too, or 0",
    ),
    (
        "model: {phones: 0.1}",
        "model.phones are of model.head classify, learnt by training.auxiliary; set both, or 0",
    ),
    (
        "{model: {head: classify, phones: 0.1}, data: {tokens: classes}, training: {auxiliary: 1}}",
        "model.phones and data.pronunciations need each other; set both, or none",
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
    tree = ast.parse(Path(recipe_checks.__file__).read_text())
    yields = [node.value for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    for value in yields:
        parts = value.values if isinstance(value, ast.JoinedStr) else [value]
        said = [p.value.rstrip() for p in parts if isinstance(p, ast.Constant)]
        assert any(all(part in says for part in said[:1]) for _, says in CONTRADICTIONS), said
    assert len(yields) > 9


def test_a_number_of_json_too_large_for_a_float() -> None:
    with pytest.raises(UsageError, match=r"'training.ema' is 1000*\.\.\.000*; a number goes here"):
        recipe_from_dict({"training": {"ema": 10**400}}, "m.onnx")


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
