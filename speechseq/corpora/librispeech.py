"""LibriSpeech and mini-LibriSpeech: read English books at 16 kHz.

Source: V. Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", 2015.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from speechseq.corpora.clips import clips_in, measured, read_lines, require, require_all
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

_PARTS = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
_MINI_PARTS = {"train-clean-5": "", "dev-clean-2": ""}
"""SHA-256 of each part's archive, where one is published."""


def read(place: Path, *, splits: tuple[str, ...] = tuple(_PARTS)) -> list[Utterance]:
    """List the utterances of the parts that are there, their texts in lower case.

    Raises:
        DataError: `place` is not this corpus, or a chapter is there only in part.
    """
    found = [
        utterance
        for split in splits
        for path in sorted((place / split).glob("*/*/*.trans.txt"))
        for utterance in _read_chapter(path, split)
    ]
    require(found, place, f"{splits[0]}/{{speaker}}/{{chapter}}/*.trans.txt")
    return measured(found)


def _read_chapter(path: Path, split: str) -> list[Utterance]:
    clips = clips_in(path.parent)
    rows = [line.partition(" ") for line in read_lines(path)]
    missing = [name for name, _, _ in rows if name not in clips]
    require_all(missing, len(rows), path)
    speaker = path.parent.parent.name
    return [
        Utterance(str(clips[name]), 0.0, text.lower(), speaker, split=split)
        for name, _, text in rows
        if name in clips
    ]


def _archives(number: int, folder: str, parts: dict[str, str]) -> tuple[Archive, ...]:
    return tuple(
        Archive(
            f"http://www.openslr.org/resources/{number}/{part}.tar.gz",
            sha256=checksum,
            into=f"{folder}/{part}",
            member=f"LibriSpeech/{part}",
        )
        for part, checksum in parts.items()
    )


CORPUS = Corpus(
    name="librispeech",
    title="LibriSpeech: read English books, 2,484 speakers, 16 kHz, 982 h",
    splits=tuple(_PARTS),
    read=read,
    folder="LibriSpeech",
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/12/",
    archives=_archives(12, "LibriSpeech", _PARTS),
)

MINI = Corpus(
    name="mini_librispeech",
    title="mini-LibriSpeech: 5 h to train on and 2 h to validate, of LibriSpeech",
    splits=tuple(_MINI_PARTS),
    read=partial(read, splits=tuple(_MINI_PARTS)),
    folder="mini_librispeech",
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/31/",
    archives=_archives(31, "mini_librispeech", _MINI_PARTS),
)
