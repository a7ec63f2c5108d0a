"""scripts/blend_runs.py: two runs' weights made one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechseq.errors import ModelError
from speechseq.model_file import RUN_RECIPE, RUN_WEIGHTS
from speechseq.recogniser import load


@pytest.fixture
def gone_on(run: Path, tmp_path: Path) -> Path:
    """A run like another, of other weights."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    weights = load_file(other / RUN_WEIGHTS)
    save_file({name: weight + 0.01 for name, weight in weights.items()}, other / RUN_WEIGHTS)
    return other


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_lie_between_the_two(
    script: ModuleType, run: Path, gone_on: Path, tmp_path: Path, share: float
) -> None:
    blended = tmp_path / "blended"
    script.blend(run, gone_on, share, blended)
    before, found = load_file(run / RUN_WEIGHTS), load_file(blended / RUN_WEIGHTS)
    assert before.keys() == found.keys()
    for name, weight in before.items():
        torch.testing.assert_close(found[name], weight + 0.01 * share)
    assert load(blended).vocabulary == load(run).vocabulary


def test_nothing_is_written_over_and_networks_must_be_alike(
    script: ModuleType, run: Path, gone_on: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="holds a run already"):
        script.blend(run, gone_on, 0.5, gone_on)
    recipe = gone_on / RUN_RECIPE
    text = recipe.read_text()
    assert "hop_seconds: 0.01\n" in text
    recipe.write_text(text.replace("hop_seconds: 0.01\n", "hop_seconds: 0.02\n"))
    with pytest.raises(ModelError, match="other features"):
        script.blend(run, gone_on, 0.5, tmp_path / "blended")
    assert not (tmp_path / "blended").exists()
