"""speechseq transcribe: files, folders, patterns and pipes to texts on stdout or in files."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RATE, Call, tone

from speechseq.audio import write_wav
from speechseq.corpora import CORPORA


def test_one_file_is_its_text_alone(call: Call, run: Path, corpus: Path) -> None:
    right = 0
    for utterance in [u for u in CORPORA["fsdd"].read(corpus) if u.split == "test"][:10]:
        code, out, err = call("transcribe", utterance.audio_filepath, "-m", run)
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        right += out == f"{utterance.text}\n"
    assert right >= 7


def test_many_files_are_named(call: Call, run: Path, clips: Path) -> None:
    paths = [clips / "b.wav", clips / "a.wav"]
    code, out, err = call("transcribe", *paths, paths[0], "-m", run)
    assert (code, err) == (0, "")
    assert [line.split("\t")[0] for line in out.splitlines()] == list(map(str, paths))


def test_a_folder_is_searched(call: Call, run: Path, clips: Path) -> None:
    _, out, _ = call("transcribe", clips, "-m", run)
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == [str(clips / name) for name in ("a.wav", "b.wav", "more/c.WAV")]


def test_hidden_files_of_a_folder_are_left(call: Call, run: Path, clips: Path) -> None:
    (clips / "._a.wav").write_bytes(b"what macOS keeps beside a.wav")
    (clips / ".AppleDouble").mkdir()
    (clips / ".AppleDouble" / "a.wav").write_bytes(b"or in a folder")
    code, out, err = call("transcribe", clips, "-m", run)
    assert (code, err, len(out.splitlines())) == (0, "", 3)


def test_names_that_cannot_be_shown_are_written_out(call: Call, run: Path, clips: Path) -> None:
    for name in ("two\nlines.wav", "red\x1b[31m.wav"):
        (clips / name).write_bytes((clips / "a.wav").read_bytes())
    _, out, _ = call("transcribe", clips, "-m", run)
    assert len(out.splitlines()) == 5 and "\x1b" not in out
    assert repr(str(clips / "two\nlines.wav")) in out


def test_what_stands_behind_two_dashes_is_an_input(
    call: Call, run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "-a.wav").write_bytes((clips / "a.wav").read_bytes())
    monkeypatch.chdir(clips)
    code, out, _ = call("transcribe", "a.wav", "-m", run, "--", "-a.wav")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == ["a.wav", "-a.wav"]


def test_a_name_too_long_to_be_written_leaves_the_others(
    call: Call, run: Path, clips: Path, tmp_path: Path
) -> None:
    (clips / f"{'n' * 251}.wav").write_bytes((clips / "a.wav").read_bytes())
    code, _, err = call("transcribe", clips, "-m", run, "-o", tmp_path / "out", "-f", "json")
    assert code == 3 and "1 of 4 inputs failed" in err
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_pattern_is_expanded(call: Call, run: Path, clips: Path) -> None:
    _, out, _ = call("transcribe", f"{clips}/**/[ac].*", "-m", run)
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert sorted(names) == [str(clips / "a.wav"), str(clips / "more/c.WAV")]


def test_a_name_that_looks_like_a_pattern_is_a_file(call: Call, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip[1].wav"
    write_wav(path, tone(300.0, 0.4), RATE)
    assert call("transcribe", path, "-m", run)[0] == 0


def test_stdin_is_read(call: Call, run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = call("transcribe", clips / "a.wav", "-m", run)
    data = (clips / "a.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    assert call("transcribe", "-", "-m", run) == expected


def test_json_is_one_line_a_file(call: Call, run: Path, clips: Path) -> None:
    code, out, err = call("transcribe", clips, "-m", run, "-f", "json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["a.wav", "b.wav", "c.WAV"]
    assert all(row["duration"] == 0.4 for row in rows)
    assert all({"start", "end", "confidence", "text"} == set(w) for r in rows for w in r["words"])


def test_one_bad_file_among_many(call: Call, run: Path, clips: Path) -> None:
    (clips / "b.wav").write_bytes(b"no audio")
    code, out, err = call("transcribe", clips, "-m", run)
    assert code == 3
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == [str(clips / "a.wav"), str(clips / "more/c.WAV")]
    bad, summary = err.splitlines()
    assert str(clips / "b.wav") in bad
    assert summary == "speechseq: 1 of 3 inputs failed; they are named above"


def test_one_bad_file_alone(fails: Callable[..., str], run: Path, tmp_path: Path) -> None:
    assert "nothing.wav" in fails(1, "transcribe", tmp_path / "nothing.wav", "-m", run)


def test_files_are_written_and_never_over_another(
    call: Call, fails: Callable[..., str], run: Path, clips: Path, tmp_path: Path
) -> None:
    words = ["transcribe", clips, "-m", run, "-o", tmp_path / "out"]
    assert call(*words) == (0, "", "")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"a.txt", "b.txt", "c.txt"}
    (tmp_path / "out" / "b.txt").write_text("mine")
    (tmp_path / "out" / "a.txt").unlink()
    assert "is there already; --force writes over it" in fails(2, *words)
    assert not (tmp_path / "out" / "a.txt").exists(), "nothing is done by halves"
    assert (tmp_path / "out" / "b.txt").read_text() == "mine"
    assert call(*words, "--force") == (0, "", "")
    expected = call("transcribe", clips / "b.wav", "-m", run)[1]
    assert (tmp_path / "out" / "b.txt").read_text() == expected
    call(*words, "-f", "json")
    assert json.loads((tmp_path / "out" / "c.json").read_text())["duration"] == 0.4


def test_what_was_stopped_is_gone_on_with(
    call: Call, fails: Callable[..., str], run: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("transcribe", clips, "-m", run, "-o", out, "--skip-existing")
    out.mkdir()
    (out / "b.txt").write_text("mine")
    code, text, err = call(*words)
    assert (code, text, err) == (0, "", "1 of 3 are there already\n")
    assert (out / "b.txt").read_text() == "mine"
    assert {path.name for path in out.iterdir()} == {"a.txt", "b.txt", "c.txt"}
    assert call(*words) == (0, "", "3 of 3 are there already\n")
    assert "--force: not allowed with argument --skip-existing" in fails(2, *words, "--force")
    assert "name it with -o DIR" in fails(2, "transcribe", clips, "--skip-existing")


def test_two_inputs_may_not_share_a_file(
    fails: Callable[..., str], run: Path, clips: Path, tmp_path: Path
) -> None:
    write_wav(clips / "more" / "a.wav", tone(300.0, 0.4), RATE)
    err = fails(2, "transcribe", clips, "-m", run, "-o", tmp_path / "out")
    assert f"both {clips}/a.wav and {clips}/more/a.wav would be written there" in err
    assert not (tmp_path / "out").exists()


def test_folders_that_a_pattern_matches_are_searched(call: Call, run: Path, clips: Path) -> None:
    (clips / "empty").mkdir()
    (clips / "notes.txt").unlink()
    whole = call("transcribe", clips, "-m", run)
    assert call("transcribe", clips / "*", "-m", run) == whole
    assert call("transcribe", f"/{clips}/**", "-m", run)[1].count("\n") == whole[1].count("\n")


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_are_one_document_each(
    form: str, call: Call, fails: Callable[..., str], run: Path, clips: Path, tmp_path: Path
) -> None:
    words = ["transcribe", clips, "-m", run, "-f", form]
    assert "write them with -o DIR" in fails(2, *words)
    assert call(*words, "-o", tmp_path / "out")[0] == 0
    assert call("transcribe", clips / "a.wav", "-m", run, "-f", form)[0] == 0


def test_a_standard_input_that_is_closed(
    fails: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "the standard input is closed" in fails(2, "transcribe", "-", "-m", run)


def test_a_standard_input_that_is_closed_among_files_leaves_the_others(
    call: Call, run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = call("transcribe", clips / "a.wav", "-", clips / "b.wav", "-m", run)
    assert (code, out.count("\n")) == (3, 2)
    assert "speechseq: -: the standard input is closed" in err


def test_an_output_that_is_no_folder_is_refused_at_once(
    fails: Callable[..., str], run: Path, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    found = fails(2, "transcribe", clips, "-m", run, "-o", tmp_path / "file")
    assert "is no folder; name one" in found


def test_nothing_to_transcribe(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "no audio in this folder" in fails(2, "transcribe", tmp_path)
    assert "matches no file; check" in fails(2, "transcribe", tmp_path / "*.wav")
    assert "the following arguments are required: FILE" in fails(2, "transcribe")


def test_inputs_may_stand_behind_flags(call: Call, run: Path, clips: Path) -> None:
    one, two = sorted(clips.rglob("*.wav"))[:2]
    code, out, _ = call("transcribe", one, "-m", run, two)
    assert (code, len(out.splitlines())) == (0, 2)


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
