"""One's own data: folders, tables and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import text, tone

from speechseq.corpora import CORPORA
from speechseq.errors import AudioError, DataError
from speechseq.own_data import read_own


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
        (["path,text", "a.wav"], "line 2 does not fit"),
        (["path,text", "a.wav,go,on"], "line 2 does not fit"),
        (["path,text", 'a.wav,"go'], "not a CSV"),
        (["path,text,offset", "a.wav,go,1s"], "line 2 has offset '1s'; write seconds from 0 on"),
        (["path,text,duration", "a.wav,go,-1"], "line 2 has duration '-1'; write seconds"),
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


SPREADSHEETS = {
    "semicolons": "path;text\na.wav;go, on\n;\n",
    "tabs": "path\ttext\na.wav\tgo, on\n\t\n",
    "what Excel writes": "\ufeffsep=;\r\nPath; Text\r\na.wav;go, on\r\n",
    "spaces": 'Path, Text\na.wav,"go, on"\n,,\n',
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_csvs_of_spreadsheets(name: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "mine.csv").write_bytes(SPREADSHEETS[name].encode())
    (found,) = CORPORA["csv"].read(tmp_path / "mine.csv")
    assert (Path(found.audio_filepath).name, found.text) == ("a.wav", "go, on")


def test_columns_that_are_there_are_named(tmp_path: Path) -> None:
    text(tmp_path / "mine.csv", ["wave,text", "a.wav,go"])
    with pytest.raises(
        DataError, match=r"no column .*path.* in the first line, which has 'wave', "
    ):
        CORPORA["csv"].read(tmp_path / "mine.csv")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_other_encodings_are_said(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes("path,text\na.wav,schön\n".encode(encoding))
    with pytest.raises(DataError, match="not UTF-8; save it so"):
        CORPORA["csv"].read(tmp_path / "mine.csv")


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("sep=,\npath,text\n,,\na.wav\n")
    with pytest.raises(DataError, match="line 4 does not fit"):
        CORPORA["csv"].read(tmp_path / "mine.csv")


def test_missing_clips_are_counted(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text(tmp_path / "mine.csv", ["path,text", "gone.wav,go", "a.wav,go", "lost.wav,go"])
    with pytest.raises(AudioError, match=r"gone\.wav: no such file.*\(and 1 more of 3 clips fail"):
        CORPORA["csv"].read(tmp_path / "mine.csv")


@pytest.mark.parametrize("name", ["val", "dev"])
def test_folders_of_splits_have_several_names(name: str, tmp_path: Path) -> None:
    tone(tmp_path / "train" / "On" / "a.wav")
    tone(tmp_path / name / "On" / "b.wav")
    found = {Path(u.audio_filepath).stem: u.split for u in CORPORA["folder"].read(tmp_path)}
    assert found == {"a": "train", "b": "validation"}


def test_null_in_a_manifest_is_nothing(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    row = '{"audio_filepath": "a.wav", "duration": 0, "text": "go", "speaker": null}'
    (tmp_path / "m.jsonl").write_text("\ufeff" + row + "\n", encoding="utf-8")
    (found,) = CORPORA["jsonl"].read(tmp_path / "m.jsonl")
    assert (found.speaker, found.duration) == ("", 1.0)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_spaces_and_unicode_forms_make_no_other_speaker(kind: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    names = ["Zo\u00eb", "Zoe\u0308 ", " Zo\u00eb", "Zo\u00eb\u00a0"]
    row = '{"audio_filepath": "a.wav", "duration": 0, "text": "go", "speaker": "%s"}'
    rows = {"csv": ["path,text,speaker", *(f"a.wav,go,{name}" for name in names)]}
    rows["jsonl"] = [row % name for name in names]
    text(tmp_path / f"mine.{kind}", rows[kind])
    assert {u.speaker for u in CORPORA[kind].read(tmp_path / f"mine.{kind}")} == {"Zo\u00eb"}


def test_spaces_around_a_csvs_values_are_none_of_them(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text(tmp_path / "mine.csv", ["path , text , speaker", "a.wav , go , anna "])
    (found,) = CORPORA["csv"].read(tmp_path / "mine.csv")
    assert (Path(found.audio_filepath).name, found.text, found.speaker) == ("a.wav", "go", "anna")


# ---- what init reads ----


def test_speakers_that_differ_in_case_are_one(tmp_path: Path) -> None:
    rows = ["path,text,speaker"]
    for number, speaker in enumerate(["Anna", "anna", "Anna", "Ben", ""]):
        tone(tmp_path / f"{number}.wav", pitch=number)
        rows.append(f"{number}.wav,go,{speaker}")
    text(tmp_path / "mine.csv", rows)
    found, odd = read_own(tmp_path / "mine.csv")
    assert [u.speaker for u in found] == ["Anna", "Anna", "Anna", "Ben", ""]
    assert odd == ["speakers whose names differ only in case are taken as one: Anna, anna"]


def test_recordings_that_are_not_used_are_counted(tmp_path: Path) -> None:
    tone(tmp_path / "On" / "a.wav")
    tone(tmp_path / "On" / "a.flac")  # another recording of that name
    tone(tmp_path / "On" / "ann" / "b.wav")
    tone(tmp_path / "c.wav")
    tone(tmp_path / "_background_noise_" / "hum.wav")
    (tmp_path / "On" / "d.m4a").touch()
    found, odd = read_own(tmp_path)
    assert [Path(u.audio_filepath).name for u in found] == ["a.wav"]
    (said,) = odd
    assert said.startswith(f"4 recordings are not used, {tmp_path / 'On' / 'a.flac'} first")


def test_labels_lose_needless_spaces_and_repetitions(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", seconds=2.0)
    rows = ["path,text,offset,duration", "a.wav,go on ,0,1", "a.wav,go  on,1,1", "a.wav,go on,0,1"]
    text(tmp_path / "mine.csv", rows)
    found, odd = read_own(tmp_path / "mine.csv")
    assert [(u.text, u.offset) for u in found] == [("go on", 0.0), ("go on", 1.0)]
    assert odd == ["1 utterances are listed more than once, and taken once"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.wav,off,0", "is listed as 'on' and as 'off'; drop one of them"),
        ("a.wav,off,3", "holds no sound 3 s from its start; drop it"),
    ],
)
def test_clips_that_cannot_be_learnt_from_are_named(row: str, says: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    text(tmp_path / "mine.csv", ["path,text,offset", "a.wav,on,0", row])
    with pytest.raises(DataError, match=says):
        read_own(tmp_path / "mine.csv")


def test_missing_and_unreadable_clips_are_named_at_once(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    rows = [f"gone{n}.wav,go,{n % 2}" for n in range(6)]
    text(tmp_path / "mine.csv", ["path,text,duration", "a.wav,go,1", "noise.wav,go,1", *rows])
    with pytest.raises(AudioError) as caught:
        read_own(tmp_path / "mine.csv")
    said = str(caught.value)
    assert said.count(".wav") == 5
    assert "noise.wav: " in said
    assert "(and 6 more of 8 clips fail: " in said
    assert said.endswith("gone3.wav …)")


@pytest.mark.parametrize("row", ["b.wav,off,0.2,1.0", "b.wav,off,0,9999"])
def test_a_stretch_ends_with_its_file(row: str, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    head = ["path,text,offset,duration", "a.wav,on,0,1.04"]
    text(tmp_path / "mine.csv", [*head, row, row.replace("off", "of")])
    with pytest.raises(DataError, match=r"b\.wav: is 1\.000 s long, but .*\(2 of 3 utterances end"):
        read_own(tmp_path / "mine.csv")
    assert len(CORPORA["csv"].read(tmp_path / "mine.csv")) == 3, "training believes the list"


def test_copies_are_one_clip(tmp_path: Path) -> None:
    tone(tmp_path / "on" / "a.wav")
    tone(tmp_path / "on" / "c.wav", pitch=1)  # of the same size
    copy = tmp_path / "on" / "b.wav"
    copy.write_bytes((tmp_path / "on" / "a.wav").read_bytes())
    found, odd = read_own(tmp_path)
    assert [Path(u.audio_filepath).name for u in found] == ["a.wav", "c.wav"]
    assert odd == [f"1 clips are copies of others, and left out, {copy} first"]
    (tmp_path / "off").mkdir()
    copy.rename(tmp_path / "off" / "b.wav")
    with pytest.raises(
        DataError, match=r"on/a\.wav, byte for byte .*off/b\.wav: is listed as 'off'"
    ):
        read_own(tmp_path)


def test_classes_without_clips_are_named(tmp_path: Path) -> None:
    tone(tmp_path / "train" / "on" / "a.wav")
    (tmp_path / "train" / "off").mkdir()
    (tmp_path / "test" / "on").mkdir(parents=True)
    off, on = tmp_path / "train" / "off", tmp_path / "test" / "on"
    assert read_own(tmp_path)[1] == [f"2 folders hold no clips: {on}, {off}"]


def test_loose_clips_are_to_be_put_into_folders(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    with pytest.raises(DataError, match="no folders of clips here; put each word's clips into a "):
        read_own(tmp_path)
