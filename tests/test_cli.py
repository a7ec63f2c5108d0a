"""The command line: what it prints where, its exit codes, and one line for every error."""

from __future__ import annotations

import argparse
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Call

from speechseq import __version__
from speechseq.cli import COMMANDS, main
from speechseq.recogniser import Recogniser
from speechseq.training import loop


@pytest.fixture
def recipe(digit_recipe: Path) -> Path:
    return digit_recipe


# ---- train ----


def test_training_takes_overrides_before_and_behind_flags(run: Path) -> None:
    assert (run / "model.onnx").is_file()
    text = (run / "recipe.yaml").read_text()
    assert "epochs: 20" in text
    assert "seed: 1" in text


def test_training_prints_the_model_and_notes_the_rest(
    call: Call, recipe: Path, tmp_path: Path
) -> None:
    code, out, err = call("train", recipe, "-o", tmp_path / "run")
    assert code == 0
    assert out == f"{tmp_path / 'run' / 'model.onnx'}\n"
    assert "train: 48 utterances" in err
    assert "validation: 12 utterances" in err
    assert "epoch 1/1" in err
    assert "parity with PyTorch" in err
    assert "\x1b" not in err, "no bar where stderr is no terminal"


def test_the_run_folder_is_named_after_the_recipe(
    call: Call, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("train", recipe)[:2] == (0, "runs/tiny/model.onnx\n")


def test_a_stopped_run_is_taken_up(call: Call, recipe: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    monkey = pytest.MonkeyPatch()
    step = loop.Training.step

    def interrupted(self: loop.Training, *arguments: object) -> bool:
        stop = step(self, *arguments)
        if self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return stop

    with monkey.context() as patch:
        patch.setattr(loop.Training, "step", interrupted)
        code, out, err = call("train", recipe, "-o", place)
    assert (code, out) == (130, "")
    assert err.endswith(f"go on with --resume {place}\nspeechseq: interrupted\n")
    code, out, err = call("train", "--resume", place)
    assert (code, out) == (0, f"{place / 'model.onnx'}\n")
    assert "resumed at epoch 1, step 2/6" in err
    code, out, err = call("train", "--resume", place)
    assert code == 0 and "resumed behind the last epoch, step 6/6" in err


def test_what_to_train_is_said_once(fails: Callable[..., str], recipe: Path, run: Path) -> None:
    for words in ([], [recipe, "--resume", run]):
        assert "give a recipe, or --resume RUN, and not both" in fails(2, "train", *words)


def test_a_recipes_mistakes_are_usage_errors(
    fails: Callable[..., str], recipe: Path, tmp_path: Path
) -> None:
    for override, message in (
        ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ("training.epochs=many", "a whole number goes here"),
        ("epochs", "not an override; write section.key=value"),
        ("data.corpus=fsd", "did you mean 'fsdd'?"),
    ):
        err = fails(2, "train", recipe, override, "-o", tmp_path / "run")
        assert message in err
    assert "give a recipe file" in fails(2, "train", tmp_path / "no.yaml")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_no_recipe_but_may_hold_one(
    fails: Callable[..., str], recipe: Path, tmp_path: Path
) -> None:
    assert "give a recipe file" in fails(2, "train", tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe.read_text())
    said = fails(2, "train", tmp_path)
    assert said.endswith(f"{tmp_path}: is a folder; did you mean {tmp_path / 'recipe.yaml'}?\n")


def test_the_help_says_where_settings_are_described(call: Call) -> None:
    assert "speechseq/recipe.py describes every setting" in call("train", "--help")[1]


def test_a_run_is_not_trained_over(call: Call, recipe: Path, run: Path) -> None:
    code, out, err = call("train", recipe, "-o", run)
    assert (code, out) == (1, "")
    assert "holds a run already; name another with -o" in err.splitlines()[-1]


def test_resuming_what_is_no_run(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "not a run folder" in fails(1, "train", "--resume", tmp_path)


# ---- what is not understood ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcrib"], "'transcrib'"),
        ([], "required: COMMAND"),
        (["transcribe", "x.wav", "--frmat", "json"], "unknown argument --frmat"),
        (["transcribe", "x.wav", "-f", "jsn"], "unknown format 'jsn'; did you mean 'json'?"),
        (["transcribe", "x.wav", "--device", "gpu"], "'gpu'"),
        (["evaluate"], "required: MODEL"),
        (["evaluate", "m", "more"], "unknown argument more"),
        (["evaluate", "m", "--corpus", "a", "--manifest", "b"], "not allowed with"),
        (["evaluate", "m", "--png", "a.jpg"], "a.jpg: a PNG is drawn; end its name in .png"),
        (["evaluate", "m", "-o", "a.png", "--png", "./a.png"], "a.png: for both --png and"),
        (["export", "run"], "required: -o"),
        (["init", "..", "--from", "x"], "'..': not a name"),
        (["init", "a\\b", "--from", "x"], "not a name"),
        (["data"], "required: ACTION"),
        (["data", "lst"], "'lst'"),
        (["data", "stats", "fsd"], "unknown corpus 'fsd'; did you mean 'fsdd'?"),
        (["data", "stats", "mine.jsonl"], "mine.jsonl: no such manifest; check the name"),
        (["train", "a.yaml", "--resum", "b", "--nothing"], "--nothing"),
        (["models", "a", "b"], "unknown argument b"),
        (["models", "--", "a", "b"], "unknown argument b"),
        (["serve", "--", "a"], "unknown argument a"),
    ],
)
def test_usage_errors(words: list[str], message: str, fails: Callable[..., str]) -> None:
    assert message in fails(2, *words)


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_on_stdout(words: list[str], call: Call) -> None:
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert out.startswith("usage: speechseq")
    assert words == ["--help"] or COMMANDS[words[0]].HELP in out


def test_the_version(call: Call) -> None:
    assert call("--version") == (0, f"speechseq {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "-m", "", "a.wav"],
        ["evaluate", ""],
        ["models", ""],
        ["page", "", "-o", "site"],
        ["serve", "-m", ""],
    ],
)
def test_an_empty_name_is_no_model(words: list[str], fails: Callable[..., str]) -> None:
    assert "an empty name for a model" in fails(1, *words)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["serve", "--debug"], True),
        (["--debug", "serve"], True),
        (["serve"], False),
        (["transcribe", "a", "--", "--debug"], False),
    ],
)
def test_commands_know_whether_they_are_debugged(
    words: list[str], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[argparse.Namespace] = []
    name = "serve" if "serve" in words else "transcribe"
    monkeypatch.setattr(COMMANDS[name], "run", seen.append)
    assert main(words) == 0
    assert seen[0].debug == found
    assert name == "serve" or seen[0].inputs == ["a", "--debug"]


def test_debug_goes_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--debug"]) == 0
    assert "fsdd" in capsys.readouterr().out


def test_debug_shows_where(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["nothing.wav"], 1), (["nothing.wav", "none.wav"], 3)):
        paths = [str(tmp_path / word) for word in words]
        assert main(["transcribe", *paths, "-m", str(run), "--debug"]) == code
        shown = capsys.readouterr().err
        assert "Traceback" in shown and str(tmp_path / "nothing.wav") in shown


def test_what_nobody_foresaw_is_one_line_too(
    fails: Callable[..., str], run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Recogniser, "transcribe", broken)
    err = fails(1, "transcribe", clips / "a.wav", "-m", run)
    assert err == "speechseq: RuntimeError: broken; run with --debug and report it\n"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "stats", "folder", "--root", "{closed}"],
        ["plot", "{closed}", "-o", "{open}/c.png"],
        ["evaluate", "{closed}"],
        ["evaluate", "{closed}/run"],
        ["transcribe", "{closed}"],
        ["transcribe", "{open}"],
    ],
)
def test_what_may_not_be_read_is_named(
    words: list[str], fails: Callable[..., str], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.access(closed, os.R_OK):
        pytest.skip("root may read everything")
    said = fails(1, *(word.format(closed=closed, open=tmp_path) for word in words))
    assert str(closed) in said
    assert "Permission denied; check its name and who may use it" in said


@pytest.mark.parametrize(("filename", "where"), [("a b", "a b"), (b"a", "a"), ("a\nb", r"'a\nb'")])
def test_a_file_that_the_system_refuses_is_one_line(
    filename: str | bytes, where: str, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: argparse.Namespace) -> None:
        raise OSError(errno.ENAMETOOLONG, "File name too long", filename)

    monkeypatch.setattr(COMMANDS["models"], "run", refused)
    said = fails(1, "models")
    assert said == f"speechseq: {where}: File name too long; check its name and who may use it\n"


def test_an_interrupt_is_130(
    fails: Callable[..., str], run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recogniser, "transcribe", stopped)
    err = fails(130, "transcribe", clips / "a.wav", "-m", run)
    assert err == "speechseq: interrupted\n"


@pytest.mark.parametrize("words", [["train", "{recipe}"], ["export", "{run}", "-o", "m.onnx"]])
def test_without_torch_it_says_what_to_install(
    words: list[str],
    fails: Callable[..., str],
    recipe: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("speechseq.cli.terminal.find_spec", lambda name: None)
    words = [word.format(recipe=recipe, run=run) for word in words]
    err = fails(1, *words)
    assert err == "speechseq: torch: not installed; pip install '.[train]' in the clone\n"


def test_a_device_that_onnxruntime_lacks(
    fails: Callable[..., str], run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    words = ["transcribe", clips / "a.wav", "-m", run / "model.onnx", "--device"]
    err = fails(2, *words, "cuda")
    assert "'pip install onnxruntime-gpu', or use --device cpu, or give a run folder" in err
    assert "device mps" in fails(2, *words, "mps")
    assert "no such model" in fails(1, *words[:3], "nothing", "--device", "cuda")


def test_a_run_folder_goes_to_pytorch(
    fails: Callable[..., str], run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    err = fails(1, "transcribe", clips / "a.wav", "-m", run, "--device", "mps")
    assert err == "speechseq: device mps: PyTorch finds none here; use --device cpu or auto\n"
