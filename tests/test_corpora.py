"""Every corpus of the table lists its own layout; the real parts hold what is published."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import make_layout, pack, text, tone

from speechseq.archives import fetch
from speechseq.cli import main
from speechseq.corpora import CORPORA
from speechseq.corpora.an4 import parse_transcript
from speechseq.corpora.clips import clips_in, stem
from speechseq.errors import AudioError, DataError, UsageError
from speechseq.manifest import CORPORA_VARIABLE, Utterance, shared_audio

DOWNLOADED = [name for name, corpus in CORPORA.items() if corpus.archives]

COUNTS = {
    "fsdd": {"train": 60, "test": 40},
    "arabic_speech_commands": {"train": 12, "validation": 6, "test": 6},
    "yesno": {"train": 30, "test": 30},
    "speech_commands": {"train": 24, "validation": 8, "test": 8, "canonical-test": 2},
    "speech_commands_v0.01": {"train": 24, "validation": 8, "test": 8, "canonical-test": 2},
    "librispeech": dict.fromkeys(CORPORA["librispeech"].splits, 3),
    "mini_librispeech": {"train-clean-5": 3, "dev-clean-2": 3},
    "an4": {"train": 9, "test": 3},
    "synthetic_words": {"train": 6},
    "folder": {"train": 8, "validation": 4, "test": 4},
    "csv": {"train": 4, "validation": 4, "test": 4},
    "jsonl": {"train": 4, "validation": 4, "test": 4},
    "shards": {"train": 4, "validation": 4, "test": 4},
}


def splits(utterances: list[Utterance]) -> dict[str, int]:
    return dict(Counter(utterance.split for utterance in utterances))


@pytest.mark.parametrize("name", CORPORA)
def test_layout_is_listed(name: str, tmp_path: Path) -> None:
    place = make_layout(name, tmp_path)
    found = CORPORA[name].read(place)
    assert splits(found) == COUNTS[name]
    for utterance in found:
        info = soundfile.info(utterance.audio_filepath)
        assert utterance.duration == pytest.approx(info.duration)
        assert utterance.text
    for split in COUNTS[name]:
        own = CORPORA[name].utterances(split, root=place)
        others = [utterance for utterance in found if utterance.split != split]
        assert not shared_audio(own, others)
    assert CORPORA[name].read(place) == found


@pytest.mark.parametrize("name", CORPORA)
def test_empty_place_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as caught:
        CORPORA[name].read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CORPORA)
def test_damaged_clip_is_named(name: str, tmp_path: Path) -> None:
    place = make_layout(name, tmp_path)
    if name == "jsonl":
        text(place / "train.jsonl", ['{"audio_filepath": "x.wav", "duration": 0, "text": "a"}'])
        broken = place / "x.wav"
    else:
        broken = Path(CORPORA[name].read(place)[0].audio_filepath)
    broken.write_bytes(b"RIFF but no more")
    with pytest.raises(AudioError, match=re.escape(str(broken))):
        CORPORA[name].read(place)


@pytest.mark.parametrize("name", [name for name in CORPORA if len(CORPORA[name].splits) > 1])
def test_missing_split_is_named(name: str, tmp_path: Path) -> None:
    place = make_layout(name, tmp_path)
    split = CORPORA[name].splits[-1]
    for utterance in CORPORA[name].utterances(split, root=place):
        Path(utterance.audio_filepath).unlink()
    with pytest.raises(DataError, match=split):
        CORPORA[name].utterances(split, root=place)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder on loopback; yield its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize("name", DOWNLOADED)
def test_archives_unpack_to_the_layout(name: str, tmp_path: Path, server: tuple[str, Path]) -> None:
    address, served = server
    corpus, made = CORPORA[name], make_layout(name, tmp_path / "made")
    archives = []
    for archive in corpus.archives:
        path = pack(corpus, archive, tmp_path / "made", served)
        archives.append(
            dataclasses.replace(archive, url=f"{address}/{path.name}", sha256="", size=0)
        )
    place = fetch(archives, tmp_path / "fetched", corpus.folder)
    assert place == tmp_path / "fetched" / corpus.folder
    assert splits(corpus.read(place)) == splits(corpus.read(made)) == COUNTS[name]
    assert not list((tmp_path / "fetched" / ".downloads").iterdir())
    assert {path.name for path in (tmp_path / "fetched").rglob(".*")} == {".downloads"}
    with pytest.raises(DataError, match="is already there"):
        fetch(archives, tmp_path / "fetched", corpus.folder)


def test_one_missing_part_is_fetched_alone(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, served = server
    corpus = CORPORA["mini_librispeech"]
    make_layout(corpus.name, tmp_path / "made")
    archives = [
        dataclasses.replace(archive, url=f"{address}/{archive.file_name}")
        for archive in corpus.archives
    ]
    pack(corpus, corpus.archives[0], tmp_path / "made", served)
    with pytest.raises(DataError, match=r"dev-clean-2\.tar\.gz: the server answered 404"):
        fetch(archives, tmp_path / "fetched", corpus.folder)
    pack(corpus, corpus.archives[1], tmp_path / "made", served)
    (served / corpus.archives[0].file_name).unlink()
    place = fetch(archives, tmp_path / "fetched", corpus.folder)
    assert splits(corpus.read(place)) == COUNTS["mini_librispeech"]


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish yesno; work in an empty folder; return $SPEECHSEQ_CORPORA, which is not there."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path / "corpora"))
    corpus = CORPORA["yesno"]
    make_layout(corpus.name, tmp_path / "made")
    packed = pack(corpus, corpus.archives[0], tmp_path / "made", tmp_path)
    archive = dataclasses.replace(corpus.archives[0], url=packed.as_uri(), sha256="", size=0)
    monkeypatch.setitem(CORPORA, "yesno", dataclasses.replace(corpus, archives=(archive,)))
    return tmp_path / "corpora"


def test_a_corpus_that_is_found_is_not_downloaded(
    corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for parent in (Path("data/corpora"), corpora):
        (parent / "waves_yesno").mkdir(parents=True)
        assert main(["data", "download", "yesno"]) == 1
        assert f": {parent / 'waves_yesno'}: is already there" in capsys.readouterr().err
    assert main(["data", "download", "yesno", "--root", "mine"]) == 0
    assert capsys.readouterr().out == "mine/waves_yesno\n"


@pytest.mark.parametrize("shut", [False, True])
def test_a_corpus_comes_to_where_it_is_looked_for(
    shut: bool, corpora: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if shut:
        corpora.mkdir()
        monkeypatch.setattr("os.access", lambda path, _: Path(path) != corpora)
    assert main(["data", "download", "yesno"]) == 0
    expected = (Path("data/corpora") if shut else corpora) / "waves_yesno"
    assert capsys.readouterr().out == f"{expected}\n"
    assert CORPORA["yesno"].locate() == expected


# --- fsdd ------------------------------------------------------------------------------------


def test_fsdd_reads_digits_and_speakers(tmp_path: Path) -> None:
    found = CORPORA["fsdd"].read(make_layout("fsdd", tmp_path))
    by_name = {Path(u.audio_filepath).name: u for u in found}
    clip = by_name["7_bert_12.wav"]
    assert (clip.text, clip.speaker, clip.split) == ("seven", "bert", "train")
    assert by_name["7_bert_1.wav"].split == "test"


def test_fsdd_leaves_one_speaker_out(tmp_path: Path) -> None:
    found = CORPORA["fsdd"].read(make_layout("fsdd", tmp_path), held_out_speaker="anna")
    assert {(u.speaker, u.split) for u in found} == {("anna", "test"), ("bert", "train")}
    with pytest.raises(UsageError, match=r"did you mean 'anna'.*speakers: anna, bert"):
        CORPORA["fsdd"].read(tmp_path / "free-spoken-digit-dataset", held_out_speaker="anne")


# --- arabic_speech_commands, an4, yesno, librispeech -----------------------------------------


def test_arabic_speakers_and_suffixes(tmp_path: Path) -> None:
    place = make_layout("arabic_speech_commands", tmp_path)
    tone((place / "dataset/zero/00000002_NO_01.wav").with_suffix(".flac"))
    (place / "dataset/zero/00000002_NO_01.wav").unlink()
    (place / "test.csv").unlink()
    found = CORPORA["arabic_speech_commands"].read(place)
    assert splits(found) == {"train": 12, "validation": 6}
    clip = next(u for u in found if u.audio_filepath.endswith(".flac"))
    assert (clip.text, clip.speaker, clip.split) == ("zero", "00000002", "validation")


def test_partly_missing_split_is_refused(tmp_path: Path) -> None:
    place = make_layout("arabic_speech_commands", tmp_path)
    (place / "dataset/zero/00000002_NO_01.wav").unlink()
    with pytest.raises(DataError, match=r"val.csv: 1 of 6 clips are missing, dataset/zero/0000"):
        CORPORA["arabic_speech_commands"].read(place)


def test_arabic_row_without_class_is_named(tmp_path: Path) -> None:
    place = make_layout("arabic_speech_commands", tmp_path)
    text(place / "test.csv", ["file,word", "dataset/zero/00000003_NO_01.wav,zero"])
    with pytest.raises(DataError, match=r"test\.csv: a row has no 'file' or 'class'"):
        CORPORA["arabic_speech_commands"].read(place)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("<s> YES </s> (an251-fash-b)", ("an251-fash-b", "yes")),
        ("GO  FORWARD (an406-fcaw-b)", ("an406-fcaw-b", "go forward")),
        ("<s>  </s> (an1-x-b)", ("an1-x-b", "")),
        ("<s> A (B) C </s> (an1-x-b)", ("an1-x-b", "a (b) c")),
    ],
)
def test_an4_transcripts(line: str, expected: tuple[str, str]) -> None:
    assert parse_transcript(line, "x") == expected


@settings(deadline=None)
@given(st.text(max_size=40))
def test_an4_parser_never_breaks_otherwise(line: str) -> None:
    try:
        name, words = parse_transcript(line, "x")
    except DataError as error:
        assert str(error).startswith("x: ")
    else:
        assert name and not re.search(r"[()\s]", name)
        assert words == " ".join(words.split())


def test_an4_without_test_audio_has_no_test_split(tmp_path: Path) -> None:
    place = make_layout("an4", tmp_path)
    for clip in (place / "wav/an4test_clstk/fcaw").iterdir():
        clip.unlink()
    found = CORPORA["an4"].read(place)
    assert splits(found) == {"train": 9}
    assert found[0].speaker == "fash" and found[0].text == "go c m u"


def test_yesno_spells_its_names(tmp_path: Path) -> None:
    found = CORPORA["yesno"].read(make_layout("yesno", tmp_path))
    assert found[0].text == " ".join(["no"] * 8)
    assert found[5].text == "no no no no no yes no yes"
    names = [u.audio_filepath for u in found]
    assert names == sorted(names)
    assert [u.split for u in found] == ["train"] * 30 + ["test"] * 30


def test_librispeech_reads_chapters(tmp_path: Path) -> None:
    place = make_layout("librispeech", tmp_path)
    found = CORPORA["librispeech"].utterances("dev-other", root=place)
    assert {u.text for u in found} == {"the cat's yes"}
    assert {u.speaker for u in found} == {"20"}
    with pytest.raises(UsageError, match="no split 'test'"):
        CORPORA["librispeech"].utterances("test", root=place)


# --- clips -----------------------------------------------------------------------------------


def test_clips_are_found_by_stem(tmp_path: Path) -> None:
    tone(tmp_path / "b.flac")
    tone(tmp_path / "b.wav")
    tone(tmp_path / "a.wav.wav")
    text(tmp_path / "c.txt", ["not a clip"])
    assert {name: path.name for name, path in clips_in(tmp_path).items()} == {
        "a": "a.wav.wav",
        "b": "b.wav",
    }
    assert clips_in(tmp_path / "nowhere") == {}
    assert stem("x.y.WAV") == "x.y"


# --- the real parts --------------------------------------------------------------------------


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "split", "count", "speakers"),
    [
        ("fsdd", "train", 2700, 6),
        ("fsdd", "test", 300, 6),
        ("arabic_speech_commands", "train", 7200, 18),
        ("arabic_speech_commands", "validation", 2400, 6),
        ("yesno", "train", 30, 0),
        ("yesno", "test", 30, 0),
        ("an4", "train", 948, 74),
    ],
)
def test_real_parts(name: str, split: str, count: int, speakers: int) -> None:
    found = CORPORA[name].utterances(split)
    assert len(found) == count
    assert len({u.speaker for u in found} - {""}) == speakers


@pytest.mark.corpus
def test_real_speech_commands() -> None:
    corpus = CORPORA["speech_commands"]
    words = ("yes", "no", "up", "down", "left", "right", "go")
    found = corpus.read(corpus.locate(), words=words, unknown=True, silence=True)
    counts = Counter((u.split, u.text) for u in found)
    known = {split: sum(counts[split, word] for word in words) for split in corpus.splits}
    if known["train"] == 4066:  # the part made for development; the public archive has more
        assert counts["train", "_unknown_"] == 3455
        assert counts["train", "_silence_"] == 1162
        assert counts["canonical-test", "_unknown_"] == 198
    assert counts["validation", "_silence_"] == -(-known["validation"] // 10)
    speakers = {split: {u.speaker for u in found if u.split == split} - {""} for split in known}
    assert not speakers["train"] & speakers["validation"]
    assert not speakers["train"] & speakers["canonical-test"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("synthetic_words", "is made, not downloaded; run 'python scripts/make_words.py"),
        ("folder", "is your own data; there is nothing to download"),
    ],
)
def test_what_nobody_publishes_says_where_it_comes_from(
    name: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "download", name]) == 2
    assert advice in capsys.readouterr().err


def test_what_is_made_names_its_command_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"run 'python scripts/make_words\.py"):
        CORPORA["synthetic_words"].locate()
