"""One's own data: folders, tables and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import text, tone

from speechseq.corpora import CORPORA
from speechseq.errors import DataError


def test_folder_without_splits_is_train(tmp_path: Path) -> None:
    tone(tmp_path / "On" / "a.wav")
    tone(tmp_path / "test" / "b.flac")  # a class that happens to be called test
    found = CORPORA["folder"].read(tmp_path)
    assert {(u.text, u.split) for u in found} == {("On", "train"), ("test", "train")}


def test_folder_of_splits_and_classes_is_refused(tmp_path: Path) -> None:
    tone(tmp_path / "train" / "On" / "a.wav")
    tone(tmp_path / "Off" / "a.wav")
    with pytest.raises(DataError, match="'Off' lies beside 'train'"):
        CORPORA["folder"].read(tmp_path)


def test_hidden_files_are_no_clips(tmp_path: Path) -> None:
    tone(tmp_path / "On" / "a.wav")
    (tmp_path / "On" / "._a.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    assert [u.text for u in CORPORA["folder"].read(tmp_path)] == ["On"]


def test_a_class_whose_clips_lie_deeper_is_refused(tmp_path: Path) -> None:
    tone(tmp_path / "On" / "a.wav")
    tone(tmp_path / "Off" / "ann" / "a.wav")
    with pytest.raises(DataError, match=r"Off: holds no clips of \.wav.*put the clips right into"):
        CORPORA["folder"].read(tmp_path)


def test_csv_stretches(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", seconds=2.0)
    rows = ["path,text,offset,duration", "a.wav,go,0.5,0.25", "a.wav,on,1.5,", "a.wav,off,,"]
    text(tmp_path / "mine.csv", rows)
    found = [(u.text, u.offset, u.duration) for u in CORPORA["csv"].read(tmp_path / "mine.csv")]
    assert found == [("go", 0.5, 0.25), ("on", 1.5, 0.5), ("off", 0.0, 2.0)]


@pytest.mark.parametrize("where", ["audio_filepath", "path", "file"])
@pytest.mark.parametrize("what", ["text", "transcript", "label", "class"])
def test_csv_columns(where: str, what: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text(tmp_path / "mine.csv", [f"split,{where},{what}", ",a.wav,go", "test,a.wav,stop"])
    found = CORPORA["csv"].read(tmp_path / "mine.csv")
    assert [(u.text, u.split, u.duration) for u in found] == [
        ("go", "train", 1.0),
        ("stop", "test", 1.0),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,words", "a.wav,go"], "no column text or transcript"),
        (["name,text", "a.wav,go"], "no column audio_filepath or path"),
        (["path,text"], "holds no rows"),
        (["path,text", "a.wav"], "row 2 does not fit"),
        (["path,text", "a.wav,go,on"], "row 2 does not fit"),
        (["path,text", 'a.wav,"go'], "not a CSV"),
        (["path,text,offset", "a.wav,go,1s"], "row 2 has offset '1s'; write seconds from 0 on"),
        (["path,text,duration", "a.wav,go,-1"], "row 2 has duration '-1'; write seconds"),
    ],
)
def test_csv_refusals(lines: list[str], message: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text(tmp_path / "mine.csv", lines)
    with pytest.raises(DataError, match=message):
        CORPORA["csv"].read(tmp_path / "mine.csv")


def test_jsonl_split_of_a_line_counts(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", seconds=1.5)
    line = '{"audio_filepath": "a.wav", "duration": 0, "text": "go", "offset": 0.5'
    text(tmp_path / "mine.jsonl", [line + "}", line + ', "split": "test"}'])
    found = CORPORA["jsonl"].read(tmp_path / "mine.jsonl")
    assert [(u.split, u.duration) for u in found] == [("train", 1.0), ("test", 1.0)]
