"""Shards are written whole, hold what the manifest lists, and can be listed again."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import TONES, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import CLIPS, clip, content, made_recipe

from speechseq.audio import read_audio
from speechseq.cli import main
from speechseq.corpora import shards as shards_module
from speechseq.corpora.shards import Index, index_path, list_split, read, read_index
from speechseq.errors import DataError, SpeechseqError, UsageError
from speechseq.files import cache_folder
from speechseq.manifest import Utterance, read_manifest, read_utterance, write_manifest
from speechseq.recipe import DataSettings
from speechseq.splits import load_split
from speechseq.tokens import Vocabulary
from speechseq.training.sharding import Limit, Summary, split_of, write_index, write_shards
from speechseq.training.stream import vocabulary_of_index


def test_shards_hold_what_the_manifest_lists(tones: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tones)
    path, written = write_shards(
        utterances, tmp_path / "out" / "train-%04d.tar", limit=Limit(utterances=20)
    )
    assert path.name == "train.shards.json"
    assert [shard.utterances for shard in written] == [20, 20, 8]
    index = read_index(path)
    assert index.shards == tuple(written)
    found = content(index)
    assert len(found) == 48
    for number, utterance in enumerate(utterances):
        sample = found[f"{number:09}.wav"]
        assert sample.audio == Path(utterance.audio_filepath).read_bytes(), "as it was"
        assert (sample.utterance.text, sample.utterance.speaker, sample.utterance.split) == (
            utterance.text,
            utterance.speaker,
            utterance.split,
        )
        assert sample.utterance.duration == pytest.approx(utterance.duration, abs=1e-3)
    assert index.labels == index.words == tuple(sorted(TONES))
    assert set(index.characters) == set("".join(TONES))
    assert index.seconds == pytest.approx(sum(u.duration for u in utterances), abs=0.05)
    assert index.longest_seconds == max(s.utterance.duration for s in found.values())
    names = list(found)
    assert names != sorted(names), "shuffled"


def test_the_library_reads_what_was_written(folders: list[Path]) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with open(folders[1] / "train-000.tar", "rb") as file:
        samples = list(group_by_keys({**e, "__url__": ""} for e in tar_file_iterator(file)))
    assert len(samples) == 11
    assert {"wav", "json"} < samples[0].keys()
    assert json.loads(samples[0]["json"])["text"].startswith("w")


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_a_stretch_is_stored_without_loss(subtype: str, bits: int, tmp_path: Path) -> None:
    long = np.random.default_rng(0).uniform(-1, 1, 8000)
    long[:2] = -1, 1
    soundfile.write(tmp_path / "long.wav", long, 8000, subtype)
    cut = Utterance(str(tmp_path / "long.wav"), 0.5, "a", offset=0.0)
    index = read_index(write_shards([cut], tmp_path / "a-%d.tar", limit=Limit())[0])
    (sample,) = content(index).values()
    assert soundfile.info(io.BytesIO(sample.audio)).subtype == f"PCM_{bits}"
    np.testing.assert_array_equal(read_audio(sample.audio, 8000), read_utterance(cut, 8000))
    assert sample.utterance.duration == 0.5


def test_volume_stereo_and_silence_are_stored_as_heard(tmp_path: Path) -> None:
    both = np.stack([tone(300, 0.2), tone(900, 0.2)], axis=1)
    soundfile.write(tmp_path / "two.aiff", both, 8000, "PCM_16")
    utterances = [
        Utterance(str(tmp_path / "two.aiff"), 0.0, "a", volume=0.5),
        Utterance("", 0.25, "b"),
    ]
    index = read_index(write_shards(utterances, tmp_path / "a-%d.tar", limit=Limit())[0])
    found = content(index)
    heard_as = read_audio(found["000000000.flac"].audio, 8000)
    np.testing.assert_allclose(heard_as, read_utterance(utterances[0], 8000), atol=2**-23)
    assert not read_audio(found["000000001.flac"].audio, 8000).any()


def test_the_same_seed_makes_the_same_shards(tones: Path, tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        pattern = tmp_path / str(number) / "a-%d.tar"
        digests.append(
            [
                s.sha256
                for s in write_shards(read_manifest(tones), pattern, limit=Limit(), seed=seed)[1]
            ]
        )
    assert digests[0] == digests[1] != digests[2]


def test_a_shard_is_full_at_its_size(tones: Path, tmp_path: Path) -> None:
    _, written = write_shards(read_manifest(tones), tmp_path / "a-%d.tar", limit=Limit(30_000))
    assert len(written) > 5 and all(shard.bytes < 30_000 + 20_480 for shard in written)
    _, large = write_shards(read_manifest(tones), tmp_path / "b-%d.tar", limit=Limit(1))
    assert [shard.utterances for shard in large] == [1] * 48


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_the_index_gives_the_vocabulary_of_the_texts(texts: list[str]) -> None:
    summary = Summary()
    for text in texts:
        summary.add(text, 1.0, "x")
    tree = json.loads(json.dumps(summary.to_dict()))
    shard = shards_module.Shard("a", 1, "", 1, 1.0)
    lists = (tuple(tree[name]) for name in ("characters", "words", "labels"))
    index = Index(Path("a"), (shard,), *lists, 1.0, "x")
    for kind in ("characters", "words", "classes"):
        head = {"head": "classify" if kind == "classes" else "ctc"}
        made = made_recipe(data={"tokens": kind}, model=head)
        try:
            expected = Vocabulary.from_texts(kind, texts)
        except DataError as error:
            with pytest.raises(DataError, match=str(error).partition(";")[0]):
                vocabulary_of_index(made, index)
        else:
            assert vocabulary_of_index(made, index) == expected


def test_too_many_words_are_not_listed(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechseq.training.sharding.MOST_WORDS", 3)
    clips = [clip(tmp_path / "clips", number) for number in range(5)]
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit())
    index = read_index(index_path(tmp_path, "train"))
    assert index.words is None and index.labels is not None
    with pytest.raises(DataError, match="lists no words, as there are too many; use"):
        vocabulary_of_index(made_recipe(), index)


@pytest.mark.parametrize(
    "name",
    ["train.tar", "train-%d-%d.tar", "train-%s.tar", "train-%06d", "train-%6d.tar", "%d.tar"],
)
def test_a_pattern_needs_one_number(name: str) -> None:
    with pytest.raises(UsageError, match=r"no pattern for shards; write e.g."):
        split_of(Path("a") / name)


@pytest.mark.parametrize(
    "name", ["train-%06d.tar", "train_%d.tar", "train%03d.tar", "train.%d.tar"]
)
def test_a_pattern_names_its_split(name: str) -> None:
    assert split_of(Path("a") / name) == "train"


def test_nothing_is_written_over(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "clips", 0)]
    pattern = tmp_path / "a-%d.tar"
    write_shards(clips, pattern, limit=Limit())
    before = (tmp_path / "a-0.tar").read_bytes()
    with pytest.raises(DataError, match=r"a.shards.json: is already there"):
        write_shards(clips, pattern, limit=Limit())
    index_path(tmp_path, "a").unlink()
    with pytest.raises(DataError, match=r"a-0.tar: is already there"):
        write_shards(clips, pattern, limit=Limit())
    assert (tmp_path / "a-0.tar").read_bytes() == before


def test_a_shard_that_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip(tmp_path / "clips", number) for number in range(5)]
    calls = 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(clips, tmp_path / "a-%d.tar", limit=Limit(utterances=2), show=failing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0.tar", "clips"]


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.writer", None)
    with pytest.raises(SpeechseqError, match="webdataset: not installed; pip install"):
        write_shards([clip(tmp_path, 0)], tmp_path / "a-%d.tar", limit=Limit())
    assert not list(tmp_path.glob("*.tar"))


# ---- listing ----


def test_a_listed_split_is_unpacked_once(folders: list[Path], monkeypatch) -> None:
    place = folders[0]
    found = list_split(place, "train")
    assert Counter(u.text for u in found) == Counter(f"w{n}" for n in range(CLIPS))
    assert all(cache_folder() in Path(u.audio_filepath).parents for u in found)
    assert len({u.key for u in found}) == CLIPS
    monkeypatch.setattr(shards_module, "_unpack", None)
    assert list_split(place, "train") == found


def test_a_large_split_is_not_listed(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "LARGEST_UNPACKED_BYTES", 10)
    with pytest.raises(DataError, match="too many to list, which unpacks them; stream it"):
        read(folders[0])


def test_a_changed_shard_is_not_listed(folders: list[Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SPEECHSEQ_CACHE", str(tmp_path / "cache"))
    for path in folders[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "train-001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"train-001.tar: is not the shard of its index"):
        list_split(tmp_path, "train")
    assert not list((tmp_path / "cache").glob("*")), "nothing half unpacked stays"


def test_the_streamed_split_is_not_listed(folders: list[Path]) -> None:
    settings = DataSettings(corpus="shards", root=str(folders[0]))
    with pytest.raises(DataError, match="split 'train': is streamed from shards, not listed"):
        load_split(settings, "train", 0)
    with pytest.raises(DataError, match=r"validation.shards.json: not an index of shards \(.*No s"):
        load_split(settings, "validation", 0)
    other = dataclasses.replace(settings, train_split="other", validation_split="train")
    assert len(load_split(other, "validation", 0)) == CLIPS


# ---- the command ----


def test_the_command_shards_a_manifest(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = tmp_path / "out" / "train-%03d.tar"
    words = ["data", "shard", str(tones), "--split", "train", "-o", str(pattern)]
    assert main([*words, "--shard-utterances", "20"]) == 0
    out = capsys.readouterr().out
    assert out == f"{tmp_path / 'out' / 'train.shards.json'}\t2 shards\t36 utterances\n"
    assert len(content(read_index(index_path(tmp_path / "out", "train")))) == 36
    assert main(words) == 1
    assert "is already there" in capsys.readouterr().err


def test_unreadable_audio_is_named_and_skipped(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_manifest(tones)
    Path(utterances[3].audio_filepath).write_bytes(b"RIFF")
    os.truncate(utterances[4].audio_filepath, 2000)
    Path(utterances[5].audio_filepath).unlink()
    words = ["data", "shard", str(tones), "--split", "train"]
    assert main([*words, "-o", str(tmp_path / "a-%d.tar")]) == 3
    said = capsys.readouterr()
    for number in (3, 4, 5):
        assert f"skipped: {utterances[number].audio_filepath}: " in said.err
    assert "3 of 36 utterances could not be read; the others are written" in said.err
    assert said.out.endswith("1 shards\t33 utterances\n")
    write_manifest(tones, utterances[3:6])
    assert main([*words, "-o", str(tmp_path / "b-%d.tar")]) == 1
    assert "none of 3 utterances could be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("b*"))


def test_names_and_texts_that_are_not_unicode(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_manifest(tones)
    odd = tmp_path / os.fsdecode(b"odd\xff.wav")
    Path(utterances[0].audio_filepath).rename(odd)
    utterances[0] = dataclasses.replace(utterances[0], audio_filepath=str(odd))
    utterances[1] = dataclasses.replace(utterances[1], text="a\udcff")
    write_manifest(tones, utterances)
    words = ["data", "shard", str(tones), "--split", "train", "-o", str(tmp_path / "a-%d.tar")]
    assert main(words) == 3
    said = capsys.readouterr()
    assert said.out.endswith("1 shards\t35 utterances\n")
    assert f"skipped: {utterances[1].audio_filepath}: text 'a\\udcff': is no Unicode" in said.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-o", "train.tar"], "no pattern for shards; write e.g. FOLDER/train-%06d.tar"),
        (["-o", "a-%d.tar", "--shard-megabytes", "0"], "--shard-megabytes 0: a number of 1"),
        (["-o", "a-%d.tar", "--shard-utterances", "-2"], "--shard-utterances -2: a number"),
        (["-o", "a-%d.tar", "--split", ""], "holds several splits (train, validation); choose"),
        (["-o", "a-%d.tar", "--seed", "-1"], "--seed -1: a number of 0 or more"),
        (["-o", "a-%d.tar", "--shard-utterances", "1", "--shard-megabytes", "1"], "not allowed"),
        ([], "required: -o"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], problem: str, tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "shard", str(tones), "--split", "train", *words]) == 2
    assert problem in capsys.readouterr().err


def test_an_index_is_not_written_over(tmp_path: Path) -> None:
    write_index(index_path(tmp_path, "a"), [], Summary())
    with pytest.raises(DataError, match="is already there"):
        write_index(index_path(tmp_path, "a"), [], Summary())
