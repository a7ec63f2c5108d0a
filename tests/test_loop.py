"""Training: it learns, resumes to the bit, stops cleanly, and says what it cannot use."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from speechseq.errors import DataError, ModelError
from speechseq.manifest import read_manifest, write_manifest
from speechseq.model_file import RUN_METRICS, RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.loop import train
from speechseq.training.run_folder import load_run, read_run
from speechseq.training.validation import Validation, validate


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / RUN_METRICS).read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / FOLDER).glob(PATTERN))
    return load_tensors(newest.read_bytes())


def check_it_learnt(model: Path, tones: Path) -> None:
    """Expect eleven right or more of the twelve tones to validate on."""
    validation = [u for u in read_manifest(tones) if u.split == "validation"]
    recogniser = load(model)
    right = sum(recogniser.transcribe(u.audio_filepath).text == u.text for u in validation)
    assert right >= 11, f"{right} of {len(validation)}"


@pytest.mark.parametrize("tokens", ["words", "characters", "classes"])
def test_training_learns_and_ships(tokens: str, write_recipe, tones: Path, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tokens), ["training.epochs=30", "training.batch=4"])
    notes: list[str] = []
    model = train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    check_it_learnt(model, tones)
    clip = read_manifest(tones)[-1].audio_filepath
    assert (
        load_run(tmp_path / "run", "cpu").transcribe(clip).text == load(model).transcribe(clip).text
    )
    assert rows(tmp_path / "run")[-1]["loss"] < rows(tmp_path / "run")[0]["loss"] / 2
    assert any("parity with PyTorch" in note for note in notes)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {
        "recipe.yaml", "vocabulary.json", "versions.json", "metrics.jsonl", "tensorboard",
        "checkpoints", "weights.safetensors", "model.onnx",
    }  # fmt: skip


def stop_after(steps: int):
    """Return a `show` that interrupts this process after so many training steps."""
    seen = 0

    def show(what: str, done: int, of: int) -> None:
        nonlocal seen
        seen += what.startswith("epoch")
        if what.startswith("epoch") and seen == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return show


@pytest.mark.parametrize("steps", [1, 4, 5, 9])
def test_an_interrupted_run_resumes_to_the_bit(steps: int, write_recipe, tmp_path: Path) -> None:
    """Five steps an epoch: inside one, at its edge, and after it; with chance in every place."""
    chance = [
        "model.dropout=0.3", "augment.noise_probability=0.5", "augment.speeds=[0.9, 1.0]",
        "augment.time_masks=1", "augment.gain_db=6", "augment.join=2", "training.epochs=3",
        "training.batch=5",
    ]  # fmt: skip
    recipe = read_recipe(write_recipe(), chance)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, parts, device="cpu", show=stop_after(steps))
    assert not (parts / "model.onnx").exists()
    train(Recipe(), parts, device="cpu", resume=True)
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert max((one[name] - other[name]).abs().max().item() for name in one) == 0
    for first, second in zip(rows(whole), rows(parts), strict=True):
        assert first["validation_loss"] == second["validation_loss"]
        assert first["step"] == second["step"]


def test_a_damaged_newest_checkpoint_falls_back(write_recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(read_recipe(write_recipe(), ["training.epochs=2"]), run, device="cpu")
    expected = weights(run)
    newest = max((run / FOLDER).glob(PATTERN))
    newest.write_bytes(newest.read_bytes()[:1000])
    notes: list[str] = []
    train(Recipe(), run, device="cpu", resume=True, note=notes.append)
    assert any("damaged" in note for note in notes)
    assert max((expected[n] - t).abs().max().item() for n, t in weights(run).items()) == 0
    for checkpoint in (run / FOLDER).glob(PATTERN):
        checkpoint.write_bytes(b"")
    with pytest.raises(ModelError, match="holds no usable checkpoint"):
        train(Recipe(), run, device="cpu", resume=True)


def test_other_data_than_a_run_began_with_are_refused(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(read_recipe(write_recipe()), run, device="cpu", show=stop_after(3))
    utterances = read_manifest(tones)
    other = dataclasses.replace(utterances[0], text=utterances[1].text)
    for changed in ([other, *utterances[1:]], [utterances[1], utterances[0], *utterances[2:]]):
        write_manifest(tones, changed)
        with pytest.raises(DataError, match=r"began with other data.* of train.*; bring them back"):
            train(Recipe(), run, device="cpu", resume=True)
    write_manifest(tones, utterances)
    train(Recipe(), run, device="cpu", resume=True)


def test_a_validation_text_too_long_for_its_clip_leaves_the_loss_finite(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    utterances = read_manifest(tones)
    number = next(n for n, u in enumerate(utterances) if u.split == "validation")
    utterances[number] = dataclasses.replace(utterances[number], text="low " * 60)
    write_manifest(tones, utterances)
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=2"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    assert all(np.isfinite(row["validation_loss"]) for row in rows(tmp_path / "run"))
    assert any("validation: 1 texts cannot be spelt" in note for note in notes)


def test_a_run_is_never_written_over(write_recipe, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / RUN_WEIGHTS).read_bytes()
    with pytest.raises(ModelError, match="holds a run already; name another"):
        train(recipe, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / RUN_WEIGHTS).read_bytes() == before


def test_the_run_keeps_its_resolved_recipe(write_recipe, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(), ["training.epochs=1", "seed=3"])
    train(recipe, tmp_path / "run", device="cpu")
    assert read_run(tmp_path / "run")[0] == recipe
    for path, content in ((tmp_path / "none", None), (tmp_path / "run", "[")):
        if content:
            (path / "vocabulary.json").write_text(content)
        with pytest.raises(ModelError, match=r"not a run folder|damaged"):
            read_run(path)


def test_what_ctc_cannot_learn_is_named_and_dropped(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    utterances = read_manifest(tones)
    utterances[0] = dataclasses.replace(utterances[0], text="low " * 40)
    utterances[1] = dataclasses.replace(utterances[1], text="")
    write_manifest(tones, utterances)
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    dropped = [note for note in notes if note.startswith("dropped")]
    assert len(dropped) == 2
    assert "needs 79" in dropped[0]
    assert "holds no token" in dropped[1]
    assert any(note.startswith("train: 34 utterances") for note in notes)
    assert "words: 3, each 11 to 12 times" in notes


def test_rare_tokens_are_named(write_recipe, tones: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tones)
    utterances[0] = dataclasses.replace(utterances[0], text="seldom")
    write_manifest(tones, utterances)
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    assert "words: 4, each 1 to 12 times; under 5 times: 'seldom'" in notes


def test_of_many_rare_tokens_a_few_are_named(write_recipe, tones: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tones)
    seldom = [dataclasses.replace(u, text=f"w{n:02}") for n, u in enumerate(utterances[:25])]
    write_manifest(tones, [*seldom, *utterances[25:]])
    notes: list[str] = []
    recipe = read_recipe(write_recipe(), ["training.epochs=1"])
    train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    (said,) = (note for note in notes if note.startswith("words: 28"))
    assert said.endswith("'w15', 'w16' and 8 more")


def test_a_validation_text_with_new_letters_is_named(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    utterances = read_manifest(tones)
    utterances[-1] = dataclasses.replace(utterances[-1], text="new")
    write_manifest(tones, utterances)
    with pytest.raises(DataError, match=r"high_47.wav: text 'new': cannot be spelt"):
        train(read_recipe(write_recipe()), tmp_path / "run", device="cpu")


def test_overlapping_splits_are_refused(write_recipe, tones: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tones)
    utterances.append(dataclasses.replace(utterances[0], split="validation"))
    write_manifest(tones, utterances)
    with pytest.raises(DataError, match="train and validation share 1 clips"):
        train(read_recipe(write_recipe()), tmp_path / "run", device="cpu")


def test_a_final_run_hears_everything_and_says_what_that_means(
    write_recipe, tones: Path, tmp_path: Path
) -> None:
    write_manifest(tones, [u for u in read_manifest(tones) if u.split == "train"])
    every = ["data.validation_fraction=0", "training.weights=last", "training.epochs=1"]
    notes: list[str] = []
    train(read_recipe(write_recipe(), every), tmp_path / "run", device="cpu", note=notes.append)
    assert any(note.startswith("train: 36 utterances") for note in notes)
    assert any("share 36 clips" in note and "nothing of new speech" in note for note in notes)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_kept_are_the_best_or_the_last(
    keep: str, write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is made to call the second of four epochs the best."""
    losses = iter([2.0, 1.0, 3.0, 4.0])

    def scored(*arguments: Any, **named: Any) -> Validation:
        found = validate(*arguments, **named)
        averaged.append({n: t.clone() for n, t in arguments[0].state_dict().items()})
        return dataclasses.replace(found, error=0.5, loss=next(losses))

    averaged: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr("speechseq.training.step.validate", scored)
    run = tmp_path / "run"
    train(read_recipe(write_recipe(), [f"training.weights={keep}"]), run, device="cpu")
    expected = averaged[1 if keep == "best" else 3]
    kept = load_tensors((run / RUN_WEIGHTS).read_bytes())
    assert all(torch.equal(kept[name], expected[name]) for name in kept)


def test_patience_ends_training_early(write_recipe, tmp_path: Path) -> None:
    stuck = ["training.patience=2", "training.epochs=30", "training.learning_rate=1e-8"]
    train(read_recipe(write_recipe(), stuck), tmp_path / "run", device="cpu")
    assert len(rows(tmp_path / "run")) < 30


def test_training_leaves_the_process_as_it_was(write_recipe, tmp_path: Path) -> None:
    train(read_recipe(write_recipe(), ["training.epochs=1"]), tmp_path / "run", device="cpu")
    assert torch.tensor(1e-42).mul(1.0).item() > 0  # denormals are numbers again


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    write_recipe, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(), ["training.epochs=2", "model.dropout=0.2"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(recipe, whole, device="cpu")
    killed.mkdir()
    for name in ("recipe.yaml", "vocabulary.json"):
        (killed / name).write_bytes((whole / name).read_bytes())
    (killed / RUN_METRICS).write_text('{"epoch": 1, "st')  # torn by the kill
    notes: list[str] = []
    train(Recipe(), killed, device="cpu", resume=True, note=notes.append)
    assert any("no checkpoint yet; starting at step 0" in note for note in notes)
    one, other = weights(whole), weights(killed)
    assert max((one[name] - other[name]).abs().max().item() for name in one) == 0
    assert [row["epoch"] for row in rows(killed)] == [1, 2]


def test_a_long_epoch_is_checkpointed_inside(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.training.loop.CHECKPOINT_SECONDS", 0)
    recipe = read_recipe(
        write_recipe(), ["training.epochs=1", "training.batch=8", "training.keep_checkpoints=9"]
    )
    train(recipe, tmp_path / "run", device="cpu")
    assert len(list((tmp_path / "run" / FOLDER).glob(PATTERN))) == 5
