"""What a training leaves to look at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechseq.manifest import read_manifest, write_manifest
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.training.loop import train
from speechseq.training.watch import PIXELS, TOKENS, line_of

ROW = {"epoch": 3, "seconds": 9.6, "loss": 0.5, "skipped_steps": 0}
SCORES = {"validation_loss": 0.25, "validation_accuracy": 0.5, "validation_error": 0.5}


def test_a_line_an_epoch() -> None:
    assert line_of(ROW, 9) == "epoch 3/9  10 s  loss 0.5000"
    assert line_of(ROW | SCORES, 9).endswith("loss 0.2500, accuracy 50.00 %, error 50.00 %")
    assert "2 steps skipped" in line_of(ROW | {"skipped_steps": 2}, 9)


@pytest.mark.parametrize("tokens", ["characters", "classes"])
def test_tensorboard_holds_scalars_texts_and_a_picture(
    tokens: str, write_recipe, tmp_path: Path
) -> None:
    train(read_recipe(write_recipe(tokens), ["training.epochs=2"]), tmp_path / "run", device="cpu")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {
        "loss", "learning_rate", "gradient_norm", "validation_loss", "validation_error"
    } <= set(tags["scalars"])  # fmt: skip
    assert [event.step for event in board.Scalars("loss")] == [5, 10]
    (pictures,) = tags["images"]
    assert board.Images(pictures)[-1].height % 6 == 0
    # Written on after a stop, it still holds the last epoch that was done.
    train(Recipe(), tmp_path / "run", device="cpu", resume=True)
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [5, 10]
    text = board.Tensors("validation/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.count("\n") == 2 + 5 or text.count("\n") == 2 + 6
    assert "| said | recognised |" in text and "low" in text


def test_a_picture_of_many_words_stays_small(write_recipe, tones: Path, tmp_path: Path) -> None:
    texts = [f"a{n % 36} b{n % 36}" for n in range(48)]
    pairs = zip(read_manifest(tones), texts, strict=True)
    write_manifest(tones, [dataclasses.replace(u, text=text) for u, text in pairs])
    train(read_recipe(write_recipe(), ["training.epochs=1"]), tmp_path / "run", device="cpu")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    (pictures,) = board.Tags()["images"]
    assert board.Images(pictures)[0].height == TOKENS * PIXELS
