"""Lists of one's own: a CSV or a manifest of JSON lines, or a folder with one for each split."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechseq.corpora.clips import measured, read_text
from speechseq.corpora.folder import SPLITS
from speechseq.errors import DataError
from speechseq.manifest import LONGEST_SECONDS, Corpus, Utterance, read_manifest

_PATH_COLUMNS = ("audio_filepath", "path", "file")
_TEXT_COLUMNS = ("text", "transcript", "label", "class")


def read_csv(place: Path, *, checked: bool = False) -> list[Utterance]:
    """List a CSV's rows, or those of train.csv, validation.csv and test.csv in a folder.

    Columns: path, file or audio_filepath; text, transcript, label or class; optionally speaker,
    split, and offset and duration in seconds; upper or lower case. Commas, semicolons or tabs
    separate them, as spreadsheets do; spaces around a value are none of it. Relative paths are
    taken from the CSV's folder. With `checked`, durations are compared with the files.

    Raises:
        DataError: a file cannot be read, has no such columns, or a row is incomplete.
    """
    found = []
    for path, split in _files(place, ".csv"):
        found += _read_rows(path, split)
    return measured(_one_spelling(found), checked=checked)


def read_jsonl(place: Path, *, checked: bool = False) -> list[Utterance]:
    """List a manifest's lines, or those of train.jsonl, validation.jsonl and test.jsonl.

    A line's own `split` counts; without one it is of the file's split, or of train. A duration
    of 0 is filled in; with `checked`, the others are compared with the files.

    Raises:
        DataError: a file cannot be read, or a line is wrong.
        AudioError: clips cannot be read.
    """
    found = [
        replace(utterance, split=utterance.split or split)
        for path, split in _files(place, ".jsonl")
        for utterance in read_manifest(path)
    ]
    return measured(_one_spelling(found), checked=checked)


def _one_spelling(utterances: Iterable[Utterance]) -> Iterable[Utterance]:
    """Take needless spaces out of speakers' names, and write them in Unicode's form C."""
    for utterance in utterances:
        name = " ".join(unicodedata.normalize("NFC", utterance.speaker).split())
        yield replace(utterance, speaker=name)


def _files(place: Path, suffix: str) -> list[tuple[Path, str]]:
    """List the (file, split) that `place` stands for: itself, or those in the folder it is."""
    if not place.is_dir():
        return [(place, "train")]
    found = [(place / (split + suffix), split) for split in SPLITS]
    found = [(path, split) for path, split in found if path.is_file()]
    if not found:
        raise DataError(f"{place}: holds no train{suffix}; put one there or give the file itself")
    return found


def _read_rows(path: Path, split: str) -> list[Utterance]:
    text = read_text(path)
    told = re.match(r"sep=(.)\r?\n", text)  # what Excel understands
    text = text[told.end() :] if told else text
    head = text.partition("\n")[0]
    separator = told[1] if told else max(",;\t", key=head.count)
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        before = 1 if told else 0
        rows = [(before + table.line_num, row) for row in table if _says(row)]
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV ({error}); correct the line") from None
    if not rows:
        raise DataError(f"{path}: holds no rows; write a line of column names and one a clip")
    names = table.fieldnames
    where, what = _column(path, names, _PATH_COLUMNS), _column(path, names, _TEXT_COLUMNS)
    found = []
    for number, row in rows:
        if None in row or not (row[where] or "").strip() or row[what] is None:
            raise DataError(f"{path}: line {number} does not fit the columns; correct it")
        clip, speaker = str(path.parent / row[where].strip()), row.get("speaker") or ""
        begin, seconds = (_seconds(path, number, row, name) for name in ("offset", "duration"))
        its_split = row.get("split") or split
        found.append(Utterance(clip, seconds, row[what].strip(), speaker, begin, its_split))
    return found


def _says(row: Mapping[str, Any]) -> bool:
    """Tell a row from an empty one, of separators alone; what has no column is a list of itself."""
    return any(value and any(value) for value in row.values())


def _seconds(path: Path, number: int, row: dict[str, str], name: str) -> float:
    """Return a row's number of seconds, 0 where there is none."""
    try:
        seconds = float(row.get(name) or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < LONGEST_SECONDS:
        raise DataError(f"{path}: line {number} has {name} {row[name]!r}; write seconds from 0 on")
    return seconds


def _column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise DataError(
        f"{path}: no column {' or '.join(names)} in the first line, which has "
        f"{', '.join(map(repr, columns))}; name one so"
    )


CSV = Corpus(
    name="csv",
    title="your own CSV: path, text, optionally speaker and split",
    splits=(),
    read=read_csv,
)

JSONL = Corpus(
    name="jsonl",
    title="your own manifest of JSON lines",
    splits=(),
    read=read_jsonl,
)
