"""Recipes: defaults, YAML's traps, overrides, files that are none, and that no setting is idle."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speechseq
from speechseq import recipe as module
from speechseq import recipe_checks
from speechseq.errors import UsageError
from speechseq.recipe import FeatureSettings, ModelSettings, Recipe
from speechseq.recipe_file import read_recipe


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


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


def test_aliases_that_stand_for_more_than_any_memory_holds_are_refused(refusal) -> None:
    assert refusal(BOMB).startswith("not YAML (an alias of a list or mapping; write it out in")


@pytest.mark.parametrize("value", ["x" * 10**6, "[x, y, z]", "[[[[[[[[1]]]]]]]]"])
def test_values_are_cut_to_fit_a_message(refusal, value: str) -> None:
    for text in (f"model: {{cell: {value}}}", f"seed: {value}"):
        assert len(refusal(text)) < 200


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
        if path not in (own, Path(recipe_checks.__file__)):
            elsewhere |= reads(ast.parse(path.read_text(encoding="utf-8")))
    for cls in ast.parse(own.read_text(encoding="utf-8")).body:
        if not isinstance(cls, ast.ClassDef):
            continue
        methods = {node.name: reads(node) for node in cls.body if isinstance(node, ast.FunctionDef)}
        for _ in methods:  # properties read each other
            elsewhere |= {n for name, read in methods.items() if name in elsewhere for n in read}
    tree = Recipe().to_dict()
    names = {key for section in tree.values() if isinstance(section, dict) for key in section}
    idle = sorted(({"name", "seed"} | names) - elsewhere)
    assert idle == []
