"""Several processes, one training: equal to one process, whole after a death, elastic."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors

from speechseq.errors import ModelError
from speechseq.model_file import RUN_METRICS
from speechseq.recipe_file import read_recipe
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.distributed import World, from_environment
from speechseq.training.loop import train

pytestmark = pytest.mark.slow


def torchrun(processes: int, *arguments: object, restarts: int = 0) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", f"--max-restarts={restarts}",
        "-m", "speechseq", "train", *map(str, arguments), "--device", "cpu",
    ]  # fmt: skip


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


def newest(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(max((folder / FOLDER).glob(PATTERN)).read_bytes())


def difference(one: Path, other: Path) -> float:
    left, right = newest(one), newest(other)
    assert left.keys() == right.keys()
    return max((left[n] - right[n]).abs().max().item() for n in left if not n.startswith("optim"))


def epochs(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / RUN_METRICS).read_text().splitlines()]


STEPS_10 = ["training.batch=9", "training.epochs=2", "training.label_smoothing=0.1",
            "augment.noise_probability=0.5", "augment.time_masks=1", "augment.join=2"]  # fmt: skip


def test_two_processes_learn_what_one_does(write_recipe, tmp_path: Path) -> None:
    """Batches of 9 and less shared by two: uneven, and at the end one may have none."""
    recipe = write_recipe("characters")
    one, two = tmp_path / "one", tmp_path / "two"
    assert run([sys.executable, "-m", "speechseq", "train", str(recipe), *STEPS_10,
                "-o", str(one), "--device", "cpu"]).returncode == 0  # fmt: skip
    done = run(torchrun(2, recipe, *STEPS_10, "-o", two))
    assert done.returncode == 0, done.stderr
    assert difference(one, two) < 1e-5
    assert epochs(two) == [1, 2], "one process writes"
    assert done.stderr.count("utterances,") == 2, "one process speaks"
    assert (two / "model.onnx").is_file()


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def process_of(rank: int, folder: Path) -> int:
    """Find the process that trains into `folder` as this rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            names = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and f"RANK={rank}".encode() in names:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


LONG = ["training.batch=8", "training.epochs=60", "training.keep_checkpoints=3"]


def kill_one(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a training, kill its second process in the midst, and return how the job ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        wait_for(lambda: (folder / RUN_METRICS).exists() and len(epochs(folder)) >= 2)
        os.kill(process_of(1, folder), signal.SIGKILL)
        out, said = job.communicate(timeout=240)
    finally:
        job.kill()
    return subprocess.CompletedProcess(command, job.returncode, out, said)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_dead_process_ends_the_job_with_a_checkpoint(write_recipe, tmp_path: Path) -> None:
    """What is left goes on with one process in place of two, to the weights of an unbroken run."""
    recipe = write_recipe("classes")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    alone = [sys.executable, "-m", "speechseq", "train", "--device", "cpu"]
    assert run([*alone, str(recipe), *LONG, "-o", str(whole)]).returncode == 0
    died = kill_one(torchrun(2, recipe, *LONG, "-o", parts), parts)
    assert died.returncode != 0
    assert re.search(
        r"speechseq: training: process 0 of 2 lost the others at step \d+", died.stderr
    )
    assert f"go on with --resume {parts}" in died.stderr
    resumed = run([*alone, "--resume", str(parts)])
    assert resumed.returncode == 0, resumed.stderr
    assert difference(whole, parts) < 1e-3
    assert epochs(parts) == list(range(1, 61))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_an_elastic_job_goes_on_by_itself(write_recipe, tmp_path: Path) -> None:
    recipe = write_recipe("classes")
    died = kill_one(
        torchrun(2, recipe, *LONG, "-o", tmp_path / "run", restarts=1), tmp_path / "run"
    )
    assert died.returncode == 0, died.stderr
    assert "resumed at epoch" in died.stderr
    assert epochs(tmp_path / "run") == list(range(1, 61))
    assert (tmp_path / "run" / "model.onnx").is_file()


def test_alone_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = from_environment()
    assert world == World(0, 1, 0, 1) and world.writes
    assert world.total(torch.ones(2)).tolist() == [1.0, 1.0]
    assert world.gather([1, 2]) == [1, 2]
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert from_environment() == World(3, 4, 1, 2) and not from_environment().writes


def test_a_restart_takes_up_its_own_run_and_no_other(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.epochs=1"]
    train(read_recipe(write_recipe(), settings), tmp_path / "run", device="cpu")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    notes: list[str] = []
    same = read_recipe(write_recipe(), settings)
    train(same, tmp_path / "run", device="cpu", note=notes.append)
    assert any("resumed behind the last epoch" in note for note in notes)
    with pytest.raises(ModelError, match="holds a run already"):
        train(dataclasses.replace(same, seed=7), tmp_path / "run", device="cpu")
