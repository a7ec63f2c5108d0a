"""Damaged and hostile shards: what is wrong is named, and nothing else is touched."""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import CLIPS, flac, heard, made_recipe, stream, tar

from speechseq.corpora import shards as shards_module
from speechseq.corpora.shards import Sample, index_path, read_index, read_shard
from speechseq.errors import DataError
from speechseq.training.data import Share


def member(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def line(**more: Any) -> bytes:
    return json.dumps({"audio_filepath": "a", "duration": 1, "text": "a", **more}).encode()


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
