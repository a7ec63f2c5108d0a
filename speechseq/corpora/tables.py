"""Lists of one's own: a CSV or a manifest of JSON lines, or a folder with one for each split."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from speechseq.corpora.clips import measured, read_text
from speechseq.corpora.folder import SPLITS
from speechseq.errors import DataError
from speechseq.manifest import LONGEST_SECONDS, Corpus, Utterance, read_manifest

_PATH_COLUMNS = ("audio_filepath", "path", "file")
_TEXT_COLUMNS = ("text", "transcript", "label", "class")


def read_csv(place: Path) -> list[Utterance]:
    """List a CSV's rows, or those of train.csv, validation.csv and test.csv in a folder.

    Columns: path, file or audio_filepath; text, transcript, label or class; optionally speaker,
    split, and offset and duration in seconds. Relative paths are taken from the CSV's folder.

    Raises:
        DataError: a file cannot be read, has no such columns, or a row is incomplete.
    """
    found = []
    for path, split in _files(place, ".csv"):
        found += _read_rows(path, split)
    return measured(found)


def read_jsonl(place: Path) -> list[Utterance]:
    """List a manifest's lines, or those of train.jsonl, validation.jsonl and test.jsonl.

    A line's own `split` counts; without one it is of the file's split, or of train. A duration
    of 0 is filled in.

    Raises:
        DataError: a file cannot be read, or a line is wrong.
    """
    found = [
        replace(utterance, split=utterance.split or split)
        for path, split in _files(place, ".jsonl")
        for utterance in read_manifest(path)
    ]
    return measured(found)


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
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV ({error}); correct the line") from None
    if not rows:
        raise DataError(f"{path}: holds no rows; write a line of column names and one a clip")
    where, what = _column(path, rows[0], _PATH_COLUMNS), _column(path, rows[0], _TEXT_COLUMNS)
    found = []
    for number, row in enumerate(rows, start=2):
        if None in row or not row[where] or row[what] is None:
            raise DataError(f"{path}: row {number} does not fit the columns; correct it")
        clip, speaker = str(path.parent / row[where]), row.get("speaker") or ""
        begin, seconds = (_seconds(path, number, row, name) for name in ("offset", "duration"))
        its_split = row.get("split") or split
        found.append(Utterance(clip, seconds, row[what], speaker, begin, its_split))
    return found


def _seconds(path: Path, number: int, row: dict[str, str], name: str) -> float:
    """Return a row's number of seconds, 0 where there is none."""
    try:
        seconds = float(row.get(name) or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < LONGEST_SECONDS:
        raise DataError(f"{path}: row {number} has {name} {row[name]!r}; write seconds from 0 on")
    return seconds


def _column(path: Path, row: dict[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in row:
            return name
    raise DataError(f"{path}: no column {' or '.join(names)}; name one so in the first line")


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
