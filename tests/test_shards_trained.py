"""Training on shards: it learns, goes on after an interruption, and is shared by processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load as load_tensors
from test_distributed import run as run_process
from test_distributed import torchrun
from test_loop import check_it_learnt, rows, stop_after, weights

from speechseq.cli import main
from speechseq.corpora.shards import index_path
from speechseq.errors import DataError
from speechseq.manifest import read_manifest
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.loop import train
from speechseq.training.sharding import Limit, write_shards
from speechseq.training.stream import streamed


@pytest.fixture
def sharded(tones: Path, tmp_path: Path) -> Path:
    """The tones as shards of 8, one of them on another disk."""
    place = tmp_path / "sharded"
    for split in ("train", "validation"):
        own = [u for u in read_manifest(tones) if u.split == split]
        write_shards(own, place / f"{split}-%03d.tar", limit=Limit(utterances=8))
    (tmp_path / "disk").mkdir()
    (place / "train-001.tar").rename(tmp_path / "disk" / "x.tar")
    (place / "train-001.tar").symlink_to(tmp_path / "disk" / "x.tar")
    return place


def overrides(place: Path, *more: str) -> list[str]:
    return ["data.corpus=shards", f"data.root={place}", "data.buffer_utterances=12", *more]


@pytest.mark.parametrize("tokens", ["words", "characters", "classes"])
def test_training_on_shards_learns_and_ships(
    tokens: str, write_recipe, sharded: Path, tones: Path, tmp_path: Path
) -> None:
    more = ["training.epochs=30", "training.batch=4", "seed=3"]
    recipe = read_recipe(write_recipe(tokens), overrides(sharded, *more))
    notes: list[str] = []
    model = train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    check_it_learnt(model, tones)
    assert any(
        note.startswith("train: 36 utterances, 0.00 h, streamed from 5 shards by 1 process, 12 at")
        for note in notes
    )
    assert any(note.startswith("validation: 12 utterances") for note in notes)
    steps = [note for note in notes if "steps:" in note]
    assert steps and rows(tmp_path / "run")[-1]["step"] == int(steps[0].split()[-1])
    assert main(["evaluate", str(tmp_path / "run"), "--split", "validation"]) == 0


ALL_CHANCE = [
    "model.dropout=0.3", "augment.noise_probability=0.5", "augment.speeds=[0.9, 1.0]",
    "augment.time_masks=1", "augment.gain_db=6", "augment.join=2", "training.epochs=3",
    "training.batch=5", "training.accumulate=2",
]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_an_interrupted_run_on_shards_resumes_to_the_bit(
    steps: int, write_recipe, sharded: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(), overrides(sharded, *ALL_CHANCE))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, parts, device="cpu", show=stop_after(steps))
    train(Recipe(), parts, device="cpu", resume=True)
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert max((one[name] - other[name]).abs().max().item() for name in one) == 0
    assert [row["step"] for row in rows(whole)] == [row["step"] for row in rows(parts)]


def test_what_cannot_work_is_said_before_training(write_recipe, sharded: Path) -> None:
    from speechseq.training.distributed import World

    def ready(ranks: int, *more: str) -> None:
        recipe = read_recipe(write_recipe(), overrides(sharded, *more))
        streamed(recipe, None, World(size=ranks), note=print, show=lambda *_: None)

    with pytest.raises(DataError, match=r"5 shards for 6 processes; shard it again with a smaller"):
        ready(6)
    for setting in ("data.without_words=[low]", "data.validation_speakers=1", "data.words=[low]"):
        with pytest.raises(DataError, match=f"{setting.partition('=')[0]}: .*leave it out"):
            ready(1, setting)
    with pytest.raises(DataError, match=r"training.batch: 2 for 3 processes; raise it"):
        ready(3, "training.batch=2")
    with pytest.raises(DataError, match="shares shards with train"):
        ready(1, "data.validation_split=train")
    index = index_path(sharded, "validation")
    good = index.read_bytes()
    index.write_bytes(index_path(sharded, "train").read_bytes())
    with pytest.raises(DataError, match=r"shares shards with validation.shards.json"):
        ready(1)
    index.write_bytes(good)
    (sharded / "train-002.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"train-002.tar: has 3 bytes, not \d+; copy the shard"):
        ready(1)


@pytest.mark.slow
def test_two_processes_share_the_shards(write_recipe, sharded: Path, tmp_path: Path) -> None:
    """They agree on every step, though one of them has three shards and the other two."""
    more = ["training.epochs=12", "training.batch=6", "training.accumulate=2"]
    done = run_process(
        torchrun(2, write_recipe(), *overrides(sharded, *more), "-o", tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    assert "streamed from 5 shards by 2 processes" in done.stderr
    history = rows(tmp_path / "run")
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert all(row["skipped_steps"] == 0 for row in history)
    newest = load_tensors(max((tmp_path / "run" / FOLDER).glob(PATTERN)).read_bytes())
    assert all(tensor.isfinite().all() for tensor in newest.values())
    assert (tmp_path / "run" / "model.onnx").is_file()
