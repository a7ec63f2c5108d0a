"""The command line: corpora and models, listed, prepared and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Call

from speechseq.cli import data as data_command
from speechseq.manifest import Utterance, read_manifest, write_manifest


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
