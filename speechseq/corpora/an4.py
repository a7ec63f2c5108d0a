"""CMU AN4: names, addresses, spelt letters, numbers and control words at 16 kHz."""

from __future__ import annotations

import re
from pathlib import Path

from speechseq.corpora.clips import clips_in, folders_in, measured, read_lines, require, require_all
from speechseq.errors import DataError
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

_SPLITS = ("train", "test")
# <s> YES </s> (an251-fash-b); the test part's lines have no <s> and </s>.
_LINE = re.compile(r"(?:<s>\s)?\s*(.*?)\s*(?:</s>)?\s*\(([^()\s]+)\)")


def parse_transcript(line: str, where: str) -> tuple[str, str]:
    """Return (utterance name, text in lower case) of one line of a transcription file.

    Raises:
        DataError: the line does not end in a name in parentheses.
    """
    match = _LINE.fullmatch(line.strip())
    if not match:
        raise DataError(f"{where}: {line!r} is not 'TEXT (name)'; unpack the corpus again")
    return match[2], " ".join(match[1].lower().split())


def read(place: Path) -> list[Utterance]:
    """List the utterances of the splits whose transcripts and audio are both there.

    Raises:
        DataError: `place` is not this corpus, or a split is there only in part.
    """
    lists = {split: place / "etc" / f"an4_{split}.transcription" for split in _SPLITS}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    require(lists, place, "etc/an4_train.transcription")
    clips = _clips(place / "wav")
    found = []
    for split, path in lists.items():
        transcripts = [parse_transcript(line, str(path)) for line in read_lines(path)]
        missing = [name for name, _ in transcripts if name not in clips]
        if require_all(missing, len(transcripts), path):
            found += [
                Utterance(str(clips[name]), 0.0, text, clips[name].parent.name, split=split)
                for name, text in transcripts
            ]
    require(found, place, "wav/an4_clstk/{speaker}/*.sph")
    return measured(found)


def _clips(place: Path) -> dict[str, Path]:
    """Map each utterance's name to its clip, below wav/{part}/{speaker}/."""
    parts = folders_in(place) if place.is_dir() else []
    speakers = [speaker for part in parts for speaker in folders_in(part)]
    return {name: path for speaker in speakers for name, path in clips_in(speaker).items()}


CORPUS = Corpus(
    name="an4",
    title="CMU AN4: names, addresses, letters, numbers; 84 speakers, 16 kHz, 0.8 h",
    splits=_SPLITS,
    read=read,
    folder="an4",
    licence="BSD-like (CMU)",
    homepage="http://www.speech.cs.cmu.edu/databases/an4/",
    archives=(
        Archive(
            "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
            member="an4",
        ),
    ),
)
