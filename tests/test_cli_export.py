"""The command line: exporting a run, its card, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Call

from speechseq.errors import DataError
from speechseq.recogniser import load
from speechseq.training import export as export_module
from speechseq.training.export import Parity


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
