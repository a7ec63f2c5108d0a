"""How words sound: a file with a word and its phones on each line, one character for each sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechseq.errors import DataError, UsageError
from speechseq.tokens import SILENCE


def phones_of(path: Path, words: Sequence[str]) -> tuple[str | None, ...]:
    """Return the phones of words, in their order; None of those that the file has not.

    Silence has none, and is known to have none.

    Raises:
        UsageError: the file cannot be read.
        DataError: a line is not a word and its phones, or no word is in the file.
    """
    known = read_pronunciations(path)
    if not set(words) & set(known):
        raise DataError(f"{path}: has none of the {len(words)} words; name the words' own file")
    return tuple("" if word == SILENCE else known.get(word) for word in words)


def read_pronunciations(path: Path) -> dict[str, str]:
    """Read a file of pronunciations: word -> phones; the last field of each line are the phones.

    Raises:
        UsageError: the file cannot be read.
        DataError: a line is not a word and its phones.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"data.pronunciations: {path} cannot be read ({reason})") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, _, phones = line.strip().rpartition(" ")
        if not word:
            raise DataError(f"{path}:{number}: {line!r} is not a word and its phones; write both")
        found[word.strip()] = phones
    return found
