"""One's own data: one folder a class, a CSV table, or a manifest of JSON lines."""

from __future__ import annotations

import csv as csv_module
from dataclasses import replace
from pathlib import Path

from speechseq.corpora.layout import labelled_folders, measured
from speechseq.errors import DataError
from speechseq.manifest import Corpus, Utterance, read_manifest

SPLITS = ("train", "validation", "test")
COLUMNS = {
    "audio_filepath": ("audio_filepath", "path", "file"),
    "text": ("text", "transcript", "class", "label"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "split": ("split",),
}
"""The headings a CSV table may have for each of an utterance's fields."""


def read_folders(root: Path) -> list[Utterance]:
    """List one folder a class; a level train/, validation/, test/ above the classes is the splits.

    Raises:
        DataError: no folder holds audio.
    """
    levels = [(split, root / split) for split in SPLITS if (root / split).is_dir()]
    found = [
        Utterance(str(path), 0.0, label, split=split)
        for split, folder in levels or [("train", root)]
        for label, paths in labelled_folders(folder)
        for path in paths
    ]
    if not found:
        raise DataError(f"{root}: no sub-folder holds audio; put one folder a class there")
    return measured(found)


def _files(root: Path, suffix: str) -> list[tuple[str, Path]]:
    """Return the tables a place stands for, with the split that each one's name says."""
    if root.is_file():
        return [("train", root)]
    found = [(split, root / f"{split}{suffix}") for split in SPLITS]
    present = [(split, path) for split, path in found if path.is_file()]
    if not present:
        raise DataError(f"{root}: holds no train{suffix}; give a {suffix} file or such a folder")
    return present


def read_csv(root: Path) -> list[Utterance]:
    """List the rows of a CSV file, or of train.csv, validation.csv and test.csv in a folder.

    Raises:
        DataError: no table, a column is missing, or a row holds too little.
    """
    return measured(u for split, path in _files(root, ".csv") for u in _rows(path, split))


def _rows(path: Path, split: str) -> list[Utterance]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv_module.DictReader(file))
    except (OSError, UnicodeDecodeError, csv_module.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV table") from None
    headings = rows[0].keys() if rows else ()
    columns = {f: next((n for n in names if n in headings), "") for f, names in COLUMNS.items()}
    for field in ("audio_filepath", "text"):
        if not columns[field]:
            raise DataError(f"{path}: no column {' or '.join(COLUMNS[field])}; add its heading")
    return [_row(row, columns, f"{path}:{n}", path.parent, split) for n, row in enumerate(rows, 2)]


def _row(
    row: dict[str, str | None], columns: dict[str, str], where: str, folder: Path, split: str
) -> Utterance:
    values = {field: row.get(name) or "" for field, name in columns.items()}
    if not values["audio_filepath"] or not values["text"]:
        raise DataError(f"{where}: no path or no text; fill it in or delete the row")
    return Utterance(
        str(folder / values["audio_filepath"]),
        0.0,
        values["text"],
        speaker=values["speaker"],
        split=values["split"] or split,
    )


def read_jsonl(root: Path) -> list[Utterance]:
    """List a manifest, or train.jsonl, validation.jsonl and test.jsonl in a folder.

    Raises:
        DataError: no manifest, or a line is wrong.
    """
    found = [(split, u) for split, path in _files(root, ".jsonl") for u in read_manifest(path)]
    return measured(replace(u, split=u.split or split) for split, u in found)


FOLDER = Corpus("folder", "Your own clips, one folder a class", (), read_folders)
CSV = Corpus("csv", "Your own CSV table of paths and texts", (), read_csv)
JSONL = Corpus("jsonl", "Your own manifest of JSON lines", (), read_jsonl)
