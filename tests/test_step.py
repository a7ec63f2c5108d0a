"""A training step: its rate, pieces and precision, and what it does when something is wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import rows, weights

from speechseq.errors import DataError, ModelError
from speechseq.manifest import read_manifest
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.training.loop import train
from speechseq.training.loss import Sums, loss_sums
from speechseq.training.step import learning_rate


def test_the_learning_rate_rises_then_falls() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, step, 100) for step in range(101)]
    top = recipe.training.learning_rate
    assert rates[0] < 0.05 * top
    assert max(rates) == pytest.approx(top, rel=0.01)
    assert rates.index(max(rates)) == 15
    assert rates[100] < 0.001 * top
    cosine = dataclasses.replace(
        recipe, training=dataclasses.replace(recipe.training, schedule="cosine")
    )
    falling = [learning_rate(cosine, step, 100) for step in range(100)]
    assert falling == sorted(falling, reverse=True)


def infinite_at(*steps: int):
    """Return a `loss_sums` that gives infinity at these calls (the dry run is call 0)."""
    seen = -1

    def sometimes_infinite(*arguments: torch.Tensor) -> Sums:
        nonlocal seen
        seen += 1
        sums = loss_sums(*arguments)
        bad = dataclasses.replace(sums, true=sums.true * float("inf"))
        return bad if seen in steps else sums

    return sometimes_infinite


def test_a_step_without_a_finite_gradient_is_skipped_and_named(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.training.step.loss_sums", infinite_at(2))
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    assert rows(tmp_path / "run")[0]["skipped_steps"] == 1
    assert np.isfinite(rows(tmp_path / "run")[0]["loss"])
    assert any("1 steps skipped: loss or gradient not finite" in note for note in notes)
    (named,) = (note for note in notes if note.startswith("step 1 skipped"))
    assert re.search(r"finite; tones/\w+_\d+@0.000, .* and 4 more$", named)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_too_many_skipped_steps_in_a_row_stop_with_the_batch_saved(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.training.step.loss_sums", infinite_at(1, 3, 4, 5))
    recipe = read_recipe(write_recipe(), ["training.stop_after_skips=3"])
    with pytest.raises(DataError, match=r"bad_batch.jsonl: 3 steps in a row without a finite"):
        train(recipe, tmp_path / "run", device="cpu")
    assert len(read_manifest(tmp_path / "run" / "bad_batch.jsonl")) in (4, 8)


def test_a_network_of_blanks_is_said(write_recipe, tmp_path: Path) -> None:
    notes: list[str] = []
    slow = ["training.learning_rate=1e-9", "training.epochs=6"]
    train(read_recipe(write_recipe(), slow), tmp_path / "run", device="cpu", note=notes.append)
    said = [note for note in notes if "nothing but blanks; try" in note]
    heard = load(tmp_path / "run").transcribe(np.zeros(4000, np.float32)).text
    assert bool(said) == (heard == "") and len(said) in (0, 2)


def test_a_batch_too_large_for_memory_is_named_before_training(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Sums:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr("speechseq.training.step.loss_sums", full)
    with pytest.raises(
        DataError,
        match=r"largest batch \(8 utterances of up to 0\.\d s, tones/.*raise tra",
    ):
        train(read_recipe(write_recipe()), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("tokens", ["characters", "classes"])
def test_pieces_of_a_batch_are_the_batch(tokens: str, write_recipe, tmp_path: Path) -> None:
    chance = ["augment.noise_probability=0.5", "augment.time_masks=1", "training.epochs=2"]
    runs = [tmp_path / "whole", tmp_path / "pieces"]
    for run, pieces in zip(runs, (1, 3), strict=True):
        settings = [*chance, f"training.accumulate={pieces}", "training.label_smoothing=0.1"]
        train(read_recipe(write_recipe(tokens), settings), run, device="cpu")
    one, other = map(weights, runs)
    assert max((one[n] - other[n]).abs().max() for n in one if n.startswith("network")) < 1e-4
    assert rows(runs[0])[-1]["loss"] == pytest.approx(rows(runs[1])[-1]["loss"], abs=1e-4)


def test_half_precision_trains_and_ships(write_recipe, tmp_path: Path) -> None:
    settings = ["training.precision=bf16", "training.epochs=20", "training.batch=4"]
    train(read_recipe(write_recipe(), settings), tmp_path / "run", device="cpu")
    history = rows(tmp_path / "run")
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert all(t.dtype == torch.float32 for n, t in weights(tmp_path / "run").items())


def test_fp16_needs_a_gpu(write_recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="precision fp16: needs a GPU"):
        train(
            read_recipe(write_recipe(), ["training.precision=fp16"]), tmp_path / "r", device="cpu"
        )
