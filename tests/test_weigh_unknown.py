"""scripts/weigh_unknown.py: how much a classifier refuses, chosen on validation."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import RATE, Call, tone
from safetensors.torch import load_file

from speechseq.audio import write_wav
from speechseq.errors import ModelError
from speechseq.model_file import RUN_WEIGHTS
from speechseq.recogniser import load
from speechseq.tokens import UNKNOWN

TOKENS = ("_silence_", UNKNOWN, "no", "yes")


def test_words_and_refusals_are_counted(script: ModuleType) -> None:
    log_probs = np.log(
        [
            [0.1, 0.2, 0.6, 0.1],  # no, right
            [0.1, 0.4, 0.5, 0.0001],  # no, right by a little
            [0.1, 0.2, 0.6, 0.1],  # yes, wrong
            [0.1, 0.3, 0.5, 0.1],  # unknown, taken for no
            [0.5, 0.2, 0.2, 0.1],  # unknown, taken for silence
            [0.9, 0.05, 0.03, 0.02],  # silence
        ]
    )
    labels = np.array([2, 2, 3, 1, 1, 0])
    assert script.counts(log_probs, labels, TOKENS, 0.0) == (2, 1)
    assert script.counts(log_probs, labels, TOKENS, 0.4) == (1, 1)
    assert script.counts(log_probs, labels, TOKENS, 0.6) == (1, 2)
    assert script.counts(log_probs, labels, TOKENS, 9.0) == (0, 2)


@pytest.fixture
def spotter(tmp_path: Path, call: Call, write_recipe) -> Path:
    """A run that tells two tones, and others as unknown."""
    root = tmp_path / "words"
    for number in range(24):
        for name, hertz in (("low", 300.0), ("high", 2500.0), (UNKNOWN, 600.0 + 80 * number)):
            path = root / name / f"s{number % 6}_nohash_{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, tone(hertz, 0.4, seed=number), RATE)
    recipe = write_recipe("classes")
    recipe.write_text(recipe.read_text().replace("corpus: jsonl", "corpus: folder"))
    run = tmp_path / "run"
    code, _, err = call("train", recipe, f"data.root={root}", "training.epochs=3", "-o", run)
    assert code == 0, err
    return run


def test_the_unknown_class_takes_what_costs_no_word(
    script: ModuleType, spotter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = script.weigh(spotter, tmp_path / "weighed")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "known words" in line]
    right = {float(row[0].rstrip(":")): int(row[1]) for row in rows}
    assert len(right) == len(script.OFFSETS)
    assert right[chosen] >= right[0.0]
    assert all(right[offset] < right[0.0] for offset in right if offset > chosen)
    before, after = (load_file(run / RUN_WEIGHTS) for run in (spotter, tmp_path / "weighed"))
    place = load(spotter).vocabulary.tokens.index(UNKNOWN)
    for name, weight in before.items():
        moved = torch.zeros_like(weight)
        if name == "head.output.state.bias":
            moved[place] = chosen
        torch.testing.assert_close(after[name], weight + moved)
    found = script.log_probs_of(tmp_path / "weighed")
    assert script.counts(*found, load(spotter).vocabulary.tokens, 0.0)[0] == right[chosen]


def test_what_cannot_be_weighed_is_refused(
    script: ModuleType, run: Path, spotter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="tells no class _unknown_"):
        script.weigh(run, tmp_path / "weighed")
    other = tmp_path / "other"
    shutil.copytree(spotter, other)
    with pytest.raises(ModelError, match="holds a run already"):
        script.weigh(spotter, other)
