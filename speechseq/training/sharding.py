"""Utterances to shards: tar archives in the WebDataset layout, and their index."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechseq.audio import read_audio, read_header
from speechseq.corpora.shards import (
    AUDIO_SUFFIXES,
    FORMAT,
    LARGEST_AUDIO_BYTES,
    Shard,
    index_path,
)
from speechseq.errors import AudioError, DataError, SpeechseqError, UsageError, installing
from speechseq.files import atomic_write, refuse_existing, sha256
from speechseq.manifest import Utterance, read_utterance
from speechseq.sound_files import name_of
from speechseq.tokens import KINDS
from speechseq.training.notes import Note, Show

MEGABYTES = 256
"""Size of a shard where nothing else is asked for: some hours of speech as flac."""

MOST_WORDS = 100_000
MOST_LABELS = 10_000
"""How many different ones an index lists; beyond, it lists none."""

WHOLE_SECONDS = 0.01
"""An utterance that is a file up to this much is stored as the file it is."""

SILENCE_RATE = 16000


@dataclass(frozen=True)
class Limit:
    """When a shard is full: at so many bytes, or, where it is not 0, so many utterances."""

    bytes: int = MEGABYTES * 1_000_000
    utterances: int = 0

    def reached(self, utterances: int, size: int) -> bool:
        """Tell whether one more sample, after which it has `size` bytes, would be too much."""
        if self.utterances:
            return utterances >= self.utterances
        return utterances > 0 and size > self.bytes


@dataclass
class Summary:
    """What an index says of all shards together; it grows with every utterance."""

    seconds: float = 0.0
    word_count: int = 0
    characters: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    longest_seconds: float = 0.0
    longest: str = ""

    def add(self, text: str, seconds: float, name: str) -> None:
        """Take one utterance in."""
        words = KINDS["words"](text).split()
        self.seconds += seconds
        self.word_count += len(words)
        self.characters.update(KINDS["characters"](text))
        if len(self.words) <= MOST_WORDS:
            self.words.update(words)
        if len(self.labels) <= MOST_LABELS:
            self.labels.add(KINDS["classes"](text))
        if seconds > self.longest_seconds:
            self.longest_seconds, self.longest = seconds, name

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "hours": round(self.seconds / 3600, 3),
            "word_count": self.word_count,
            "characters": sorted(self.characters),
            "words": sorted(self.words) if len(self.words) <= MOST_WORDS else None,
            "labels": sorted(self.labels) if len(self.labels) <= MOST_LABELS else None,
            "longest_seconds": self.longest_seconds,
            "longest": self.longest,
        }


@dataclass(frozen=True)
class Encoded:
    """One utterance as a shard holds it."""

    key: str
    suffix: str
    audio: bytes
    seconds: float
    utterance: Utterance

    @property
    def line(self) -> bytes:
        """Its .json: a manifest's line."""
        row = {
            "audio_filepath": self.key + self.suffix,
            "duration": self.seconds,
            "text": self.utterance.text,
            "speaker": self.utterance.speaker,
            "split": self.utterance.split,
        }
        return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace")


def split_of(pattern: Path) -> str:
    """Return the split that a pattern such as ``train-%06d.tar`` makes.

    Raises:
        UsageError: there is no one number in it, or it is no tar.
    """
    found = re.fullmatch(r"(\w[\w.-]*?)[-_.]*%(0\d{1,2})?d\.tar", pattern.name)
    if not found:
        raise UsageError(f"-o {pattern}: no pattern for shards; write e.g. FOLDER/train-%06d.tar")
    return found[1]


def write_shards(
    utterances: Sequence[Utterance],
    pattern: Path,
    *,
    limit: Limit,
    seed: int = 0,
    note: Note = lambda text: None,
    show: Show = lambda what, done, of: None,
) -> tuple[Path, list[Shard]]:
    """Write utterances as shards and their index, which comes last; return both.

    Their order is shuffled by `seed`, so that shards are alike. A shard is there when it is
    whole. Utterances that cannot be read are named and left out.

    Raises:
        UsageError: the pattern has no place for a number.
        DataError: a shard or index is there already, cannot be written, or nothing can be read.
        SpeechseqError: webdataset is not installed.
    """
    index = index_path(pattern.parent, split_of(pattern))
    refuse_existing(index)
    _refuse_shards(pattern)
    summary, shards = Summary(), list[Shard]()
    samples = _encoded(utterances, seed, note, show)
    sample = next(samples, None)
    while sample is not None:
        path = pattern.with_name(pattern.name % len(shards))
        count, size, seconds = 0, 0, summary.seconds
        with atomic_write(path, overwrite=False) as file, _tar_writer(file) as tar:
            while sample and not limit.reached(count, size + len(sample.audio)):
                line = sample.line
                tar.write({"__key__": sample.key, sample.suffix[1:]: sample.audio, "json": line})
                count, size = count + 1, size + len(sample.audio) + len(line)
                summary.add(sample.utterance.text, sample.seconds, f"{path.name}/{sample.key}")
                sample = next(samples, None)
        # TarWriter's end marks are written when both are closed.
        seconds = round(summary.seconds - seconds, 3)
        shards.append(Shard(path.name, path.stat().st_size, sha256(path), count, seconds))
    if not shards:
        raise DataError(f"{pattern}: none of {len(utterances)} utterances could be read")
    write_index(index, shards, summary)
    return index, shards


def write_index(path: Path, shards: Sequence[Shard], summary: Summary) -> None:
    """Write the index of shards."""
    tree = {"format": FORMAT, **summary.to_dict(), "shards": [asdict(shard) for shard in shards]}
    with atomic_write(path, overwrite=False) as file:
        file.write(json.dumps(tree, ensure_ascii=False, indent=1).encode())


def _refuse_shards(pattern: Path) -> None:
    before, _, after = re.split(r"(%0?\d*d)", pattern.name)
    for path in pattern.parent.glob("*") if pattern.parent.is_dir() else ():
        if re.fullmatch(f"{re.escape(before)}\\d+{re.escape(after)}", path.name):
            refuse_existing(path)


def _tar_writer(file: Any) -> Any:
    try:
        from webdataset.writer import TarWriter
    except ImportError:
        raise SpeechseqError(f"webdataset: not installed; {installing('train')}") from None
    # Bytes go in as they are, and the same samples make the same archive.
    return TarWriter(file, encoder=False, mtime=0)


def _encoded(
    utterances: Sequence[Utterance],
    seed: int,
    note: Note,
    show: Show,
) -> Iterator[Encoded]:
    """Yield what can be read, in random order; a key is the utterance's place in the manifest."""
    order = np.random.default_rng(seed).permutation(len(utterances)).tolist()
    for done, number in enumerate(order, start=1):
        utterance = utterances[number]
        try:
            KINDS["classes"](utterance.text)  # the index is of texts that are Unicode
            yield _encode(utterance, f"{number:09}")
        except AudioError as error:
            note(f"skipped: {error}")
        except DataError as error:
            note(f"skipped: {name_of(utterance.audio_filepath)}: {error}")
        show("shard", done, len(order))


def _encode(utterance: Utterance, key: str) -> Encoded:
    """Keep a file that is the utterance; else cut, mix and scale it, and compress without loss.

    Raises:
        AudioError: it cannot be read.
    """
    if not utterance.audio_filepath:
        samples = read_utterance(utterance, SILENCE_RATE)
        return Encoded(key, ".flac", *_flac(samples, SILENCE_RATE, 16), utterance)
    path = Path(utterance.audio_filepath)
    about = read_header(path)
    try:
        whole = utterance.volume == 1 and not utterance.offset
        left_out = about.seconds - (utterance.duration or about.seconds)
        whole = whole and abs(left_out) <= WHOLE_SECONDS
        suffix = path.suffix.lower()
        if whole and suffix in AUDIO_SUFFIXES and path.stat().st_size <= LARGEST_AUDIO_BYTES:
            audio = path.read_bytes()
            samples = read_audio(audio, about.rate)
            return Encoded(key, suffix, audio, len(samples) / about.rate, utterance)
        samples = read_utterance(utterance, about.rate)
        as_is = about.channels == 1 and utterance.volume == 1 and about.subtype in _UP_TO_16
        audio, seconds = _flac(samples, about.rate, 16 if as_is else 24)
    except AudioError as error:
        # Bytes have no name.
        raise AudioError(str(error).replace("audio bytes", str(path), 1)) from None
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"{path}: cannot be stored ({error}); convert it to wav") from None
    if len(audio) > LARGEST_AUDIO_BYTES:
        raise AudioError(f"{path}: {len(audio)} bytes are too many; cut it into parts")
    return Encoded(key, ".flac", audio, seconds, utterance)


_UP_TO_16 = ("PCM_16", "PCM_U8", "PCM_S8", "ULAW", "ALAW")
"""What 16 bits hold without loss."""


def _flac(samples: np.ndarray, rate: int, bits: int) -> tuple[bytes, float]:
    """Return samples (samples,) in [-1, 1] as a flac of so many bits, and their seconds.

    Whole numbers are written: libsndfile scales floats by one less than it divides them by.
    """
    top = 2 ** (bits - 1)
    whole = np.clip(np.round(samples.astype(np.float64) * top), -top, top - 1)
    stored = whole.astype(np.int16) if bits == 16 else (whole * 256).astype(np.int32)
    file = io.BytesIO()
    soundfile.write(file, stored, rate, subtype=f"PCM_{bits}", format="FLAC")
    return file.getvalue(), len(samples) / rate
