"""Arabic Speech Commands: 40 command words, 30 speakers, clips of one second at 16 kHz."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from speechseq.corpora.clips import clips_in, measured, read_lines, require, require_all, stem
from speechseq.errors import DataError
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

_LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
_SPEAKER_DIGITS = 8


def read(place: Path) -> list[Utterance]:
    """List the clips of each CSV that is there; the label is the English gloss of the word.

    Raises:
        DataError: `place` is not this corpus, or a split is there only in part.
    """
    lists = {split: place / name for split, name in _LISTS.items() if (place / name).is_file()}
    require(lists, place, "train.csv, val.csv or test.csv")
    found = []
    for split, path in lists.items():
        found += _read_list(path, split)
    return measured(found)


def _read_list(path: Path, split: str) -> list[Utterance]:
    clips = cache(clips_in)
    found, missing = [], []
    rows = list(csv.DictReader(read_lines(path)))
    for row in rows:
        if not row.get("file") or not row.get("class"):
            raise DataError(f"{path}: a row has no 'file' or 'class'; unpack the corpus again")
        listed = Path(row["file"])
        name = stem(listed.name)
        clip = clips(path.parent / listed.parent).get(name)
        if clip is None:
            missing.append(row["file"])
        else:
            speaker = name[:_SPEAKER_DIGITS]
            found.append(Utterance(str(clip), 0.0, row["class"], speaker, split=split))
    require_all(missing, len(rows), path)
    return found


CORPUS = Corpus(
    name="arabic_speech_commands",
    title="Arabic Speech Commands: 40 words, 30 speakers, 16 kHz, 3.3 h",
    splits=("train", "validation", "test"),
    read=read,
    folder="arabic_speech_commands",
    licence="CC BY 4.0",
    homepage="https://doi.org/10.5281/zenodo.4662481",
    archives=(
        Archive(
            "https://github.com/abdulkaderghandoura/arabic-speech-commands-dataset/archive/master.zip",
            member="arabic-speech-commands-dataset-*",
        ),
    ),
    noise="background_noise",
)
