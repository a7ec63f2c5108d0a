"""A training step: its rate, pieces and precision, and what it does when something is wrong."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import rows, weights

from speechseq.errors import DataError, ModelError
from speechseq.manifest import Utterance, read_manifest, write_manifest
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.tokens import UNKNOWN
from speechseq.training.data import Batch, TrainingData
from speechseq.training.loop import train
from speechseq.training.loss import Sums, loss_sums, two_view_sums
from speechseq.training.objective import computed_in
from speechseq.training.step import Training, learning_rate
from speechseq.training.validation import Validation, validate


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
    monkeypatch.setattr("speechseq.training.objective.loss_sums", infinite_at(2))
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
    monkeypatch.setattr("speechseq.training.objective.loss_sums", infinite_at(1, 3, 4, 5))
    recipe = read_recipe(write_recipe(), ["training.stop_after_skips=3"])
    with pytest.raises(DataError, match=r"bad_batch.jsonl: 3 steps in a row without a finite"):
        train(recipe, tmp_path / "run", device="cpu")
    assert len(read_manifest(tmp_path / "run" / "bad_batch.jsonl")) in (4, 8)


@pytest.mark.parametrize("heard", ["", "low"])
def test_a_network_of_blanks_is_said(
    heard: str, write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Validation(1.0, 0.0, 1.0, [""] * 11 + [heard], np.zeros((0, 4)))
    monkeypatch.setattr("speechseq.training.step.validate", lambda *_, **__: found)
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=6"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    said = [note for note in notes if "nothing but blanks; try" in note]
    assert [note.split(":")[0] for note in said] == ([] if heard else ["epoch 5", "epoch 6"])


def test_an_epoch_that_dies_in_its_validation_is_ended_later(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write_recipe(), ["training.epochs=3", "model.dropout=0.2"])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, device="cpu")
    seen = 0

    def dying(*arguments: Any, **more: Any) -> Validation:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise RuntimeError("Connection closed by peer")
        return validate(*arguments, **more)

    monkeypatch.setattr("speechseq.training.step.validate", dying)
    # Two processes' world, of which only this one is asked: what it would do, but no exchange.
    monkeypatch.setattr("speechseq.training.loop._others_alive", checkpointed)
    with pytest.raises(RuntimeError):
        train(recipe, parts, device="cpu")
    train(Recipe(), parts, device="cpu", resume=True)
    assert [row["epoch"] for row in rows(parts)] == [1, 2, 3]
    one, other = weights(whole), weights(parts)
    assert max((one[name] - other[name]).abs().max().item() for name in one) == 0


@contextmanager
def checkpointed(training: Training) -> Iterator[None]:
    """Write a checkpoint at an error, as where another process died."""
    try:
        yield
    except RuntimeError:
        training.checkpoint()
        raise


def test_a_step_with_nothing_to_learn_is_counted_and_passed(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    batch = TrainingData.batch

    def sometimes_damaged(self: TrainingData, *arguments: Any) -> Batch:
        nonlocal seen
        seen += 1
        made = batch(self, *arguments)
        return dataclasses.replace(made, weight=0.0) if seen == 3 else made

    monkeypatch.setattr(TrainingData, "batch", sometimes_damaged)
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu")
    (row,) = rows(tmp_path / "run")
    assert row["skipped_steps"] == 0 and row["step"] == 5 and np.isfinite(row["loss"])


def test_a_batch_too_large_for_memory_is_named_before_training(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Sums:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr("speechseq.training.objective.loss_sums", full)
    with pytest.raises(
        DataError,
        match=r"largest batch \(8 utterances of up to 0\.\d s, tones/.*raise tra",
    ):
        train(read_recipe(write_recipe()), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("consistency", [0.0, 0.5])
@pytest.mark.parametrize("tokens", ["characters", "classes"])
def test_pieces_of_a_batch_are_the_batch(
    tokens: str, consistency: float, write_recipe, tmp_path: Path
) -> None:
    chance = [
        "augment.noise_probability=0.5", "augment.time_masks=1", "training.epochs=2",
        f"training.consistency={consistency}",
    ]  # fmt: skip
    runs = [tmp_path / "whole", tmp_path / "pieces"]
    for run, pieces in zip(runs, (1, 3), strict=True):
        settings = [*chance, f"training.accumulate={pieces}", "training.label_smoothing=0.1"]
        train(read_recipe(write_recipe(tokens), settings), run, device="cpu")
    one, other = map(weights, runs)
    assert max((one[n] - other[n]).abs().max() for n in one if n.startswith("network")) < 1e-4
    assert rows(runs[0])[-1]["loss"] == pytest.approx(rows(runs[1])[-1]["loss"], abs=1e-4)


MASKS = ["augment.time_masks=1", "augment.frequency_masks=1", "augment.frequency_mask_width=4"]


def right(model: Path, tones: Path) -> int:
    """Count the validation clips, of 12, that a model recognises."""
    recogniser = load(model)
    held = [u for u in read_manifest(tones) if u.split == "validation"]
    return sum(recogniser.transcribe(u.audio_filepath).text == u.text for u in held)


@pytest.mark.parametrize("tokens", ["words", "classes"])
def test_two_consistent_views_learn(tokens: str, write_recipe, tones: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=30", "training.batch=4", "training.consistency=0.5", *MASKS]
    model = train(read_recipe(write_recipe(tokens), settings), tmp_path / "run", device="cpu")
    assert right(model, tones) >= 11
    assert rows(tmp_path / "run")[-1]["loss"] < rows(tmp_path / "run")[0]["loss"] / 2


@pytest.mark.parametrize("masks", [[], MASKS])
def test_the_views_of_a_batch_are_masked_differently(
    masks: list[str], write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def watched(*arguments: torch.Tensor) -> Sums:
        sums = two_view_sums(*arguments)
        seen.append(torch.as_tensor(sums.apart).item())
        assert len(arguments[0]) == 2 * len(arguments[3])
        return sums

    monkeypatch.setattr("speechseq.training.objective.two_view_sums", watched)
    settings = ["training.consistency=0.5", "training.epochs=1", *masks]
    train(read_recipe(write_recipe(), settings), tmp_path / "run", device="cpu")
    assert len(seen) == 6, "each step, and the largest batch before them"
    assert (min(seen) > 1e-4) if masks else (max(seen) < 1e-6)


def test_consistency_weighs_in_the_loss(write_recipe, tmp_path: Path) -> None:
    """Before the first step moves anything, the loss grows by as much as the weight does."""
    losses = []
    for weight in (1e-9, 1.0, 2.0):
        settings = [f"training.consistency={weight}", "training.epochs=1", "training.batch=64"]
        run = tmp_path / f"{weight}"
        train(read_recipe(write_recipe(), [*settings, *MASKS]), run, device="cpu")
        losses.append(rows(run)[0]["loss"])
    assert losses[1] - losses[0] > 1e-3
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


@pytest.fixture
def low_is_unknown(tones: Path) -> Path:
    """The manifest of tones without mid ones, and low ones no word."""
    kept = [u for u in read_manifest(tones) if u.text != "mid"]
    write_manifest(
        tones, [dataclasses.replace(u, text=UNKNOWN) if u.text == "low" else u for u in kept]
    )
    return tones


def test_speech_of_no_words_is_learnt_as_no_text(
    write_recipe, low_is_unknown: Path, tmp_path: Path
) -> None:
    settings = ["training.epochs=10", "training.batch=3", "training.learning_rate=0.02"]
    notes: list[str] = []
    model = train(
        read_recipe(write_recipe(), settings), tmp_path / "run", device="cpu", note=notes.append
    )
    assert not any(note.startswith("dropped") for note in notes)
    recogniser = load(model)
    for utterance in read_manifest(low_is_unknown)[-8:]:
        heard = recogniser.transcribe(utterance.audio_filepath).text
        assert heard == utterance.text.replace(UNKNOWN, "")
    assert rows(tmp_path / "run")[-1]["validation_error"] == 0


def test_a_batch_of_no_words_is_a_step_like_others(
    write_recipe, low_is_unknown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its utterances weigh as one label each, or there would be nothing to divide by."""
    weighs: list[tuple[int, int]] = []

    def watched(*arguments: torch.Tensor) -> Sums:
        sums = loss_sums(*arguments)
        weighs.append((len(arguments[2]), int(sums.labels)))
        return sums

    monkeypatch.setattr("speechseq.training.objective.loss_sums", watched)
    settings = ["training.epochs=1", "training.batch=1"]
    train(read_recipe(write_recipe(), settings), tmp_path / "run", device="cpu")
    assert sorted(weighs[1:]) == [(0, 1)] * 12 + [(1, 1)] * 12
    (row,) = rows(tmp_path / "run")
    assert row["skipped_steps"] == 0 and np.isfinite(row["loss"])


def precision(name: str) -> Recipe:
    return recipe_from_dict({"training": {"precision": name}}, "test")


@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_computes_in_what_it_has_instructions_for(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert computed_in(precision("bf16"), cpu) == (torch.bfloat16 if supported else torch.float32)
    assert computed_in(precision("bf16"), cuda) == torch.bfloat16
    for device in (cpu, cuda):
        assert computed_in(precision("fp32"), device) == torch.float32
    assert computed_in(precision("fp16"), cuda) == torch.float16


def test_a_cpu_without_bf16_says_so_and_computes_in_fp32(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    said = {}
    for name in ("bf16", "fp32"):
        notes: list[str] = []
        settings = [f"training.precision={name}", "training.epochs=1"]
        train(
            read_recipe(write_recipe(), settings), tmp_path / name, device="cpu", note=notes.append
        )
        said[name] = [note for note in notes if "no instructions" in note]
    assert said == {
        "bf16": ["training.precision bf16: this CPU has no instructions for it; computing in fp32"],
        "fp32": [],
    }
    one, other = weights(tmp_path / "bf16"), weights(tmp_path / "fp32")
    assert all(one[name].equal(other[name]) for name in one)


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


def test_logit_adjustment_takes_the_favour_off_the_commonest_class(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    """With nothing to hear, a network learns the classes' shares; adjusted, that all are equal."""
    silences = [Utterance("", 0.3, "low" if n % 4 else "high", split="train") for n in range(40)]
    for strength, lows in {0.0: 6, 1.0: 4}.items():
        held = [Utterance("", 0.3, "low" if n < lows else "high", offset=1.0) for n in range(8)]
        held = [dataclasses.replace(utterance, split="validation") for utterance in held]
        write_manifest(tones, [*silences, *held])
        settings = [f"training.logit_adjustment={strength}", "training.epochs=20"]
        run = tmp_path / f"run{strength}"
        model = load(train(read_recipe(write_recipe("classes"), settings), run, device="cpu"))
        log_probs, _ = model.network(np.zeros((1, 2400), np.float32), np.array([2400]))
        low = model.vocabulary.tokens.index("low")
        assert np.exp(log_probs[0, 0, low]) == pytest.approx(lows / 8, abs=0.05)
