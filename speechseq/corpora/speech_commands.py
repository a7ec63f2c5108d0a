"""Google Speech Commands v0.01 and v0.02: single English words, clips of one second at 16 kHz.

Source: P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from speechseq.audio import read_audio
from speechseq.corpora.clips import (
    clips_in,
    folders_in,
    hashed_speaker,
    measured,
    read_lines,
    require,
    stem,
)
from speechseq.errors import DataError, UsageError, nearest
from speechseq.files import Archive
from speechseq.manifest import NOISE_TRAINING_SHARE, Corpus, Utterance, rank_of
from speechseq.tokens import SILENCE, UNKNOWN

NOISE = "_background_noise_"
CANONICAL = "canonical-test"

_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_HELD = (1 + NOISE_TRAINING_SHARE) / 2
_NOISE_PARTS = {
    "train": (0.0, NOISE_TRAINING_SHARE),
    "validation": (NOISE_TRAINING_SHARE, _HELD),
    "test": (_HELD, 1.0),
}
"""Which stretch of every noise recording a split's silence is cut from."""

_SHARE = 0.1
"""Unknown words, and silence, for each clip of a known word."""

_TRAIN_SHARES = {UNKNOWN: 6.0, SILENCE: 2.0}
"""Unknown words, and silence, to train on at most, for each clip of the mean known word."""

_DIGITAL_SILENCE = 10
"""One silence in so many has no noise at all."""

_LEVELS_DB = (-80.0, -10.0)
"""Levels of silence, root mean square against full scale."""

_RATE = 16000

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, modulo 1, spread evenly over 0 to 1 in any stretch of them."""


def read(
    place: Path,
    *,
    words: Sequence[str] = (),
    unknown: bool = False,
    silence: bool = False,
    version: str = "v0.02",
) -> list[Utterance]:
    """List the clips of `words`, or of all words there are, with the word as the label.

    `unknown` adds clips of the other words as `_unknown_`, chosen by a hash of their names,
    `silence` stretches of one second of the noise recordings as `_silence_`, at every level from
    very quiet to very loud: each a tenth of the known words' clips. Training alone takes
    more: six unknown clips for each of the mean known word, where there are as many, as few words
    stand for all others there, and two of silence. Training hears the first 80 % of each noise
    recording, validation the next tenth, test the last.

    Split canonical-test is the published test archive, unpacked beside `place`; of it too only
    the classes asked for are listed.

    Raises:
        UsageError: a word the corpus does not have; `unknown` without `words`.
        DataError: `place` is not this corpus.
    """
    folders = {path.name: path for path in folders_in(place) if path.name[0] not in "._"}
    require(folders, place, "folder of a word")
    known = _check_words(words, unknown, folders, place)
    by_split = _by_split(place, folders.values() if unknown else [folders[word] for word in known])
    found = []
    for split, clips in by_split.items():
        found += _known(clips, known)
        target = sum(u.text in known for u in clips)
        counts = {label: _count(label, target, len(known), split) for label in _TRAIN_SHARES}
        if unknown:
            found += _unknown(clips, known, split, counts[UNKNOWN])
        if silence and target:
            found += _silence(place / NOISE, split, counts[SILENCE])
    canonical = place.parent / f"speech_commands_test_set_{version}"
    classes = [*known, *[UNKNOWN] * unknown, *[SILENCE] * silence]
    return measured([*found, *_canonical(canonical, classes)])


def _check_words(
    words: Sequence[str], unknown: bool, folders: Iterable[str], place: Path
) -> tuple[str, ...]:
    names = sorted(folders)
    for word in words:
        if word not in names:
            raise UsageError(f"words: no word {word!r} in {place}{nearest(word, names)}")
    if unknown and not words:
        raise UsageError("unknown: needs words, or none is left to be unknown; list the words")
    return tuple(dict.fromkeys(words)) or tuple(names)


def _by_split(place: Path, folders: Iterable[Path]) -> dict[str, list[Utterance]]:
    """Sort the clips by the official lists; what stands in neither is for training."""
    listed = {
        stem(line): split for split, name in _LISTS.items() for line in read_lines(place / name)
    }
    found: dict[str, list[Utterance]] = {"train": [], "validation": [], "test": []}
    for folder in folders:
        for name, path in clips_in(folder).items():
            split = listed.get(f"{folder.name}/{name}", "train")
            found[split].append(
                Utterance(str(path), 0.0, folder.name, hashed_speaker(name), split=split)
            )
    return found


def _known(clips: Sequence[Utterance], known: Sequence[str]) -> list[Utterance]:
    return [clip for clip in clips if clip.text in known]


def _count(label: str, target: int, words: int, split: str) -> int:
    """Return how many clips of unknown words, or of silence, go with `target` known ones."""
    count = math.ceil(_SHARE * target)
    return max(count, round(_TRAIN_SHARES[label] * target / words)) if split == "train" else count


def _unknown(
    clips: Sequence[Utterance], known: Sequence[str], split: str, count: int
) -> list[Utterance]:
    others = sorted(
        (clip for clip in clips if clip.text not in known), key=lambda clip: rank_of(clip.key)
    )
    return [
        Utterance(clip.audio_filepath, 0.0, UNKNOWN, clip.speaker, split=split)
        for clip in sorted(others[:count], key=lambda clip: clip.key)
    ]


def _silence(folder: Path, split: str, count: int) -> list[Utterance]:
    """Cut `count` stretches of 1 s, evenly spread over the split's part of each recording.

    Their levels are spread evenly, too. (The published task multiplies its recordings, most of
    them loud, by 0 to 1; copies of them come at other levels, and microphones at any.)
    """
    recordings = measured(Utterance(str(path), 0.0, SILENCE) for path in clips_in(folder).values())
    first, last = _NOISE_PARTS[split]
    usable = [u for u in recordings if (last - first) * u.duration >= 1.0]
    if not usable:
        raise DataError(f"{folder}: no noise long enough for {split}; unpack the corpus again")
    rounds = math.ceil(count / len(usable))
    found = []
    for number in range(count):
        if number % _DIGITAL_SILENCE == 0:
            found.append(Utterance("", 1.0, SILENCE, split=split))
            continue
        recording = usable[number % len(usable)]
        room = (last - first) * recording.duration - 1.0
        start = first * recording.duration + room * (number // len(usable) + 0.5) / rounds
        offset = math.floor(start * 1000) / 1000
        volume = _volume(_level(recording.audio_filepath), number * _GOLDEN % 1)
        found.append(Utterance(recording.audio_filepath, 1.0, SILENCE, "", offset, split, volume))
    return found


def _volume(level: float, share: float) -> float:
    """Return what takes a level to a share of the way from the quietest to the loudest, in dB."""
    low, high = _LEVELS_DB
    wanted = 10 ** ((low + share * (high - low)) / 20)
    return float(f"{wanted / level:.4g}") if level else 1.0


@lru_cache
def _level(path: str) -> float:
    """Return the root mean square of a noise recording."""
    return float(np.sqrt(np.mean(np.square(read_audio(path, _RATE), dtype=np.float64))))


def _canonical(place: Path, classes: Sequence[str]) -> list[Utterance]:
    return [
        Utterance(str(path), 0.0, label, hashed_speaker(name), split=CANONICAL)
        for label in classes
        for name, path in clips_in(place / label).items()
    ]


def _corpus(version: str, name: str, size: str, archives: tuple[Archive, ...]) -> Corpus:
    return Corpus(
        name=name,
        title=f"Google Speech Commands {version}: {size}, 16 kHz",
        splits=("train", "validation", "test", CANONICAL),
        read=partial(read, version=version),
        folder=f"speech_commands_{version}",
        licence="CC BY 4.0",
        homepage="https://arxiv.org/abs/1804.03209",
        archives=archives,
        options=("words", "unknown", "silence"),
        noise=NOISE,
    )


CORPUS = _corpus(
    "v0.02",
    "speech_commands",
    "35 English words, 105,829 clips",
    (
        Archive(
            "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            size=2_428_923_189,
        ),
        Archive(
            "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz",
            sha256="cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
            size=112_563_277,
            into="speech_commands_test_set_v0.02",
        ),
    ),
)

CORPUS_V1 = _corpus(
    "v0.01",
    "speech_commands_v0.01",
    "30 English words, 64,727 clips",
    (
        Archive(
            "http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
            sha256="743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        ),
        Archive(
            "http://download.tensorflow.org/data/speech_commands_test_set_v0.01.tar.gz",
            into="speech_commands_test_set_v0.01",
        ),
    ),
)
