"""Runs as a table: what is read of a run folder, and how damaged ones are told."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechseq.cli import main
from speechseq.errors import ModelError
from speechseq.model_file import RUN_METRICS, RUN_MODEL, RUN_RECIPE, RUN_VOCABULARY, RUN_WEIGHTS
from speechseq.run_table import (
    HEADER_BYTES,
    count_parameters,
    kept_row,
    printable,
    read_metrics,
    summarise,
)

RECIPE = """
name: {name}
data: {{corpus: fsdd, tokens: words}}
model: {{layers: 2, hidden: 120}}
training: {{epochs: 9}}
"""


def row(epoch: int, error: float | None = None, loss: float = 1.0) -> dict[str, Any]:
    values = {"epoch": epoch, "step": 7 * epoch, "loss": 2.0, "seconds": 61.4 * epoch}
    if error is not None:
        values |= {"validation_error": error, "validation_loss": loss}
    return values


def weights(tensors: dict[str, list[int]], **changed: Any) -> bytes:
    """A safetensors file of zeros, float32; `changed` goes into the header of the first tensor."""
    header: dict[str, Any] = {"__metadata__": {"by": "hand"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    header[next(iter(tensors))] |= changed
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


NETWORK = {"head.bias": [17], "head.weight": [17, 240], "scale": [], "features.cmvn.mean": [40]}


def make_run(run: Path, *rows: dict[str, Any], name: str = "digits") -> Path:
    run.mkdir(parents=True)
    (run / RUN_RECIPE).write_text(RECIPE.format(name=name))
    (run / RUN_VOCABULARY).write_text("{}")
    if rows:
        (run / RUN_METRICS).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (run / RUN_WEIGHTS).write_bytes(weights(NETWORK))
    return run


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that runs the command line: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def test_a_run_is_summed_up(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", row(1), row(2, 0.25), row(3))
    (run / RUN_MODEL).touch()
    assert summarise(run).to_dict() == {
        "run": str(run),
        "recipe": "digits",
        "model": "2 x bilstm 120, ctc",
        "parameters": 17 + 17 * 240 + 1,
        "epoch": 3,
        "epochs": 9,
        "best_error": 0.25,
        "best_epoch": 2,
        "seconds": 3 * 61.4,
        "finished": True,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("model: {cell: gru, bidirectional: false, layers: 1}", "1 x gru 128, ctc"),
        (
            "data: {tokens: classes}\nmodel: {head: classify, pooling: mean}",
            "2 x bilstm 128, classify mean",
        ),
    ],
)
def test_the_model_in_short(tmp_path: Path, settings: str, said: str) -> None:
    (tmp_path / RUN_RECIPE).write_text(settings)
    assert summarise(tmp_path).model == said


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/b"), row(1, 0.5), row(2, 0.125))
    make_run(Path("runs/a/george"), name="lone")
    assert call("runs") == (
        0,
        "run            recipe  model                parameters  epochs  best error  at  time"
        "  finished\n"
        "runs/a/george  lone    2 x bilstm 120, ctc           -     0/9           -   -  0:00"
        "  no\n"
        "runs/b         digits  2 x bilstm 120, ctc       4,098     2/9     12.50 %   2  2:03"
        "  no\n",
        "",
    )


def test_json_holds_the_same(tmp_path: Path, call: Call) -> None:
    runs = [make_run(tmp_path / "x" / name, row(1, 0.5)) for name in "ba"]
    code, out, _ = call("runs", "-f", "json", tmp_path / "x")  # the folder behind the flag
    assert code == 0
    assert json.loads(out) == [summarise(run).to_dict() for run in sorted(runs)]


def test_each_run_is_listed_once_and_links_are_followed(tmp_path: Path, call: Call) -> None:
    real = make_run(tmp_path / "disk" / "real")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(real)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    code, out, err = call("runs", "-f", "json", tmp_path / "runs", real, tmp_path / "disk")
    assert (code, err) == (0, "")
    assert [run["run"] for run in json.loads(out)] == [str(tmp_path / "runs" / "link")]


def test_a_damaged_run_is_named_and_the_others_shown(tmp_path: Path, call: Call) -> None:
    make_run(tmp_path / "good", row(1))
    bad = make_run(tmp_path / "bad", row(1)) / RUN_WEIGHTS
    bad.write_bytes(bad.read_bytes()[:-1])
    (make_run(tmp_path / "worse") / RUN_RECIPE).write_text("model: {cel: lstm}")
    code, out, err = call("runs", tmp_path)
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["run", str(tmp_path / "good")]
    lines = err.splitlines()
    assert lines[0] == f"speechseq: {bad}: damaged (it is cut off); train again"
    assert lines[1].startswith(f"speechseq: {tmp_path / 'worse' / RUN_RECIPE}: unknown key")
    assert lines[2] == "speechseq: 2 could not be read; they are named above"


@pytest.mark.parametrize(
    ("make", "said"),
    [(False, "no such folder; train a recipe"), (True, "holds no run; train a recipe")],
)
def test_no_run_is_one_line(tmp_path: Path, call: Call, make: bool, said: str) -> None:
    folder = tmp_path / "runs"
    if make:
        folder.mkdir()
    code, out, err = call("runs", folder)
    assert (code, out, err) == (1, "", f"speechseq: {folder}: {said}, or name another\n")


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "good")
    closed, scan = make_run(tmp_path / "closed"), os.scandir

    def refuse(path: str) -> Any:  # root, whom containers run as, reads every folder
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, out, err = call("runs", tmp_path)
    assert code == 3
    assert "good" in out
    assert f"{closed}: cannot be read (Permission denied); check it" in err


def test_names_cannot_break_the_table(tmp_path: Path, call: Call) -> None:
    make_run(tmp_path / "a", name='"a\\e[31m\\nb"')
    code, out, _ = call("runs", tmp_path)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "a\\x1b[31m\\nb" in out
    assert printable("ä b \udce9\u202e") == "ä b \\udce9\\u202e"


@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode there")
def test_a_name_that_is_no_text_is_listed(tmp_path: Path, call: Call) -> None:
    make_run(tmp_path / os.fsdecode(b"r\xe9"))
    assert "r\\udce9 " in call("runs", tmp_path)[1]
    (run,) = json.loads(call("runs", tmp_path, "-f", "json")[1])
    assert run["run"] == str(tmp_path / "r\ufffd")


def test_metrics_leave_out_a_torn_last_row_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", row(1), row(2))
    path = run / RUN_METRICS
    path.write_text(path.read_text() + '{"epoch": 3, "se')
    assert [values["epoch"] for values in read_metrics(run)] == [1, 2]
    path.write_text(path.read_text() + "\n" + json.dumps(row(4)) + "\n")
    with pytest.raises(ModelError, match="line 3 is not an epoch's metrics; delete the line"):
        read_metrics(run)


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "3",
        '{"epoch": 1}',
        '{"epoch": 1.5, "seconds": 1}',
        '{"epoch": 0, "seconds": 1}',
        '{"epoch": Infinity, "seconds": 1}',
        '{"epoch": 1, "seconds": NaN}',
        '{"epoch": 1, "seconds": -1}',
        f'{{"epoch": 1, "seconds": 1, "loss": {"9" * 400}}}',
        '{"epoch": 1, "seconds": 1, "validation_error": -5}',
        '{"epoch": 1, "seconds": 1, "validation_error": 1e308}',
        '{"epoch": 1, "seconds": 1, "gradient_norm": -1e308}',
        "[" * 100_000,
    ],
    ids=lambda line: line[:30],
)
def test_rows_that_are_no_metrics(tmp_path: Path, line: str) -> None:
    run = make_run(tmp_path / "a")
    (run / RUN_METRICS).write_text(f"{line}\n{json.dumps(row(1))}\n")
    with pytest.raises(ModelError, match="line 1 is not"):
        read_metrics(run)


def test_metrics_that_cannot_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert read_metrics(run) == []
    (run / RUN_METRICS).write_bytes(b"\xff\n")
    with pytest.raises(ModelError, match=r"cannot be read \(not UTF-8\)"):
        read_metrics(run)
    (run / RUN_METRICS).unlink()
    (run / RUN_METRICS).mkdir()
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\)"):
        read_metrics(run)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([], None),
        ([row(1), row(2)], None),
        ([row(1, 0.5), row(2), row(3, 0.25), row(4, 0.3)], 3),
        ([row(1, 0.5, 2.0), row(2, 0.5, 1.0), row(3, 0.5, 1.0)], 2),  # the loss, then the first
        ([row(1, math.nan), row(2, 0.5), row(3, 0.5, math.nan)], 2),
        ([row(1, math.inf)], None),
    ],
)
def test_the_best_row_is_the_one_whose_weights_were_kept(
    rows: list[dict[str, Any]], best: int | None
) -> None:
    found = kept_row(rows, "best")
    assert (found and found["epoch"]) == best


def test_the_last_row_is_kept_where_the_last_weights_are() -> None:
    rows = [row(1, 0.5), row(2, 0.02), row(3, 0.3), row(4), row(5, math.nan)]
    found = kept_row(rows, "last")
    assert found and found["epoch"] == 3
    assert kept_row([row(1)], "last") is None


def test_parameters_are_those_that_a_real_file_holds(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.numpy").save_file
    numpy = pytest.importorskip("numpy")
    path = tmp_path / RUN_WEIGHTS
    tensors = {name: numpy.zeros(shape, "float32") for name, shape in NETWORK.items()}
    save({**tensors, "half": numpy.zeros(3, "float16")}, path)
    assert count_parameters(path) == 17 + 17 * 240 + 1 + 3


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
BIG = int("9" * 4000)


def framed(header: bytes, length: int | None = None, data: bytes = bytes(4)) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


DAMAGED = {
    "empty": (b"", "its header is cut off"),
    "cut in its length": (b"\x01\0\0", "its header is cut off"),
    "cut in its header": (framed(HEADER)[:30], "its header is cut off"),
    "cut in its tensors": (framed(HEADER)[:-1], "it is cut off"),
    "a length beyond the file": (framed(HEADER, 2**64 - 1), "its header is cut off"),
    "a length beyond belief": (framed(b" " * (HEADER_BYTES + 1)), "would be 1048577 bytes"),
    "more than its tensors": (framed(HEADER) + b"\0", "5 bytes of tensors where 4 should be"),
    "no UTF-8": (framed(b"\xff"), "no safetensors header"),
    "no JSON": (framed(b"{"), "no safetensors header"),
    "no object": (framed(b"[]"), "no safetensors header"),
    "deep": (framed(b"[" * 100_000), "no safetensors header"),
    "a tensor that is none": (framed(b'{"a": 3}'), "no safetensors header"),
    "a kind that is none": (weights({"a": [1]}, dtype="F33"), "no safetensors header"),
    "no shape": (weights({"a": [1]}, shape=None), "no safetensors header"),
    "a text for a shape": (weights({"a": [1]}, shape="1"), "a tensor's shape is no shape"),
    "half an axis": (weights({"a": [1]}, shape=[1.0]), "a tensor's shape is no shape"),
    "many axes": (weights({"a": [1]}, shape=[1] * 9), "a tensor's shape is no shape"),
    "less than nothing": (weights({"a": [1]}, shape=[-1]), "shape is impossible"),
    "a huge axis": (weights({"a": [1]}, shape=[BIG, BIG]), "shape is impossible"),
    "backwards": (weights({"a": [1]}, data_offsets=[4, 0]), "shape is impossible"),
    "another shape": (weights({"a": [2]}, shape=[1]), "shape and bytes differ"),
    "twice the same bytes": (
        weights({"a": [2], "b": [1]}, shape=[1], data_offsets=[0, 4]),
        "12 bytes of tensors where 8",
    ),
}


@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_weights_are_one_clear_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / RUN_WEIGHTS
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        count_parameters(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: damaged (")
    assert said in text
    assert len(text.removeprefix(str(path))) < 100


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\); check the file"):
        count_parameters(tmp_path)


@given(header=st.binary(max_size=80), data=st.binary(max_size=8))
def test_any_bytes_are_counted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / RUN_WEIGHTS
    path.write_bytes(framed(header, data=data))
    try:
        assert count_parameters(path) <= len(data)
    except ModelError as error:
        assert "\n" not in str(error)
