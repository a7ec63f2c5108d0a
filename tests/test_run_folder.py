"""The folder of a run: no recipe of one's own, no two trainings, no other settings."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import yaml

from speechseq.errors import ModelError
from speechseq.model_file import RUN_METRICS, RUN_RECIPE, RUN_VOCABULARY
from speechseq.recipe_file import read_recipe
from speechseq.training.loop import train
from speechseq.training.run_folder import alone


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A finished run that may be spoilt."""
    return shutil.copytree(run, tmp_path / "copy")


def edit(run: Path, section: str, **values: object) -> None:
    tree = yaml.safe_load((run / RUN_RECIPE).read_text())
    tree[section] |= values
    (run / RUN_RECIPE).write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("model", "hidden", 7), ("training", "epochs", 21), ("augment", "speeds", [0.9, 1.0])],
)
def test_a_recipe_edited_meanwhile_is_named(
    copy: Path, fails, section: str, name: str, value: object
) -> None:
    before = getattr(getattr(read_recipe(copy / RUN_RECIPE), section), name)
    before = list(before) if isinstance(before, tuple) else before
    edit(copy, section, **{name: value})
    said = fails(1, "train", "--resume", copy)
    assert f"recipe.yaml: {section}.{name} is {value}, and was {before} when" in said


def test_what_no_weight_follows_from_may_be_edited(copy: Path, call) -> None:
    edit(copy, "training", keep_checkpoints=1)
    edit(copy, "decoding", least_confidence=0.1)
    edit(copy, "data", cache_ram_gigabytes=1.0)
    assert call("train", "--resume", copy, "--device", "cpu")[0] == 0


def test_a_run_of_before_settings_were_written_down_is_resumed(copy: Path, call) -> None:
    (copy / "data.json").unlink()
    assert call("train", "--resume", copy, "--device", "cpu")[0] == 0


def test_no_two_train_in_one_folder(digit_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with alone(run):
        with pytest.raises(ModelError, match="run: another process is training in it"):
            train(read_recipe(digit_recipe), run, device="cpu")
        assert not run.exists()
        with alone(tmp_path / "other"):
            pass
    with alone(run):
        pass


def test_a_disk_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    with alone(tmp_path / "run"), alone(tmp_path / "run"):
        pass


def test_where_nothing_can_be_written_is_said_before_features_are_made(
    digit_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delattr("speechseq.training.loop.listed")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ModelError, match="file: no folder that can be written to; name"):
            train(read_recipe(digit_recipe), run, device="cpu")


def test_what_is_left_of_a_run_is_not_trained_into(copy: Path, digit_recipe: Path) -> None:
    (copy / RUN_RECIPE).unlink()
    with pytest.raises(ModelError, match="holds another run's checkpoints; name another folder"):
        train(read_recipe(digit_recipe), copy, device="cpu")


def test_metrics_that_a_disk_spoilt_go(copy: Path, call) -> None:
    metrics = copy / RUN_METRICS
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + b'\xff\xfe{"epoch"\n')
    assert call("train", "--resume", copy, "--device", "cpu")[0] == 0
    assert metrics.read_bytes() == whole


def test_one_of_many_processes_prints_the_model(
    digit_recipe: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.training.loop.train", lambda *_, **__: "model.onnx")
    for rank, said in ((0, "model.onnx\n"), (1, "")):
        monkeypatch.setenv("RANK", str(rank))
        assert call("train", digit_recipe)[:2] == (0, said)


def test_a_recipe_of_ones_own_is_no_run_and_is_not_written_over(
    digit_recipe: Path, tmp_path: Path, fails, call
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(digit_recipe, mine / RUN_RECIPE)
    said = fails(1, "train", mine / RUN_RECIPE, "-o", mine)
    assert "mine: holds a recipe that is no run's; name another folder" in said
    assert (mine / RUN_RECIPE).read_text() == digit_recipe.read_text()
    assert "not a run folder" in fails(1, "train", "--resume", mine)
    assert "holds no run" in fails(1, "runs", tmp_path)


@pytest.mark.parametrize("name", [RUN_RECIPE, RUN_VOCABULARY])
def test_a_run_that_nests_without_end_is_damaged(copy: Path, fails, name: str) -> None:
    nested = "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n" if name == RUN_RECIPE else "[" * 100_000
    (copy / name).write_text(nested)
    assert "copy: damaged (" in fails(1, "train", "--resume", copy)
