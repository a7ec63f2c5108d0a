"""Shards: tar archives in the WebDataset layout, for speech larger than memory or than one disk.

An index ``NAME.shards.json`` stands for the split NAME and names its shards, which lie beside it
(links to other disks will do). A sample of a shard is ``KEY.flac`` (or wav, ogg, opus) and
``KEY.json``, a manifest's line. Everything in a shard is hostile until checked: only regular
members are read, up to a size, by their place in the file, and their names never become paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from speechseq.corpora.clips import measured
from speechseq.errors import DataError
from speechseq.files import beside, cache_folder, sha256, writing
from speechseq.manifest import Corpus, Utterance, parse_line, read_manifest, write_manifest
from speechseq.sound_files import name_of

FORMAT = "speechseq shards 1"
INDEX_SUFFIX = ".shards.json"
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus")
"""What a sample's audio may be stored as."""

LARGEST_AUDIO_BYTES = 1 << 28
LARGEST_JSON_BYTES = 1 << 20
LARGEST_UNPACKED_BYTES = 20_000_000_000
"""A split that is listed is unpacked; a larger one can only be streamed."""

MOST_MEMBERS = 16
"""Files of one sample; ours have two."""

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ABOUT_OTHERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
"""Members that describe others; what they say is not needed, so it is stepped over."""


@dataclass(frozen=True)
class Shard:
    """One archive, by its name beside the index, and what is in it."""

    file: str
    bytes: int
    sha256: str
    utterances: int
    seconds: float


@dataclass(frozen=True)
class Index:
    """A split as shards, with all that training must know beforehand.

    `characters`, `words` and `labels` are those of the texts as `Vocabulary` normalises them;
    words and labels are None where there were too many to list. `longest_seconds` is the longest
    utterance, `longest` its name.
    """

    path: Path
    shards: tuple[Shard, ...]
    characters: tuple[str, ...]
    words: tuple[str, ...] | None
    labels: tuple[str, ...] | None
    longest_seconds: float
    longest: str

    @property
    def split(self) -> str:
        """The split's name."""
        return self.path.name.removesuffix(INDEX_SUFFIX)

    @property
    def utterances(self) -> int:
        """How many utterances all shards hold."""
        return sum(shard.utterances for shard in self.shards)

    @property
    def seconds(self) -> float:
        """How long they are together."""
        return sum(shard.seconds for shard in self.shards)

    def locate(self, shard: Shard) -> Path:
        """Return the absolute path of a shard.

        Raises:
            DataError: it is not there, or not as long as the index says.
        """
        path = Path(os.path.abspath(self.path.parent)) / shard.file
        size = path.stat().st_size if path.is_file() else -1
        if size != shard.bytes:
            found = f"has {size} bytes, not {shard.bytes}" if size >= 0 else "is not there"
            raise DataError(f"{path}: {found}; copy the shard again")
        return path


def index_path(place: Path, split: str) -> Path:
    """Return where the index of a split is."""
    return place / f"{split}{INDEX_SUFFIX}"


def read_index(path: Path) -> Index:
    """Read an index.

    Raises:
        DataError: it is not there or not one.
    """
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']!r}")
        index = Index(
            path,
            tuple(_shard(row) for row in tree["shards"]),
            _strings(tree["characters"]),
            _strings(tree["words"]) if tree["words"] is not None else None,
            _strings(tree["labels"]) if tree["labels"] is not None else None,
            _number(tree["longest_seconds"]),
            _strings([tree["longest"]])[0],
        )
        if not index.utterances:
            raise ValueError("no utterance")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: not an index of shards ({error}); make one with 'speechseq data shard'"
        ) from None
    return index


def _shard(row: dict[str, Any]) -> Shard:
    file, digest = _strings([row["file"], row["sha256"]])
    if file in ("", ".", "..") or Path(file).name != file or "\0" in file:
        raise ValueError(f"{file!r} is no name of a file beside it")
    bytes_, utterances = int(_number(row["bytes"])), int(_number(row["utterances"]))
    if utterances * 2 * tarfile.BLOCKSIZE > bytes_:  # each has two files, each of them a header
        raise ValueError(f"{file!r} cannot hold {utterances} utterances")
    return Shard(file, bytes_, digest, utterances, _number(row["seconds"]))


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("texts are not a list of texts")
    return tuple(values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise ValueError(f"{value!r} is no number of 0 or more")
    return value


@dataclass(frozen=True)
class Sample:
    """An utterance of a shard and its audio file's bytes.

    The utterance's path, ``SHARD/KEY.flac``, is only its name.
    """

    utterance: Utterance
    audio: bytes


def read_shard(path: Path, count: int, first: int = 0) -> Iterator[Sample | str]:
    """Yield a shard's samples from number `first` on, `count - first` items whatever it holds.

    What cannot be used is a line that says why. Samples before `first` are stepped over unread.

    Raises:
        DataError: the file cannot be read at all.
    """
    seen, problem = 0, "holds fewer utterances than its index says"
    try:
        with open(path, "rb") as file:
            for members in islice(_samples(file), count):
                seen += 1
                if seen > first:
                    yield _sample(path, file, members)
    except tarfile.TarError as error:
        problem = f"is damaged ({error}); copy it again"
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the disk") from None
    for _ in range(max(seen, first), count):
        yield f"{path}: {problem}"


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the archive's members by their headers alone.

    tarfile itself would read extended headers whole, however long they are, and keep all it saw.
    """
    at, end = 0, os.fstat(file.fileno()).st_size
    while True:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            return
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if not 0 <= member.size <= end:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        member.offset_data = at + tarfile.BLOCKSIZE
        at = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.type not in _ABOUT_OTHERS:
            yield member


def _samples(file: BinaryIO) -> Iterator[list[tarfile.TarInfo]]:
    """Yield the members of each sample: neighbours whose names agree up to the first dot."""
    key, members = "", list[tarfile.TarInfo]()
    for member in _members(file):
        if members and (_key(member) != key or len(members) == MOST_MEMBERS):
            yield members
            members = []
        key = _key(member)
        members.append(member)
    if members:
        yield members


def _key(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _sample(path: Path, file: BinaryIO, members: Sequence[tarfile.TarInfo]) -> Sample | str:
    """Read one sample, or say what is wrong with it."""
    name = f"{path.name}/{_key(members[0]).rpartition('/')[2]}"
    where = name_of(name)
    if not all(member.type in _REGULAR for member in members):
        return f"{where}: a link, a folder or a device; only files are read"
    by_suffix = {f".{m.name.rpartition('/')[2].partition('.')[2].lower()}": m for m in members}
    sounds = [suffix for suffix in by_suffix if suffix in AUDIO_SUFFIXES]
    if len(by_suffix) < len(members) or len(sounds) != 1 or ".json" not in by_suffix:
        return f"{where}: not one of {' '.join(AUDIO_SUFFIXES)} and one .json; shard it again"
    sound, text = by_suffix[sounds[0]], by_suffix[".json"]
    if sound.size > LARGEST_AUDIO_BYTES or text.size > LARGEST_JSON_BYTES:
        return f"{where}: {max(sound.size, text.size)} bytes are too many; cut it into parts"
    try:
        line, audio = _content(file, text).decode(), _content(file, sound)
        utterance = parse_line(line, where, Path())
    except UnicodeDecodeError:
        return f"{where}: its .json is not UTF-8; shard it again"
    except DataError as error:
        return str(error)
    named = str(path.parent / f"{name}{sounds[0]}")
    return Sample(replace(utterance, audio_filepath=named, offset=0.0, volume=1.0), audio)


def _content(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError("it ends early")
    return data


def list_split(place: Path, split: str) -> list[Utterance]:
    """List a split's utterances; their audio is unpacked once, into the cache folder.

    Raises:
        DataError: the split is not there, damaged, or too large to unpack.
        AudioError: what was unpacked before is gone or damaged.
    """
    index = read_index(index_path(place, split))
    size = sum(shard.bytes for shard in index.shards)
    if size > LARGEST_UNPACKED_BYTES:
        raise DataError(
            f"{index.path}: {size >> 30} GiB are too many to list, which unpacks them; stream it "
            f"as data.train_split, or make a smaller split"
        )
    digest = hashlib.sha256(json.dumps([FORMAT, *(s.sha256 for s in index.shards)]).encode())
    folder = cache_folder() / f"shards-{digest.hexdigest()[:32]}"
    if not (folder / _LISTED).is_file():
        _unpack(index, folder)
    found = read_manifest(folder / _LISTED)
    # Measured anew: what lies in a cache may have been damaged since.
    return measured(replace(u, duration=0.0, split=split) for u in found)


_LISTED = "utterances.jsonl"


def _unpack(index: Index, folder: Path) -> None:
    """Write every sample's audio into the new folder, under names of our own, and list them."""
    staging, found = beside(folder), []
    try:
        for number, shard in enumerate(index.shards):
            path = index.locate(shard)
            if sha256(path) != shard.sha256:
                raise DataError(f"{path}: is not the shard of its index; copy it again")
            with writing(folder):
                (staging / f"{number:06}").mkdir(parents=True)
            for row, sample in enumerate(read_shard(path, shard.utterances)):
                if isinstance(sample, str):
                    raise DataError(sample)
                suffix = Path(sample.utterance.audio_filepath).suffix
                name = f"{number:06}/{row:09}{suffix}"
                with writing(folder):
                    (staging / name).write_bytes(sample.audio)
                found.append(replace(sample.utterance, audio_filepath=name))
        write_manifest(staging / _LISTED, found)
        with writing(folder):
            # Another process may have been faster.
            if not (folder / _LISTED).is_file():
                staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read(place: Path) -> list[Utterance]:
    """List the utterances of every split here; their audio is unpacked into the cache folder.

    Training never calls this: it streams.

    Raises:
        DataError: there is no index of shards, or a split is damaged or too large to unpack.
    """
    indices = sorted(place.glob(f"*{INDEX_SUFFIX}"))
    if not indices:
        raise DataError(f"{place}: no *{INDEX_SUFFIX} here; make one with 'speechseq data shard'")
    splits = [path.name.removesuffix(INDEX_SUFFIX) for path in indices]
    return [utterance for split in splits for utterance in list_split(place, split)]


CORPUS = Corpus(
    name="shards",
    title="your own tar shards (WebDataset), streamed",
    splits=(),
    read=read,
)
