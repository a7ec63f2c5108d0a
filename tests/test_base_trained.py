"""Training that goes on from a model: what is frozen, what comes along, what resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import RATE
from safetensors.torch import load
from test_base import exported
from test_loop import rows, stop_after, weights

from speechseq.cli import main
from speechseq.errors import ModelError
from speechseq.model_file import RUN_METRICS, read_model
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.training.base import weights_of
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.loop import train
from speechseq.training.run_folder import read_run


@pytest.fixture
def base(write_recipe, tmp_path: Path) -> Path:
    """A run folder whose model spells words."""
    train(read_recipe(write_recipe(), ["training.epochs=2"]), tmp_path / "base", device="cpu")
    return tmp_path / "base"


def encoder(tensors: dict[str, torch.Tensor], prefix: str = "network.") -> dict[str, torch.Tensor]:
    """The weights that are a base's, statistics of CMVN among them."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith((f"{prefix}encoder.", f"{prefix}features.cmvn."))
    }


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].equal(other[name]), name


@pytest.mark.parametrize("what", ["run", "file"])
def test_a_frozen_encoder_stays_the_bases_to_the_bit(
    what: str, base: Path, write_recipe, tmp_path: Path
) -> None:
    name = base if what == "run" else base / "model.onnx"
    frozen = [
        f"training.base={name}", "training.epochs=2", "training.frozen_epochs=1",
        "training.keep_checkpoints=9", "features.mels=33", "model.hidden=8",
        "augment.gain_db=20", "seed=5",
    ]  # fmt: skip
    recipe, notes = read_recipe(write_recipe("classes"), frozen), []
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    (note,) = (note for note in notes if note.startswith("base "))
    assert note.startswith(f"base {name}: ") and note.endswith(" tensors taken, the head is new")
    expected = encoder(weights_of(str(base))[0], "")
    first, last = sorted((tmp_path / "run" / FOLDER).glob(PATTERN))
    early, late = encoder(loaded(first)), encoder(loaded(last))
    assert_equal(early, expected)
    moved = {name for name in late if not late[name].equal(expected[name])}
    assert moved == {name for name in late if name.startswith("encoder.")}, "CMVN is the base's"
    heads = [loaded(path)["network.head.output.state.weight"] for path in (first, last)]
    assert not heads[0].equal(heads[1])
    assert read_run(tmp_path / "run")[0].features == read_run(base)[0].features


def loaded(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load(checkpoint.read_bytes())


def test_the_head_learns_while_the_encoder_is_frozen(
    base: Path, write_recipe, tmp_path: Path
) -> None:
    frozen = [f"training.base={base}", "training.epochs=8", "training.frozen_epochs=8"]
    notes: list[str] = []
    recipe = read_recipe(write_recipe("classes"), frozen)
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    assert sum("mind: in all 8 epochs the new head learns alone" in note for note in notes) == 1
    history = rows(tmp_path / "run")
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert_equal(encoder(weights(tmp_path / "run")), encoder(weights_of(str(base))[0], ""))


def test_the_same_tokens_go_on_where_the_base_stopped(
    base: Path, write_recipe, tmp_path: Path
) -> None:
    still = [f"training.base={base}", "training.epochs=1", "training.learning_rate=1e-9"]
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), [*still, "training.weight_decay=0"])
    model = train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    assert any(note.endswith(" tensors taken, its head too") for note in notes)
    theirs, found = weights_of(str(base))[0], weights_of(str(tmp_path / "run"))[0]
    for name, weight in theirs.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)
    assert rows(tmp_path / "run")[0]["validation_loss"] == pytest.approx(
        min(row["validation_loss"] for row in rows(base)), rel=1e-3
    )
    assert read_model(model).recipe.training.base == "base"
    assert str(tmp_path) not in json.dumps(read_model(model).recipe.to_dict())


CHANCE = [
    "model.dropout=0.3", "augment.noise_probability=0.5", "augment.time_masks=1",
    "training.epochs=3", "training.batch=8", "training.frozen_epochs=1",
]  # fmt: skip
"""Five steps an epoch, the first of them frozen."""


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_a_run_from_a_base_resumes_to_the_bit_without_it(
    steps: int, base: Path, write_recipe, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe("classes"), [*CHANCE, f"training.base={base}"])
    train(recipe, tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", device="cpu", show=stop_after(steps))
    shutil.rmtree(base)
    train(Recipe(), tmp_path / "parts", device="cpu", resume=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for one, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert one["validation_loss"] == other["validation_loss"]


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_base_again(
    base: Path, write_recipe, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe("classes"), [*CHANCE, f"training.base={base}"])
    train(recipe, tmp_path / "whole", device="cpu")
    for name in ("killed", "later"):
        (tmp_path / name).mkdir()
        for file in ("recipe.yaml", "vocabulary.json"):
            shutil.copy(tmp_path / "whole" / file, tmp_path / name)
    train(Recipe(), tmp_path / "killed", device="cpu", resume=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"base: no such model file, run folder or bundled model"):
        train(Recipe(), tmp_path / "later", device="cpu", resume=True)
    assert not (tmp_path / "later" / RUN_METRICS).exists()


def test_a_run_knows_its_base_from_anywhere(
    base: Path, write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(write_recipe(), ["training.base=base", "training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu")
    assert read_run(tmp_path / "run")[0].training.base == str(base)


def test_a_base_does_not_go_with_resuming(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["train", "--resume", str(base), "--base", str(base)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("speechseq: train: --resume goes on with its own weights; leave --base out\n")


@pytest.mark.parametrize("name", ["2024", "a: b", "yes", "# [1"])
def test_the_command_takes_a_base_of_any_name(
    name: str,
    write_recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name is no YAML."""
    monkeypatch.chdir(tmp_path)
    exported(tmp_path / name, {"layers": 1}, {"rate": RATE})
    command = ["train", str(write_recipe()), "training.epochs=1", "-o", "run", "--device", "cpu"]
    assert main([*command, "--base", name]) == 0
    assert f"base {name}: " in capsys.readouterr().err
    recipe, _ = read_run(tmp_path / "run")
    assert recipe.training.base.endswith(name)
    assert (recipe.model.hidden, recipe.features.mels) == (12, 16)
    assert main(["train", str(write_recipe()), "--base", "nothing", "-o", "other"]) == 1
    assert "nothing: no such model file, run folder or bundled model" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
