"""The command line: what it prints where, its exit codes, and one line for every error."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Call

from speechseq import __version__
from speechseq.cli import COMMANDS, main
from speechseq.cli import data as data_command
from speechseq.errors import DataError
from speechseq.manifest import Utterance, read_manifest, write_manifest
from speechseq.recogniser import Recogniser, load
from speechseq.training import export as export_module
from speechseq.training import loop
from speechseq.training.export import Parity


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


# ---- export ----


def test_exporting_again(call: Call, run: Path, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.onnx"
    code, out, err = call("export", run, "-o", path)
    assert (code, out) == (0, f"{path}\n")
    assert "texts equal" in err
    assert "noise alone" not in err
    expected = call("transcribe", clips, "-m", run)
    assert call("transcribe", clips, "-m", path) == expected


def test_exporting_in_8_bits_says_what_it_costs(call: Call, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    code, out, err = call("export", run, "-o", path, "--int8")
    assert (code, out) == (0, f"{path}\n")
    assert path.stat().st_size < (run / "model.onnx").stat().st_size
    *_, whole, size, accuracy, errors = err.splitlines()
    assert whole.startswith(f"{path}: ") and "parity with PyTorch" in whole
    assert ": WER " in errors
    assert " -> " in size
    assert size.endswith(" MB")
    assert "% on 12 utterances, real-time factor " in accuracy
    assert load(path).vocabulary == load(run).vocabulary


def test_a_card_is_kept(call: Call, fails: Callable[..., str], run: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("name: tiny tones\ncommand: speechseq train tiny.yaml\n")
    assert call("export", run, "-o", tmp_path / "m.onnx", "--card", card)[0] == 0
    code, out, err = call("models", tmp_path / "m.onnx")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["name"] == "tiny tones"
    assert found["licence"] == "CC BY-SA 4.0"
    card.write_text("[1, 2]")
    words = ["export", run, "-o", tmp_path / "n.onnx", "--card"]
    assert "card.yaml: not a mapping" in fails(2, *words, card)
    assert "not a readable YAML card" in fails(2, *words, tmp_path / "none.yaml")


def test_an_export_without_its_corpus(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On noise alone if need be; but not int8, which must be measured, nor a wrong --root."""
    words = ["export", run, "-o", tmp_path / "m.onnx"]
    code, _, err = call(*words, "--root", tmp_path / "gone")
    assert (code, "no such file or folder" in err) == (1, True)

    def gone(*_: object) -> None:
        raise DataError("the corpus is gone")

    monkeypatch.setattr("speechseq.splits.load_split", gone)
    code, _, err = call(*words, "--int8")
    assert (code, "int8 must be measured" in err) == (4, True)
    assert not (tmp_path / "m.onnx").exists()
    code, _, err = call(*words)
    assert (code, "comparing on noise alone: " in err) == (0, True)


def test_inputs_may_stand_behind_flags(call: Call, run: Path, clips: Path) -> None:
    one, two = sorted(clips.rglob("*.wav"))[:2]
    code, out, _ = call("transcribe", one, "-m", run, two)
    assert (code, len(out.splitlines())) == (0, 2)


def test_splits_that_are_no_file_names_are_refused(call: Call, clips: Path, tmp_path: Path) -> None:
    one = next(clips.rglob("*.wav"))
    manifest = tmp_path / "own.jsonl"
    row = {"audio_filepath": str(one), "duration": 1, "text": "one", "split": "../out"}
    manifest.write_text(json.dumps(row))
    words = ["data", "prepare", "jsonl", "--root", manifest, "-o", tmp_path / "deep" / "out"]
    code, _, err = call(*words)
    assert (code, "cannot be a file's name" in err) == (1, True)
    assert not (tmp_path / "deep").exists()


def test_a_part_that_is_not_published_is_refused(call: Call) -> None:
    code, _, err = call("data", "download", "librispeech", "--part", "dev-claen")
    assert (code, "did you mean 'dev-clean'" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "value", "flags", "message"),
    [
        ("parity", lambda *_: Parity(1, 0.5, 0), [], "not written; its graph"),
        ("MOST_INT8_LOSS", -1.0, ["--int8"], "int8 loses"),
    ],
)
def test_a_failed_gate_writes_nothing(
    name: str,
    value: object,
    flags: list[str],
    message: str,
    call: Call,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_module, name, value)
    code, out, err = call("export", run, "-o", tmp_path / "m.onnx", *flags)
    assert (code, out) == (4, "")
    assert message in err.splitlines()[-1]
    assert not list(tmp_path.glob("*.onnx*"))


# ---- data, models ----


def test_data_are_listed(
    call: Call, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPEECHSEQ_CORPORA", str(corpus.parent))
    monkeypatch.chdir(tmp_path)
    code, out, err = call("data", "list")
    assert (code, err) == (0, "")
    rows = {line.split("\t")[0]: line.split("\t") for line in out.splitlines()}
    assert len(rows) == 13
    assert rows["fsdd"][2:] == ["train test", "CC BY-SA 4.0", str(corpus)]
    assert rows["an4"][4] == "not here"
    assert rows["jsonl"][2:] == ["your own", "", ""]


def test_data_are_prepared_once(
    call: Call, fails: Callable[..., str], corpus: Path, tmp_path: Path
) -> None:
    words = ["data", "prepare", "fsdd", "--root", corpus, "-o", tmp_path / "out"]
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    expected = {f"{tmp_path}/out/train.jsonl\t60", f"{tmp_path}/out/test.jsonl\t40"}
    assert set(out.splitlines()) == expected
    test = read_manifest(tmp_path / "out" / "test.jsonl")
    assert all(Path(u.audio_filepath).is_absolute() for u in test)
    assert {u.split for u in test} == {"test"}
    assert "is there already; name another folder" in fails(2, *words)


def test_data_are_counted(call: Call, corpus: Path, tmp_path: Path) -> None:
    code, out, err = call("data", "stats", "fsdd", "--root", corpus)
    assert (code, err) == (0, "")
    assert "train: 60 utterances, 0.01 h, 2 speakers, 0.40–0.40 s, 60 words, 10 texts" in out
    assert "share 2 speakers and 0 stretches of audio" in out
    _, held, _ = call("data", "stats", "fsdd", "--root", corpus, "--held-out-speaker", "anna")
    assert "test: 50 utterances" in held
    assert "share 0 speakers" in held
    manifest = tmp_path / "own.jsonl"
    write_manifest(manifest, [Utterance("a.wav", 2.0, "yes no")])
    assert call("data", "stats", manifest)[1].startswith("all: 1 utterances")


def test_texts_that_are_counted_steer_no_terminal(call: Call, tmp_path: Path) -> None:
    manifest = tmp_path / "own.jsonl"
    wicked = "\x1b[2J\nall: 9 utterances"
    write_manifest(manifest, [Utterance("a.wav", 2.0, wicked, split=s) for s in ("a", wicked)])
    code, out, _ = call("data", "stats", manifest)
    assert (code, out.count("\n"), "\x1b" in out) == (0, 3, False)
    assert out.count(r"\x1b[2J\nall: 9 utterances") == 4


def test_options_of_another_corpus(fails: Callable[..., str], corpus: Path) -> None:
    err = fails(1, "data", "stats", "fsdd", "--root", corpus, "--unknown")
    assert "data.unknown: corpus fsdd has no such option" in err


@pytest.mark.parametrize("name", ["folder", "csv", "jsonl"])
def test_ones_own_data_are_not_downloaded(name: str, fails: Callable[..., str]) -> None:
    assert f"{name}: is your own data" in fails(2, "data", "download", name)


def test_every_action_is_documented(call: Call) -> None:
    out = call("data", "--help")[1]
    assert all(action in out for action in data_command.ACTIONS)


def test_models_are_listed(
    call: Call, fails: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.model_file.BUNDLED", run)
    code, out, err = call("models")
    assert (code, err) == (0, "")
    name, size, corpus, licence = out.rstrip("\n").split("\t")
    assert (name, licence) == ("model", "CC BY-SA 4.0")
    assert size.endswith(" MB")
    assert "Digit" in corpus
    assert json.loads(call("models", "model")[1])["name"] == "tiny"
    assert "modl: no such model file, run folder or bundled model; did you mean 'model'?" in fails(
        1, "models", "modl"
    )


# ---- as a process ----


def process(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "speechseq", *map(str, words)], input=stdin, capture_output=True
    )


def test_a_process_transcribes_its_stdin(run: Path, clips: Path) -> None:
    data = (clips / "a.wav").read_bytes()
    done = process("transcribe", "-", "-m", run, stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == process("transcribe", clips / "a.wav", "-m", run).stdout


def test_standard_input_may_stand_behind_flags(run: Path, clips: Path) -> None:
    data = (clips / "a.wav").read_bytes()
    done = process(
        "transcribe", "-m", run, "-f", "txt", clips / "a.wav", "-f", "json", "-", stdin=data
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_closed_streams_are_no_trouble(closed: str, run: Path, clips: Path) -> None:
    command = f"{sys.executable} -m speechseq transcribe {clips / 'a.wav'} -m {run} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0 and done.stderr == b""
    assert bool(done.stdout) == (closed == "2>&-")


def test_a_terminal_that_is_not_unicode_gets_what_it_can_show(
    run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "é.wav").write_bytes((clips / "a.wav").read_bytes())
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("transcribe", clips / "é.wav", clips / "a.wav", "-m", run)
    assert done.returncode == 0 and b"u00e9.wav" in done.stdout
    done = process("transcribe", clips / "é.wav", "-m", run, "-f", "json")
    assert json.loads(done.stdout)["file"] == str(clips / "é.wav")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(run: Path, clips: Path) -> None:
    command = f"{sys.executable} -m speechseq transcribe {clips / 'a.wav'} -m {run} > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 1
    assert done.stderr == b"speechseq: standard output: its disk is full; free some of it\n"


def test_a_process_exits_with_the_code(tmp_path: Path) -> None:
    done = process("transcribe", tmp_path / "nothing.wav", "-m", "nothing")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    debug = process("transcribe", tmp_path / "nothing.wav", "-m", "nothing", "--debug")
    assert debug.returncode == 1
    assert b"Traceback" in debug.stderr


@pytest.mark.parametrize("words", [["data", "list"], ["--help"], ["transcribe", "{clips}"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str], run: Path, clips: Path) -> None:
    words = [word.format(clips=clips) for word in words]
    if words[0] == "transcribe":
        words += ["-m", str(run)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "speechseq", *words], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


# The decoder


def test_a_decoder_by_name(call: Call, fails: Callable[..., str], run: Path, clips: Path) -> None:
    clip = clips / "a.wav"
    assert call("transcribe", clip, "-m", run, "--decoder", "greedy") == call(
        "transcribe", clip, "-m", run
    )
    said = fails(2, "transcribe", clip, "-m", run, "--decoder", "gready")
    assert said == "speechseq: decoder: unknown decoder 'gready'; did you mean 'greedy'?\n"
    assert "holds no list of words; use greedy" in fails(
        1, "transcribe", clip, "-m", run, "--decoder", "lexicon"
    )
