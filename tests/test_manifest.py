"""Manifests: what is written comes back, every wrong line is named; where corpora are found."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE, tone
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.audio import write_wav
from speechseq.errors import AudioError, DataError, UsageError
from speechseq.manifest import (
    CORPORA_VARIABLE,
    Corpus,
    Utterance,
    parse_line,
    rank_of,
    read_manifest,
    read_split,
    read_utterance,
    shared_audio,
    shared_speakers,
    statistics,
    write_manifest,
)

GOOD = {"audio_filepath": "a.wav", "duration": 1.0, "text": "one"}

seconds = st.floats(0, 1e6) | st.integers(0, 10**6)
# Low surrogates stand for the bytes of file names that are not Unicode.
any_text = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
utterances = st.builds(
    Utterance,
    audio_filepath=st.just("") | any_text.map(lambda name: "/" + name.strip("/.")),
    duration=seconds,
    text=any_text,
    speaker=any_text,
    offset=seconds,
    split=any_text,
)


@settings(deadline=None)
@given(st.lists(utterances, min_size=1, max_size=4))
def test_round_trip(written: list[Utterance]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.jsonl"
        write_manifest(path, written)
        found = read_manifest(path)
    assert [u.text for u in found] == [u.text for u in written]
    assert found == [
        # pathlib drops what means nothing in a path: //, /./
        Utterance(**{**vars(u), "audio_filepath": u.audio_filepath and str(Path(u.audio_filepath))})
        for u in written
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_a_text_with_a_line_separator_is_one_line(tmp_path: Path, separator: str) -> None:
    utterance = Utterance("/a.wav", 1.0, f"one{separator}two")
    write_manifest(tmp_path / "m.jsonl", [utterance])
    assert read_manifest(tmp_path / "m.jsonl") == [utterance]


def test_the_file_is_plain_json_lines_without_empty_keys(tmp_path: Path) -> None:
    write_manifest(
        tmp_path / "m.jsonl",
        [Utterance("a.wav", 1.5, "صفر"), Utterance("", 0.0, "", "s", 0.25, "test")],
    )
    assert (tmp_path / "m.jsonl").read_text(encoding="utf-8") == (
        '{"audio_filepath": "a.wav", "duration": 1.5, "text": "صفر"}\n'
        '{"audio_filepath": "", "duration": 0.0, "text": "", '
        '"speaker": "s", "offset": 0.25, "split": "test"}\n'
    )


def test_a_file_name_that_is_not_unicode(tmp_path: Path) -> None:
    utterance = Utterance(os.fsdecode(b"/caf\xe9.wav"), 1.0, "one")
    write_manifest(tmp_path / "m.jsonl", [utterance])
    assert read_manifest(tmp_path / "m.jsonl") == [utterance]


def test_relative_paths_are_taken_from_the_manifests_folder(tmp_path: Path) -> None:
    lines = [{**GOOD, "audio_filepath": name} for name in ("a/b.wav", "/abs/c.wav", "")]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [u.audio_filepath for u in read_manifest(tmp_path / "m.jsonl")] == [
        str(tmp_path / "a/b.wav"),
        "/abs/c.wav",
        "",
    ]


def test_blank_lines_windows_ends_and_unknown_keys_pass(tmp_path: Path) -> None:
    line = json.dumps({**GOOD, "lang": "de", "duration": 2})
    (tmp_path / "m.jsonl").write_bytes(f"\n{line}\r\n   \n{line}\r\n".encode())
    found = read_manifest(tmp_path / "m.jsonl")
    assert found == [Utterance(str(tmp_path / "a.wav"), 2, "one")] * 2


LONG = "9" * 400
MALFORMED = [
    ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    ('{"text": ' + "9" * 5000 + "}", "not JSON (Exceeds the limit"),
    ("[" * 100_000, "not JSON (maximum recursion depth exceeded"),
    ("[]", "not a JSON object; write one JSON object a line"),
    ("null", "not a JSON object; write one JSON object a line"),
    ('{"duration": 1, "text": ""}', "no 'audio_filepath'; add it (audio_filepath, duration, text"),
    ('{"audio_filepath": "a", "text": ""}', "no 'duration'; add it"),
    ('{"audio_filepath": "a", "duration": 1}', "no 'text'; add it"),
    (json.dumps({**GOOD, "audio_filepath": 5}), "'audio_filepath' is 5; a string goes here"),
    (json.dumps({**GOOD, "duration": "1"}), "'duration' is '1'; a number goes here"),
    (json.dumps({**GOOD, "duration": True}), "'duration' is True; a number goes here"),
    (json.dumps({**GOOD, "duration": None}), "no 'duration'; add it"),
    (json.dumps({**GOOD, "text": ["a\nb"]}), r"'text' is ['a\nb']; a string goes here"),
    (json.dumps({**GOOD, "speaker": 3}), "'speaker' is 3; a string goes here"),
    (json.dumps({**GOOD, "offset": "0"}), "'offset' is '0'; a number goes here"),
    (json.dumps({**GOOD, "split": False}), "'split' is False; a string goes here"),
    (json.dumps({**GOOD, "duration": -1}), "'duration' is -1; seconds, 0 or more, go here"),
    (json.dumps({**GOOD, "offset": -0.5}), "'offset' is -0.5; seconds, 0 or more, go here"),
    (json.dumps({**GOOD, "duration": float("nan")}), "'duration' is nan; seconds, 0 or more"),
    (json.dumps({**GOOD, "offset": float("inf")}), "'offset' is inf; seconds, 0 or more"),
    (json.dumps(GOOD).replace("1.0", LONG), f"'duration' is {LONG}; seconds, 0 or more"),
]


@pytest.mark.parametrize(("line", "says"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps({**GOOD, 'text': 'a b'})}\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {says}")
    assert len(message.splitlines()) == 1


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_no_line_raises_anything_else(value: object) -> None:
    for line in (value if isinstance(value, str) else "x", json.dumps({**GOOD, "duration": value})):
        try:
            found = parse_line(line, "m:1", Path("/x"))
        except DataError as error:
            assert str(error).startswith("m:1: ")
        else:
            assert found.duration >= 0


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for name, says in {
        "empty": "holds no utterance; write one JSON object a line",
        "latin": "cannot be read (",
        "none": "cannot be read ([Errno 2]",
        ".": "cannot be read ([Errno 21]",
    }.items():
        with pytest.raises(DataError) as caught:
            read_manifest(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: {says}")
        assert len(message.splitlines()) == 1


def test_a_manifest_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    def failing():
        yield Utterance("a", 1.0, "one")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_manifest(tmp_path / "m.jsonl", failing())
    assert list(tmp_path.iterdir()) == []


def test_keys_do_not_depend_on_where_the_corpus_lies() -> None:
    one = Utterance("/x/speaker/clip.wav", 1.0, "a", offset=1.5)
    other = Utterance("/y/z/speaker/clip.flac", 2.0, "b", offset=1.5)
    assert one.key == other.key == "speaker/clip@1.500"
    assert Utterance("/x/other/clip.wav", 1.0, "a", offset=1.5).key != one.key


def test_statistics() -> None:
    found = statistics(
        [
            Utterance("a", 1800.0, "one two", "s"),
            Utterance("b", 900.0, "three", "s"),
            Utterance("c", 900.0, "three", "t"),
            Utterance("d", 0.0, ""),
        ]
    )
    assert (found.utterances, found.hours, found.speakers, found.words) == (4, 1.0, 2, 4)
    assert (found.shortest, found.longest) == (0.0, 1800.0)
    assert found.texts == (("three", 2), ("one two", 1), ("", 1))
    assert statistics([]).utterances == statistics([]).longest == 0


def test_shared_speakers_ignores_unknown_ones() -> None:
    one = [Utterance("a", 1, "", "s"), Utterance("b", 1, "", ""), Utterance("c", 1, "", "t")]
    other = [Utterance("d", 1, "", "t"), Utterance("e", 1, "", "")]
    assert shared_speakers(one, other) == {"t"}
    assert shared_speakers(one, other[1:]) == set()


def test_shared_audio_is_of_stretches() -> None:
    one = [Utterance("a", 1, "x"), Utterance("", 1, ""), Utterance("b", 1, "", offset=2.0)]
    other = [Utterance("a", 9, "y"), Utterance("", 1, ""), Utterance("b", 1, "", offset=3.0)]
    assert {Path(name).name for name in shared_audio(one, other)} == {"a@0.000"}


@pytest.mark.parametrize(
    ("offset", "duration", "shared"),
    [(1.0, 0.5, True), (0.0, 0.0, True), (2.9, 1.0, True), (3.0, 1.0, False), (0.0, 2.0, False)],
)
def test_a_part_of_a_stretch_is_shared(offset: float, duration: float, shared: bool) -> None:
    """A duration of 0 is to the end of the file; stretches that touch share nothing."""
    one, other = [Utterance("a", 1.0, "x", offset=2.0)], [Utterance("a", duration, "y", "", offset)]
    if offset == 1.0:
        other = [Utterance("a", 1.5, "y", offset=1.0)]
    assert bool(shared_audio(one, other)) == bool(shared_audio(other, one)) == shared


def test_a_name_that_is_not_unicode_has_its_rank() -> None:
    assert rank_of("caf\udce9@0.000") != rank_of("caf\ud800@0.000")
    assert rank_of("café") == hashlib.sha256("café".encode()).hexdigest()


def test_silence_has_an_end() -> None:
    with pytest.raises(AudioError, match=r"silence of 9e\+06 s; the limit is 3600 s, shorten it"):
        read_utterance(Utterance("", 9e6, ""), 16000)


def test_a_file_called_by_two_names_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    names = ["real/a.wav", str(tmp_path / "real" / "a.wav"), "real/../link/a.wav"]
    one, *others = [[Utterance(name, 1, "x")] for name in names]
    assert all(shared_audio(one, other) for other in others)


@pytest.mark.parametrize(
    ("splits", "chosen", "usual", "found"),
    [
        (["", ""], "", "test", "01"),
        (["train", ""], "", "test", "01"),
        (["train", "test", ""], "", "test", "1"),
        (["train", "test"], "train", "test", "0"),
        (["train", "train"], "train", "", "01"),
        (["train", "dev"], "", "test", "holds several splits (dev, train); choose with --split"),
        (["train", "test"], "", "", "holds several splits (test, train); choose with --split"),
        (["train", "test"], "tset", "", "no utterance of split 'tset'; did you mean 'test'?"),
    ],
)
def test_one_split_of_a_manifest(
    splits: list[str], chosen: str, usual: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    write_manifest(path, [Utterance(f"{n}.wav", 1, str(n), split=s) for n, s in enumerate(splits)])
    try:
        assert "".join(u.text for u in read_split(path, chosen, usual)) == found
    except UsageError as error:
        assert str(error) == f"{path}: {found}"


def test_an_empty_path_is_silence() -> None:
    silence = read_utterance(Utterance("", 0.5, ""), RATE)
    assert silence.shape == (RATE // 2,)
    assert silence.dtype == np.float32
    assert not silence.any()
    assert read_utterance(Utterance("", 0.0, ""), RATE).shape == (1,)


def test_an_utterance_is_its_stretch_of_the_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(300, 1.0), RATE)
    whole = read_utterance(Utterance(str(tmp_path / "a.wav"), 0.0, ""), RATE)
    part = read_utterance(Utterance(str(tmp_path / "a.wav"), 0.25, "", offset=0.5), RATE)
    assert len(whole) == RATE
    np.testing.assert_array_equal(part, whole[RATE // 2 : RATE * 3 // 4])
    with pytest.raises(AudioError, match="no such file"):
        read_utterance(Utterance(str(tmp_path / "b.wav"), 0.0, ""), RATE)


CORPUS = Corpus(
    "digits",
    "Digits",
    ("train", "test"),
    lambda place, *, word="w": [Utterance(str(place), 1.0, word, split="train")],
    folder="digits-1.0",
    options=("word",),
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with $SPEECHSEQ_CORPORA in another."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path / "corpora"))
    return tmp_path


def test_a_given_root_is_the_place(places: Path) -> None:
    (places / "corpora" / "digits-1.0").mkdir(parents=True)
    assert CORPUS.locate(places) == places
    with pytest.raises(DataError) as caught:
        CORPUS.locate(places / "none")
    assert str(caught.value) == (
        f"{places / 'none'}: no such file or folder; give the place of digits"
    )


def test_the_variable_comes_before_the_default(places: Path) -> None:
    default = places / "here" / "data" / "corpora" / "digits-1.0"
    default.mkdir(parents=True)
    assert CORPUS.locate().resolve() == default
    (places / "corpora" / "digits-1.0").mkdir(parents=True)
    assert CORPUS.locate() == places / "corpora" / "digits-1.0"


def test_without_the_variable_the_default_is_the_place(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "corpora" / "digits-1.0").mkdir(parents=True)
    monkeypatch.delenv(CORPORA_VARIABLE)
    with pytest.raises(DataError) as caught:
        CORPUS.locate()
    assert str(caught.value) == (
        "digits: not found at data/corpora/digits-1.0; "
        "run 'speechseq data download digits' or give its place with --root (train: data.root)"
    )


def test_a_missing_corpus_names_every_place(places: Path) -> None:
    with pytest.raises(DataError) as caught:
        CORPUS.locate()
    assert str(caught.value).startswith(
        f"digits: not found at {places / 'corpora/digits-1.0'} and data/corpora/digits-1.0; "
    )


def test_a_layout_of_ones_own_needs_its_place() -> None:
    own = Corpus("folder", "One folder a class", (), lambda place: [])
    with pytest.raises(UsageError) as caught:
        own.locate()
    assert (
        str(caught.value)
        == "folder: needs the place of your data; give it with --root (train: data.root)"
    )


def test_splits_and_options(places: Path) -> None:
    assert CORPUS.utterances("train", root=places, word="x") == [
        Utterance(str(places), 1.0, "x", split="train")
    ]
    with pytest.raises(UsageError) as caught:
        CORPUS.utterances("dev", root=places)
    assert str(caught.value) == "digits: no split 'dev'; it has train, test"
    with pytest.raises(DataError) as missing:
        CORPUS.utterances("test", root=places)
    assert str(missing.value).startswith(f"digits: split 'test' is not in {places}; ")


def test_volume_scales_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_wav(path, 0.5 * np.sin(np.arange(8000) / 5).astype(np.float32), 8000)
    loud = read_utterance(Utterance(str(path), 1.0, "a"), 8000)
    quiet = Utterance(str(path), 1.0, "a", volume=0.25)
    write_manifest(tmp_path / "m.jsonl", [quiet])
    assert read_manifest(tmp_path / "m.jsonl") == [quiet]
    assert np.allclose(read_utterance(quiet, 8000), loud / 4, atol=1e-7)
