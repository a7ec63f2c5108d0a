"""Shards: written whole, read with suspicion, and streamed: everything once, and again the same."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import TONES, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from test_distributed import run as run_process
from test_distributed import torchrun
from test_loop import rows, stop_after, weights

from speechseq.audio import read_audio, write_wav
from speechseq.cli import main
from speechseq.corpora import shards as shards_module
from speechseq.corpora.shards import (
    Index,
    Sample,
    index_path,
    list_split,
    read,
    read_index,
    read_shard,
)
from speechseq.errors import DataError, SpeechseqError, UsageError
from speechseq.files import cache_folder
from speechseq.manifest import Utterance, read_manifest, read_utterance, write_manifest
from speechseq.recipe import DataSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import load_split
from speechseq.tokens import Vocabulary
from speechseq.training import buffer as buffer_module
from speechseq.training import stream as stream_module
from speechseq.training.checkpoint import FOLDER, PATTERN
from speechseq.training.data import Batch, Share
from speechseq.training.loop import train
from speechseq.training.sharding import Limit, Summary, split_of, write_index, write_shards
from speechseq.training.stream import StreamData, streamed, vocabulary_of_index

CLIPS = 41


def clip(folder: Path, number: int, text: str = "") -> Utterance:
    """A short tone whose text is a number of its own, spelt with letters."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.wav"
    write_wav(path, tone(300.0 + 40 * number, 0.1 + 0.01 * (number % 9), seed=number), 8000)
    return Utterance(str(path), 0.0, text or f"w{number}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same clips as shards of 4, of 11, and all but one utterance in one shard of two."""
    place = tmp_path_factory.mktemp("shards")
    clips = [clip(place / "clips", number) for number in range(CLIPS)]
    for size in (4, 11, CLIPS - 1):
        write_shards(clips, place / str(size) / "train-%03d.tar", limit=Limit(utterances=size))
    return [place / str(size) for size in (4, 11, CLIPS - 1)]


def made_recipe(buffer: int = 10, **sections: Any) -> Recipe:
    tree = {
        "data": {"corpus": "shards", "tokens": "words", "buffer_utterances": buffer},
        "features": {"rate": 8000, "mels": 4, "low_hz": 60},
        "training": {"batch": 4},
    }
    return recipe_from_dict({**tree, **sections}, "test")


def stream(folder: Path, recipe: Recipe, ranks: int = 1, **more: Any) -> StreamData:
    index = read_index(index_path(folder, "train"))
    return StreamData(index, vocabulary_of_index(recipe, index), [], recipe, ranks, **more)


def heard(pieces: Sequence[Batch]) -> Counter[str]:
    return Counter(u.text for piece in pieces if piece.weight for u in piece.utterances)


@settings(deadline=None, max_examples=60)
@given(
    which=st.integers(0, 1),
    buffer=st.integers(1, 50),
    batch=st.integers(3, 9),
    ranks=st.integers(1, 3),
    pieces=st.integers(1, 3),
    joined=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_an_epoch_holds_every_utterance_once(
    folders: list[Path],
    which: int,
    buffer: int,
    batch: int,
    ranks: int,
    pieces: int,
    joined: int,
    epoch: int,
) -> None:
    made = made_recipe(buffer, training={"batch": batch}, augment={"join": joined})
    data = stream(folders[which], made, ranks)
    shares = [list(data.batches(epoch, 0, Share(r, ranks, pieces))) for r in range(ranks)]
    assert {len(share) for share in shares} == {data.steps_of(epoch)}, "known beforehand"
    assert {len(step) for share in shares for step in share} == {pieces}
    found = heard([piece for share in shares for step in share for piece in step])
    assert found == Counter(f"w{number}" for number in range(CLIPS))
    for steps in zip(*shares, strict=True):
        places = [row for step in steps for piece in step if piece.weight for row in piece.rows]
        assert len(set(places)) == len(places) <= batch
        assert not places or max(places) < batch
    assert data.steps(3) == sum(map(data.steps_of, range(3)))


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.log_mels.equal(b.log_mels) and a.labels.equal(b.labels)
        and (a.rows, a.utterances, a.weight) == (b.rows, b.utterances, b.weight)
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


CHANCE = {"join": 2, "gain_db": 6, "speeds": [0.9, 1.0, 1.1], "shift_seconds": 0.02}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_resuming_at_any_step_goes_on_as_before(folders: list[Path], which: int, rank: int) -> None:
    data = stream(folders[which], made_recipe(7, augment=CHANCE), 2)
    whole = list(data.batches(1, 0, Share(rank, 2, 2)))
    for first in range(len(whole) + 1):
        rest = list(stream(folders[which], data.recipe, 2).batches(1, first, Share(rank, 2, 2)))
        assert len(rest) == len(whole) - first
        assert all(same(one, other) for one, other in zip(rest, whole[first:], strict=True))


def test_orders_follow_from_seed_and_epoch(folders: list[Path]) -> None:
    def order(recipe: Recipe, epoch: int) -> list[str]:
        steps = stream(folders[0], recipe).batches(epoch, 0, Share())
        return [u.text for (batch,) in steps for u in batch.utterances]

    made = made_recipe()
    assert order(made, 0) == order(made, 0)
    assert order(made, 0) != order(made, 1)
    assert order(made, 0) != order(dataclasses.replace(made, seed=1), 0)


def test_resuming_reads_no_audio_that_was_heard(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_samples: list[str] = []

    def counted(audio: bytes, rate: int) -> np.ndarray:
        read_samples.append("")
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", counted)
    data = stream(folders[0], made_recipe(4))
    steps = data.steps_of(0)
    assert len(list(data.batches(0, steps - 1, Share()))) == 1
    assert len(read_samples) == CLIPS % 4


def test_only_the_buffer_and_the_next_are_held(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = [0]

    def counted(audio: bytes, rate: int) -> np.ndarray:
        taken[0] += 1
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", counted)
    data = stream(folders[1], made_recipe(5))
    given_out = 0
    for (batch,) in data.batches(0, 0, Share()):
        given_out += len(batch.utterances)
        assert taken[0] <= given_out + 2 * 5
    assert given_out == CLIPS


def test_batches_hold_clips_of_like_length_in_random_order(folders: list[Path]) -> None:
    (batches,) = [b.batches for b in stream(folders[0], made_recipe(100)).buffers(0, 0, 0)]
    data = next(stream(folders[0], made_recipe(100)).buffers(0, 0, 0)).data
    sizes = [[int(data.log_mels.lengths[p]) for e in batch for p in e] for batch in batches]
    assert np.mean([max(size) - min(size) for size in sizes]) < 3
    means = [np.mean(size) for size in sizes]
    assert means != sorted(means)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 32))
def test_joined_sizes_hold_all(utterances: int, join: int) -> None:
    sizes = buffer_module.joined_sizes(utterances, join)
    assert sum(sizes) == utterances and all(1 <= size <= join for size in sizes)
    if utterances > 20 * join * join:
        assert Counter(sizes)[1] - Counter(sizes)[join] in (0, 1, 2)


def test_joined_labels_have_their_space(folders: list[Path]) -> None:
    tree = made_recipe().to_dict()["data"] | {"tokens": "characters"}
    made = made_recipe(augment={"join": 3}, data=tree)
    data = stream(folders[0], made)
    assert " " in data.vocabulary.tokens
    for (batch,) in data.batches(0, 0, Share()):
        text = data.vocabulary.decode(batch.labels.tolist())
        for utterance in batch.utterances:
            assert utterance.text in text


def test_the_largest_batch_is_as_large_as_any(folders: list[Path]) -> None:
    for join in (1, 4):
        data = stream(folders[0], made_recipe(100, augment={"join": join, "speeds": [0.8, 1]}))
        largest = data.largest()
        steps = [batch for (batch,) in data.batches(0, 0, Share())]
        assert largest.log_mels.shape[0] == 4
        sizes = [b.log_mels.shape[0] * b.log_mels.shape[1] for b in steps]
        assert largest.log_mels.shape[0] * largest.log_mels.shape[1] >= np.median(sizes)
        assert largest.utterances[0].key.startswith("train-")
        assert join > 1 or largest.log_mels.shape[1] >= max(b.log_mels.shape[1] for b in steps)


# ---- what cannot be used ----


def test_what_cannot_be_learnt_is_named_once_and_counted(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "clips", number) for number in range(60)]
    clips[3] = dataclasses.replace(clips[3], text="w1 " * 90)
    for number in range(10, 40):
        clips[number] = dataclasses.replace(clips[number], text="")
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit(utterances=9))
    notes: list[str] = []
    data = stream(tmp_path, made_recipe(), note=notes.append)
    for epoch in range(2):
        pieces = [piece for step in data.batches(epoch, 0, Share()) for piece in step]
        assert len(pieces) == data.steps_of(epoch)
        assert heard(pieces) == Counter(f"w{n}" for n in (0, 1, 2, *range(4, 10), *range(40, 60)))
    named = [note for note in notes if note.startswith("dropped")]
    assert len(named) == 20 == len({note.partition(": ")[0] for note in named})
    assert all("which needs" in note and ".wav: " in note for note in named)
    said = [f"epoch {n}: 31 of 60 utterances dropped" for n in (1, 2)]
    assert [note for note in notes if note.startswith("epoch")] == said


def test_what_other_processes_drop_is_said_by_the_first(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "clips", number) for number in range(8)]
    clips[1:] = [dataclasses.replace(clip, text="") for clip in clips[1:]]
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit(utterances=1))
    parts: list[Any] = []

    def gather(values: Sequence[Any]) -> list[Any]:
        parts.extend(values)
        return list(parts)

    notes: list[str] = []
    for rank, note in ((1, lambda text: None), (0, notes.append)):
        data = stream(tmp_path, made_recipe(), 2, gather=gather, note=note)
        list(data.batches(0, 0, Share(rank, 2)))
    assert all(part.count >= 3 for part in parts)
    assert len([note for note in notes if note.startswith("dropped")]) == 7
    assert notes[-1] == "epoch 1: 7 of 8 utterances dropped"


def test_a_text_of_other_tokens_is_dropped(folders: list[Path]) -> None:
    index = read_index(index_path(folders[0], "train"))
    words = Vocabulary.from_texts("words", [f"w{n}" for n in range(CLIPS - 1)])
    notes: list[str] = []
    data = StreamData(index, words, [], made_recipe(), note=notes.append)
    assert sum(heard([p for step in data.batches(0, 0, Share()) for p in step]).values()) == 40
    assert any("cannot be spelt" in note for note in notes)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    clips = [dataclasses.replace(clip(tmp_path / "c", n), text="x " * 90) for n in range(3)]
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit())
    with pytest.raises(DataError, match=r"no utterance of the first 3 can be used: .*which needs"):
        stream(tmp_path, made_recipe()).opening()


# ---- hostile and damaged shards ----


def member(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def line(**more: Any) -> bytes:
    return json.dumps({"audio_filepath": "a", "duration": 1, "text": "a", **more}).encode()


def flac() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(500, 0.2), 8000, format="FLAC")
    return file.getvalue()


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
HOSTILE = {
    "a link": ([member("a.flac", **LINK), member("a.json", line())], "a link"),
    "a hard link": (
        [member("a.flac", type=tarfile.LNKTYPE, linkname="b"), member("a.json", line())],
        "a link",
    ),
    "a device": ([member("a.flac", type=tarfile.CHRTYPE), member("a.json", line())], "device"),
    "a pickle": ([member("a.pyd", b"x"), member("a.json", line())], r"not one of \.flac"),
    "two sounds": (
        [member("a.flac", b"x"), member("a.wav", b"x"), member("a.json", line())],
        "not one of",
    ),
    "twice": (
        [member("a.flac", b"x"), member("a.json", line()), member("a.json", line())],
        "not one of",
    ),
    "no json": ([member("a.flac", b"x")], "one .json"),
    "bad json": ([member("a.flac", b"x"), member("a.json", b"{")], "not JSON"),
    "deep json": ([member("a.flac", b"x"), member("a.json", b"[" * 100_000)], "not JSON"),
    "no text": ([member("a.flac", b"x"), member("a.json", b"{}")], "no 'audio_filepath'"),
    "a list": ([member("a.flac", b"x"), member("a.json", b"[]")], "not a JSON object"),
    "bytes": ([member("a.flac", b"x"), member("a.json", b"\xff")], "UTF-8"),
    "huge json": (
        [member("a.flac", b"x"), member("a.json", b" " * (2 << 20))],
        "bytes are too many",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sample_is_a_line_and_the_next_is_read(name: str, tmp_path: Path) -> None:
    members, problem = HOSTILE[name]
    good = [member("z.flac", flac()), member("z.json", line(text="good"))]
    first, second = read_shard(tar(tmp_path / "s.tar", *members, *good), 2)
    assert isinstance(first, str) and isinstance(second, Sample)
    assert first.startswith("s.tar/a: ") and "\n" not in first
    assert re.search(problem, first)
    assert second.utterance.text == "good"


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1025, 2**70])
def test_a_member_longer_than_its_file_is_damage(size: int, tmp_path: Path) -> None:
    header, _ = member("a.flac")
    header.size = size
    path = tmp_path / "s.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    found = list(read_shard(path, 2))
    assert len(found) == 2 and all("is damaged (a member of" in str(line) for line in found)


def test_names_in_a_shard_lead_nowhere(tmp_path: Path) -> None:
    evil = line(audio_filepath="/etc/passwd", offset=3, volume=9)
    path = tar(tmp_path / "s.tar", member("../../x.flac", flac()), member("../../x.json", evil))
    (sample,) = read_shard(path, 1)
    assert isinstance(sample, Sample)
    assert sample.utterance.audio_filepath == str(tmp_path / "s.tar" / "x.flac")
    assert (sample.utterance.offset, sample.utterance.volume) == (0, 1)


def test_a_sound_over_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "LARGEST_AUDIO_BYTES", 10)
    path = tar(tmp_path / "s.tar", member("a.flac", b"x" * 63), member("a.json", line()))
    (problem,) = read_shard(path, 1)
    assert problem == "s.tar/a: 63 bytes are too many; cut it into parts"


def test_a_member_of_many_files_does_not_pile_up(tmp_path: Path) -> None:
    members = [member(f"a.{number}", b"") for number in range(100)]
    found = list(read_shard(tar(tmp_path / "s.tar", *members), 7))
    assert len(found) == 7 and all("not one of" in str(item) for item in found)


def test_long_headers_are_stepped_over(tmp_path: Path) -> None:
    sound = member("a.flac", flac(), pax_headers={"comment": "x" * 100_000})
    (sample,) = read_shard(tar(tmp_path / "s.tar", sound, member("a.json", line())), 1)
    assert isinstance(sample, Sample)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_shard_gives_as_many_items(folders: list[Path], data: st.DataObject) -> None:
    """Cut, or with bytes turned: never an exception, never one too few."""
    index = read_index(index_path(folders[0], "train"))
    whole = bytearray(index.locate(index.shards[0]).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    path = folders[0].parent / "damaged.tar"
    path.write_bytes(whole[:cut])
    first = data.draw(st.integers(0, 4))
    assert len(list(read_shard(path, 4, first))) == 4 - first


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=2000))
def test_any_bytes_are_no_shard(folders: list[Path], data: bytes) -> None:
    path = folders[0].parent / "bytes.tar"
    path.write_bytes(data)
    found = list(read_shard(path, 3))
    assert len(found) == 3 and all(isinstance(item, str) for item in found)


def test_damage_while_streaming_keeps_the_steps(folders: list[Path], tmp_path: Path) -> None:
    for path in folders[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = read_index(index_path(tmp_path, "train"))
    broken = index.locate(index.shards[2])
    broken.write_bytes(bytes(broken.stat().st_size))
    notes: list[str] = []
    data = stream(tmp_path, made_recipe(), note=notes.append)
    pieces = [piece for step in data.batches(0, 0, Share()) for piece in step]
    assert len(pieces) == data.steps_of(0)
    assert sum(heard(pieces).values()) == CLIPS - 4
    assert any("train-002.tar: holds fewer utterances" in note for note in notes)
    broken.unlink()
    with pytest.raises(DataError, match=r"train-002.tar: is not there; copy"):
        list(data.batches(0, 0, Share()))


def test_a_clip_longer_than_the_index_says_is_dropped(folders: list[Path]) -> None:
    data = stream(folders[0], made_recipe())
    data.index = dataclasses.replace(data.index, longest_seconds=0.05)
    notes: list[str] = []
    data.note = notes.append
    list(data.batches(0, 0, Share()))
    assert any("longer than the index' longest" in note for note in notes)


GOOD_INDEX = {
    "format": "speechseq shards 1", "characters": ["a"], "words": ["a"], "labels": None,
    "longest_seconds": 1.0, "longest": "x",
    "shards": [{"file": "a.tar", "bytes": 3000, "sha256": "", "utterances": 1, "seconds": 1}],
}  # fmt: skip


def shard_row(**more: Any) -> list[dict[str, Any]]:
    return [{**GOOD_INDEX["shards"][0], **more}]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "x"}, "format 'x'"),
        ({"shards": shard_row(file="/etc/passwd")}, "no name of a file"),
        ({"shards": shard_row(file="../x.tar")}, "no name of a file"),
        ({"shards": shard_row(file="pipe:rm -r x/y")}, "no name of a file"),
        ({"shards": shard_row(file="a\0")}, "no name of a file"),
        ({"shards": shard_row(utterances=-1)}, "-1 is no number"),
        ({"shards": shard_row(bytes=True)}, "True is no number"),
        ({"shards": shard_row(utterances=10**17)}, "cannot hold 1000"),
        ({"shards": shard_row(seconds=float("nan"))}, "nan is no number"),
        ({"shards": []}, "no utterance"),
        ({"shards": 3}, "not iterable"),
        ({"words": [1]}, "list of texts"),
        ({"characters": None}, "list of texts"),
    ],
)
def test_a_wrong_index_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = index_path(tmp_path, "train")
    path.write_text(json.dumps(GOOD_INDEX))
    assert read_index(path).utterances == 1
    path.write_text(json.dumps({**GOOD_INDEX, **change}))
    with pytest.raises(DataError, match=f"train.shards.json: not an index.*{problem}.*make one"):
        read_index(path)


def test_a_command_as_a_name_is_only_a_name(tmp_path: Path) -> None:
    path = index_path(tmp_path, "train")
    path.write_text(json.dumps({**GOOD_INDEX, "shards": shard_row(file="pipe:touch done")}))
    index = read_index(path)
    with pytest.raises(DataError, match="pipe:touch done: is not there"):
        index.locate(index.shards[0])
    assert not (tmp_path / "done").exists()


# ---- writing ----


def content(index: Index) -> dict[str, Sample]:
    found = {}
    for shard in index.shards:
        for sample in read_shard(index.locate(shard), shard.utterances):
            assert isinstance(sample, Sample), sample
            found[Path(sample.utterance.audio_filepath).name] = sample
    return found


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


# ---- training ----


@pytest.fixture
def sharded(tones: Path, tmp_path: Path) -> Path:
    """The tones as shards of 8, one of them on another disk."""
    place = tmp_path / "sharded"
    for split in ("train", "validation"):
        own = [u for u in read_manifest(tones) if u.split == split]
        write_shards(own, place / f"{split}-%03d.tar", limit=Limit(utterances=8))
    (tmp_path / "disk").mkdir()
    (place / "train-001.tar").rename(tmp_path / "disk" / "x.tar")
    (place / "train-001.tar").symlink_to(tmp_path / "disk" / "x.tar")
    return place


def overrides(place: Path, *more: str) -> list[str]:
    return ["data.corpus=shards", f"data.root={place}", "data.buffer_utterances=12", *more]


@pytest.mark.parametrize("tokens", ["words", "characters", "classes"])
def test_training_on_shards_learns_and_ships(
    tokens: str, write_recipe, sharded: Path, tones: Path, tmp_path: Path
) -> None:
    more = ["training.epochs=30", "training.batch=4", "seed=3"]
    recipe = read_recipe(write_recipe(tokens), overrides(sharded, *more))
    notes: list[str] = []
    model = train(recipe, tmp_path / "run", device="cpu", note=notes.append)
    validation = [u for u in read_manifest(tones) if u.split == "validation"]
    recogniser = load(model)
    right = sum(recogniser.transcribe(u.audio_filepath).text == u.text for u in validation)
    assert right >= 11, f"{right} of {len(validation)}"
    assert any(
        note.startswith("train: 36 utterances, 0.00 h, streamed from 5 shards by 1 process, 12 at")
        for note in notes
    )
    assert any(note.startswith("validation: 12 utterances") for note in notes)
    steps = [note for note in notes if "steps:" in note]
    assert steps and rows(tmp_path / "run")[-1]["step"] == int(steps[0].split()[-1])
    assert main(["evaluate", str(tmp_path / "run"), "--split", "validation"]) == 0


ALL_CHANCE = [
    "model.dropout=0.3", "augment.noise_probability=0.5", "augment.speeds=[0.9, 1.0]",
    "augment.time_masks=1", "augment.gain_db=6", "augment.join=2", "training.epochs=3",
    "training.batch=5", "training.accumulate=2",
]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_an_interrupted_run_on_shards_resumes_to_the_bit(
    steps: int, write_recipe, sharded: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(), overrides(sharded, *ALL_CHANCE))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, parts, device="cpu", show=stop_after(steps))
    train(Recipe(), parts, device="cpu", resume=True)
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert max((one[name] - other[name]).abs().max().item() for name in one) == 0
    assert [row["step"] for row in rows(whole)] == [row["step"] for row in rows(parts)]


def test_what_cannot_work_is_said_before_training(write_recipe, sharded: Path) -> None:
    from speechseq.training.distributed import World

    def ready(ranks: int, *more: str) -> None:
        recipe = read_recipe(write_recipe(), overrides(sharded, *more))
        streamed(recipe, None, World(size=ranks), note=print, show=lambda *_: None)

    with pytest.raises(DataError, match=r"5 shards for 6 processes; shard it again with a smaller"):
        ready(6)
    with pytest.raises(DataError, match=r"training.batch: 2 for 3 processes; raise it"):
        ready(3, "training.batch=2")
    with pytest.raises(DataError, match="shares shards with train"):
        ready(1, "data.validation_split=train")
    index = index_path(sharded, "validation")
    good = index.read_bytes()
    index.write_bytes(index_path(sharded, "train").read_bytes())
    with pytest.raises(DataError, match=r"shares shards with validation.shards.json"):
        ready(1)
    index.write_bytes(good)
    (sharded / "train-002.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"train-002.tar: has 3 bytes, not \d+; copy the shard"):
        ready(1)


@pytest.mark.slow
def test_two_processes_share_the_shards(write_recipe, sharded: Path, tmp_path: Path) -> None:
    """They agree on every step, though one of them has three shards and the other two."""
    more = ["training.epochs=12", "training.batch=6", "training.accumulate=2"]
    done = run_process(
        torchrun(2, write_recipe(), *overrides(sharded, *more), "-o", tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    assert "streamed from 5 shards by 2 processes" in done.stderr
    history = rows(tmp_path / "run")
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert all(row["skipped_steps"] == 0 for row in history)
    newest = load_tensors(max((tmp_path / "run" / FOLDER).glob(PATTERN)).read_bytes())
    assert all(tensor.isfinite().all() for tensor in newest.values())
    assert (tmp_path / "run" / "model.onnx").is_file()


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


def test_who_stops_does_not_wait_for_the_next_buffer(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    def slow(audio: bytes, rate: int) -> np.ndarray:
        taken.append(time.monotonic())
        if len(taken) > 5:
            time.sleep(0.1)
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", slow)
    monkeypatch.setattr(buffer_module, "CHUNK", 4)
    steps = stream(folders[0], made_recipe(5)).batches(0, 0, Share())
    next(steps)
    steps.close()
    assert len(taken) <= 5 + 2, "the fifth and, of the next buffer, what was under way"


def test_ahead_passes_errors_on() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("a: b; c")

    over = Event()
    found = stream_module._ahead(items(), over)
    assert next(found) == 1
    with pytest.raises(DataError, match="a: b; c"):
        next(found)
    assert over.is_set()


def test_an_index_is_not_written_over(tmp_path: Path) -> None:
    write_index(index_path(tmp_path, "a"), [], Summary())
    with pytest.raises(DataError, match="is already there"):
        write_index(index_path(tmp_path, "a"), [], Summary())


def test_features_do_not_hang_on_their_neighbours(folders: list[Path]) -> None:
    """Log-mels of clips padded together are those of each clip alone."""
    data = stream(folders[0], made_recipe(100))
    together = next(data.buffers(0, 0, 0)).data
    log_mel = buffer_module.LogMel(data.recipe.features)
    for number, utterance in enumerate(together.utterances):
        sample = content(data.index)[Path(utterance.audio_filepath).name]
        samples = torch.from_numpy(read_audio(sample.audio, 8000)).unsqueeze(0)
        alone, _ = log_mel(samples, torch.tensor([samples.shape[1]]))
        torch.testing.assert_close(
            torch.from_numpy(together.log_mels.clip(number)), alone[0], rtol=1e-4, atol=1e-4
        )
