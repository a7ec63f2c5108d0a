"""Small trees in the layout of each corpus' public archive, made of tones and noise."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from speechseq.corpora import CORPORA
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance
from speechseq.training.sharding import Limit, write_shards

SPEAKERS = ("0a1b2c3d", "1b2c3d4e", "2c3d4e5f", "3d4e5f60", "4e5f6071")
COMMANDS = ("yes", "no", "bed", "cat")
SUFFIX_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".sph": "NIST"}


def tone(path: Path, *, rate: int = 16000, seconds: float = 1.0, pitch: int = 0) -> Path:
    """Write a clip: a tone that tells its class by its pitch, in a little noise."""
    times = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(pitch).standard_normal(len(times))
    samples = 0.3 * np.sin(2 * np.pi * (300 + 150 * (pitch % 20)) * times) + 0.01 * noise
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, "PCM_16", format=SUFFIX_FORMATS[path.suffix])
    return path


def text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def fsdd(place: Path) -> None:
    for digit in range(10):
        for speaker in ("anna", "bert"):
            for number in (0, 1, 5, 6, 12):
                clip = place / "recordings" / f"{digit}_{speaker}_{number}.wav"
                tone(clip, rate=8000, seconds=0.4, pitch=digit)


def arabic_speech_commands(place: Path) -> None:
    for name, speakers in {"train": (1, 4), "val": (2,), "test": (3,)}.items():
        rows = ["file,class"]
        for pitch, word in enumerate(("backward", "zoom in", "zero")):
            for speaker in speakers:
                for number in (1, 2):
                    file = f"dataset/{word}/{speaker:08}_NO_{number:02}.wav"
                    tone(place / file, pitch=pitch)
                    rows.append(f"{file},{word}")
        text(place / f"{name}.csv", rows)
    tone(place / "background_noise" / "boiler.wav", seconds=3)


def yesno(place: Path) -> None:
    for number in range(60):
        name = "_".join(f"{number:08b}")
        tone(place / f"{name}.wav", rate=8000, seconds=0.8, pitch=number)
    text(place / "README", ["the real archive has one"])


def speech_commands(place: Path) -> None:
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for pitch, word in enumerate(COMMANDS):
        for number, speaker in enumerate(SPEAKERS):
            for take in (0, 1):
                file = f"{word}/{speaker}_nohash_{take}.wav"
                tone(place / file, pitch=pitch)
                if number >= 3:
                    lists["validation" if number == 3 else "testing"].append(file)
    for name, files in lists.items():
        text(place / f"{name}_list.txt", files)
    for number, name in enumerate(("running_tap", "white_noise")):
        tone(place / "_background_noise_" / f"{name}.wav", seconds=20, pitch=number)
    text(place / "_background_noise_" / "README.md", ["not a clip"])
    canonical = place.with_name(place.name.replace("commands", "commands_test_set"))
    for word in COMMANDS[:2]:
        tone(canonical / word / f"{SPEAKERS[4]}_nohash_0.wav")
    tone(canonical / "_unknown_" / f"bed_{SPEAKERS[4]}_nohash_0.wav")
    tone(canonical / "_silence_" / "1037.wav")


def librispeech(splits: Sequence[str]) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        for number, split in enumerate(splits, start=19):
            chapter = place / split / str(number) / "7"
            names = [f"{number}-7-{line:04}" for line in range(3)]
            for name, suffix in zip(names, (".flac", ".flac", ".wav"), strict=True):
                tone(chapter / f"{name}{suffix}", seconds=1.5, pitch=number)
            text(chapter / f"{number}-7.trans.txt", [f"{name} THE CAT'S YES" for name in names])

    return make


def an4(place: Path) -> None:
    for split, part, speakers in (
        ("train", "an4_clstk", ("fash", "fbbh", "mblw")),
        ("test", "an4test_clstk", ("fcaw",)),
    ):
        lines = []
        for speaker in speakers:
            for number in (251, 252, 253):
                name = f"an{number}-{speaker}-b"
                tone(place / "wav" / part / speaker / f"{name}.sph", pitch=number)
                # The real test transcripts have no marks of the sentence's edges.
                words = "<s> GO  C M U </s>" if split == "train" else "GO  C M U"
                lines.append(f"{words} ({name})")
        text(place / "etc" / f"an4_{split}.transcription", lines)


def folder(place: Path) -> None:
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for pitch, label in enumerate(("On", "Off")):
            for number in range(count):
                tone(place / split / label / f"{number}.wav", pitch=pitch)


def synthetic_words(place: Path) -> None:
    for pitch, word in enumerate(("yes", "boat")):
        for number in range(3):
            tone(place / word / f"afsky-bmlewis-40_nohash_{number}.wav", pitch=pitch)


def csv(place: Path) -> None:
    for split in ("train", "validation", "test"):
        rows = ["path,text,speaker"]
        for number in range(4):
            tone(place / "clips" / f"{split}{number}.wav", pitch=number)
            rows.append(f'clips/{split}{number}.wav,"yes, no",s{number % 2}')
        text(place / f"{split}.csv", rows)


def jsonl(place: Path) -> None:
    for split in ("train", "validation", "test"):
        rows = []
        for number in range(4):
            tone(place / "clips" / f"{split}{number}.wav", pitch=number)
            clip = f"clips/{split}{number}.wav"
            row = {
                "audio_filepath": clip,
                "duration": 1.0,
                "text": ("yes no", "no yes")[number % 2],
            }
            rows.append(json.dumps(row))
        text(place / f"{split}.jsonl", rows)


def shards(place: Path) -> None:
    clips = place.parent / f"before_{place.name}"
    for start, split in enumerate(("train", "validation", "test")):
        utterances = [
            # Where it is belongs to it: what is unpacked is known by what the shards hold.
            Utterance(str(tone(clips / f"{n}.wav", pitch=n)), 1.0, "yes no", str(place))
            for n in range(4 * start, 4 * start + 4)
        ]
        write_shards(utterances, place / f"{split}-%02d.tar", limit=Limit(utterances=3))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "fsdd": fsdd,
    "arabic_speech_commands": arabic_speech_commands,
    "yesno": yesno,
    "speech_commands": speech_commands,
    "speech_commands_v0.01": speech_commands,
    "librispeech": librispeech(CORPORA["librispeech"].splits),
    "mini_librispeech": librispeech(CORPORA["mini_librispeech"].splits),
    "an4": an4,
    "synthetic_words": synthetic_words,
    "folder": folder,
    "csv": csv,
    "jsonl": jsonl,
    "shards": shards,
}

TOPS = {
    "fsdd": "free-spoken-digit-dataset-1.0.10",
    "arabic_speech_commands": "arabic-speech-commands-dataset-master",
    "yesno": "waves_yesno",
    "speech_commands": ".",
    "speech_commands_v0.01": ".",
    "librispeech": "LibriSpeech",
    "mini_librispeech": "LibriSpeech",
    "an4": "an4",
}
"""The folder around everything in each public archive."""


def make_layout(name: str, parent: Path) -> Path:
    """Make a corpus' tree below a folder of corpora; return its place."""
    place = parent / (CORPORA[name].folder or f"own_{name}")
    LAYOUTS[name](place)
    return place


def pack(corpus: Corpus, archive: Archive, tree: Path, folder: Path) -> Path:
    """Make an archive as it is published, of a tree that `make_layout` made."""
    folder.mkdir(parents=True, exist_ok=True)
    source, top = tree / (archive.into or corpus.folder), TOPS[corpus.name]
    part = archive.into.partition("/")[2]
    inside = f"{top}/{part}" if part else top
    path = folder / archive.file_name
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in sorted(source.rglob("*")):
                packed.write(file, f"{inside}/{file.relative_to(source)}")
        return path
    with tarfile.open(path, "w:gz", compresslevel=1) as packed:
        packed.add(source, inside)
        if part:
            # Every part of LibriSpeech brings the same few files along.
            packed.addfile(tarfile.TarInfo(f"{top}/LICENSE.TXT"))
    return path
