"""Stopped at any moment and resumed, a training ends in the same weights and metrics, to the bit.

Moments are steps, signals, a kill, a full disk, and just before each file gets its name.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from test_loop import stop_after

from speechseq.cli import main
from speechseq.errors import DataError
from speechseq.model_file import RUN_METRICS, RUN_MODEL, RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.training import loop
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.loop import train

CHANCE = [
    "model.dropout=0.3", "augment.noise_probability=0.5", "augment.speeds=[0.9, 1.0]",
    "augment.time_masks=1", "augment.frequency_masks=1", "augment.gain_db=6", "augment.join=2",
    "model.hidden=8", "training.batch=5", "training.epochs=4", "training.patience=4",
]  # fmt: skip
"""Chance in every place; five steps an epoch, give or take one, as joining has it."""

WAIT_SECONDS = 90.0


@pytest.fixture
def recipe(write_recipe) -> Recipe:
    return read_recipe(write_recipe(), CHANCE)


@pytest.fixture
def whole(recipe: Recipe, tmp_path: Path) -> Path:
    """A run that nothing broke."""
    train(recipe, tmp_path / "whole", device="cpu")
    return tmp_path / "whole"


def rows(run: Path) -> list[dict[str, float]]:
    lines = (run / RUN_METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob(PATTERN))


def difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(abs(first[n].astype(float) - second[n].astype(float)).max() for n in first)


def assert_same(run: Path, whole: Path) -> None:
    """Compare two finished runs: weights, averaged weights, optimiser, best weights, metrics."""
    parts = {name.split(".")[0] for name in load_file(checkpoints(whole)[-1])}
    assert parts == {"network", "averaged", "optimiser"}
    assert difference(checkpoints(run)[-1], checkpoints(whole)[-1]) == 0
    assert difference(run / RUN_WEIGHTS, whole / RUN_WEIGHTS) == 0
    assert rows(run) == rows(whole)
    assert (run / RUN_MODEL).is_file()


def assert_whole_files(run: Path) -> None:
    """Look for anything that is not whole: temporary files, or checkpoints that do not load."""
    assert not list(run.rglob("*.tmp"))
    for path in [*checkpoints(run), *run.glob(RUN_WEIGHTS)]:
        assert load_file(path)


@pytest.mark.slow
def test_a_run_resumed_at_each_of_its_steps_is_the_same(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    run, steps = tmp_path / "parts", int(rows(whole)[-1]["step"])
    assert steps >= 20
    for step in range(1, steps + 1):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, run, device="cpu", resume=step > 1, show=stop_after(1))
        assert checkpoints(run)[-1].stem == f"step-{step:08d}"
    train(recipe, run, device="cpu", resume=True)
    assert_same(run, whole)


class Snapshots:
    """Stands in for Path.replace: keeps a copy of the run as a kill just before would leave it."""

    def __init__(self, run: Path, folder: Path):
        self.run, self.folder, self.count = run, folder, 0
        self.replace = Path.replace

    def __call__(self, path: Path, target: Path) -> Path:
        if self.run in Path(target).parents:
            self.take(Path(target).name)
        return self.replace(path, target)

    def take(self, name: str) -> None:
        shutil.copytree(self.run, self.folder / f"{self.count:02d} before {name}")
        self.count += 1


@pytest.mark.slow
@pytest.mark.parametrize("often", [False, True], ids=["at epochs", "at steps"])
def test_a_kill_before_any_file_gets_its_name_is_survived(
    often: bool, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch ends in best weights, a row and a checkpoint: no order of them may be torn."""
    whole, folder = tmp_path / "whole", tmp_path / "snapshots"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0 if often else 600)
    snapshots = Snapshots(whole, folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda path, target: snapshots(path, target))
        train(recipe, whole, device="cpu")
    names = {path.name.split(" before ")[1] for path in folder.iterdir()}
    assert names >= {RUN_METRICS, RUN_WEIGHTS, RUN_MODEL, checkpoints(whole)[-1].name}
    for run in sorted(folder.iterdir()):
        train(recipe, run, device="cpu", resume=(run / "recipe.yaml").exists())
        try:
            assert_same(run, whole)
        except AssertionError as error:
            raise AssertionError(f"killed {run.name}: {error}") from error


class FullDisk:
    """Stands in for `open` in speechseq.files: a disk with room for so many bytes."""

    def __init__(self, room: int):
        self.room = room

    def __call__(self, path: Path, mode: str) -> io.BufferedWriter:
        disk = self

        class File(io.FileIO):
            def write(self, data: bytes) -> int:  # type: ignore[override]
                size = min(len(data), disk.room)
                disk.room -= size
                if data and not size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(memoryview(data)[:size])

        return io.BufferedWriter(File(path, mode.replace("b", "")))


def command(recipe: Path, run: Path) -> list[str]:
    return ["train", str(recipe), *CHANCE, "-o", str(run), "--device", "cpu"]


def assert_full_disk_was_said(error: str, run: Path) -> None:
    assert "Traceback" not in error
    (said,) = (line for line in error.splitlines() if line.startswith("speechseq:"))
    assert said == error.splitlines()[-1]
    assert said.startswith(f"speechseq: {run}")
    assert "cannot be written (No space left on device); check the folder" in said


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_is_resumed(
    recipe: Recipe,
    whole: Path,
    write_recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk is full in the recipe, weights, the first and later checkpoints, or the model."""
    plenty = FullDisk(1 << 40)
    monkeypatch.setattr("speechseq.files.open", plenty, raising=False)
    train(recipe, tmp_path / "measured", device="cpu")  # features are there since `whole`
    needed, seen = (1 << 40) - plenty.room, set()
    for percent in (0, 4, 12, 25, 40, 55, 70, 85, 99):
        run, path = tmp_path / f"{percent}", write_recipe()
        monkeypatch.setattr("speechseq.files.open", FullDisk(needed * percent // 100))
        assert main(command(path, run)) == 1
        error = capsys.readouterr().err
        assert_full_disk_was_said(error, run)
        seen.add(error.splitlines()[-1].split(":")[1].rpartition("/")[2].split("-")[0])
        assert_whole_files(run)
        assert not (run / RUN_MODEL).exists()
        monkeypatch.setattr("speechseq.files.open", plenty)
        begun = (run / "recipe.yaml").exists()
        again = ["train", "--resume", str(run), "--device", "cpu"] if begun else command(path, run)
        assert main(again) == 0
        assert_same(run, whole)
    assert seen >= {"vocabulary.json", "step", RUN_MODEL}


def test_a_disk_that_is_full_only_when_flushed_leaves_the_earlier_checkpoint(
    recipe: Recipe,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some file systems find room only as late as fsync."""
    run = tmp_path / "run"

    def full(descriptor: int) -> None:
        if checkpoints(run):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("speechseq.files.os.fsync", full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
            train(recipe, run, device="cpu")
    assert len(checkpoints(run)) == 1
    assert_whole_files(run)
    train(recipe, run, device="cpu", resume=True)
    assert_same(run, whole)


def test_a_disk_too_full_for_metrics_ends_in_one_line_and_is_resumed(
    recipe: Recipe,
    whole: Path,
    write_recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, opened = tmp_path / "run", Path.open

    def half_a_row(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
        file = opened(path, mode, *rest, **more)  # type: ignore[call-overload]
        if path.name == RUN_METRICS and mode == "a" and len(rows(run)) == 2:
            file.write('{"epoch": 3, "st')
            file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", half_a_row)
        assert main(command(write_recipe(), run)) == 1
    assert (run / RUN_METRICS).read_text().endswith('"st')  # torn, as a full disk tears it
    train(recipe, run, device="cpu", resume=True)
    assert_same(run, whole)
    assert_full_disk_was_said(capsys.readouterr().err, run)


def test_a_disk_too_full_for_tensorboard_ends_in_one_line(
    write_recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its events are written by a thread, whose traceback would come before our line."""

    def full(writer: object, data: bytes) -> None:
        if len(data) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = "tensorboard.summary.writer.record_writer.RecordWriter.write"
    monkeypatch.setattr(writer, full)
    assert main(command(write_recipe(), tmp_path / "run")) == 1
    assert_full_disk_was_said(capsys.readouterr().err, tmp_path / "run")
    assert_whole_files(tmp_path / "run")


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        command = [sys.executable, "-m", "speechseq", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


def wait_for_epochs(process: subprocess.Popen[bytes], run: Path, epochs: int) -> None:
    """Wait until a training has so many epochs behind it."""
    end = time.monotonic() + WAIT_SECONDS
    while not (run / RUN_METRICS).exists() or (run / RUN_METRICS).read_text().count("\n") < epochs:
        assert process.poll() is None, "it ended before it was stopped"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_stopped_process_resumes_to_the_bit(
    number: signal.Signals, code: int, write_recipe, tmp_path: Path
) -> None:
    """Many epochs, so that the signal comes while there is still much to do."""
    settings = ["training.epochs=40", "training.patience=0"]
    recipe = read_recipe(write_recipe(), [*CHANCE, *settings])
    whole, run, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    train(recipe, whole, device="cpu")
    process = start([*command(write_recipe(), run), *settings], log)
    try:
        wait_for_epochs(process, run, 2)
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == code
    finally:
        process.kill()
    assert len(rows_of_whole_lines(run)) < 40 and checkpoints(run)
    assert not (run / RUN_MODEL).exists()
    if number != signal.SIGKILL:
        assert "stopped at step" in log.read_text()
        assert log.read_text().endswith("speechseq: interrupted\n")
        assert_whole_files(run)
    train(Recipe(), run, device="cpu", resume=True)
    assert_same(run, whole)


def rows_of_whole_lines(run: Path) -> list[str]:
    return (run / RUN_METRICS).read_text().split("\n")[:-1]
