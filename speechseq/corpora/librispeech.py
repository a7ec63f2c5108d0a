"""LibriSpeech and mini LibriSpeech: read books, 16 kHz."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from speechseq.corpora.layout import find_clip, measured
from speechseq.errors import DataError
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

CHECKSUMS = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
MINI_PARTS = ("train-clean-5", "dev-clean-2")


def read(root: Path, *, parts: tuple[str, ...]) -> list[Utterance]:
    """List ``part/speaker/chapter/*.trans.txt`` of the parts that are there.

    Raises:
        DataError: no part is there, a line is wrong, or a listed recording is missing.
    """
    present = [part for part in parts if (root / part).is_dir()]
    if not present:
        raise DataError(f"{root}: holds none of {', '.join(parts)}; give the LibriSpeech folder")
    return measured(
        utterance
        for part in present
        for path in sorted((root / part).glob("*/*/*.trans.txt"))
        for utterance in _chapter(path, part)
    )


def _chapter(path: Path, part: str) -> list[Utterance]:
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, text = line.partition(" ")
        clip = find_clip(path.parent, f"{name}.flac")
        if clip is None or not text:
            raise DataError(f"{path}:{number}: no recording or no text of {name!r}; restore it")
        speaker = path.parent.parent.name
        utterances.append(Utterance(str(clip), 0.0, text.lower(), speaker=speaker, split=part))
    return utterances


CORPUS = Corpus(
    name="librispeech",
    title="LibriSpeech",
    splits=tuple(CHECKSUMS),
    read=partial(read, parts=tuple(CHECKSUMS)),
    folder="LibriSpeech",
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/12/",
    archives=tuple(
        Archive(f"https://www.openslr.org/resources/12/{part}.tar.gz", sha256=checksum, strip=1)
        for part, checksum in CHECKSUMS.items()
    ),
)
MINI = Corpus(
    name="mini_librispeech",
    title="mini LibriSpeech",
    splits=MINI_PARTS,
    read=partial(read, parts=MINI_PARTS),
    folder="mini_LibriSpeech",
    licence="CC BY 4.0",
    homepage="https://www.openslr.org/31/",
    archives=tuple(
        Archive(f"https://www.openslr.org/resources/31/{part}.tar.gz", strip=1)
        for part in MINI_PARTS
    ),
)
