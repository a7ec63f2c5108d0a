"""Write how the words of manifests or lists sound: a file for data.pronunciations.

    pip install '.[voices]'
    python scripts/list_pronunciations.py data/words.jsonl -o pronunciations.txt

American English, out of the dictionary of the synthetic voices, which guesses what it lacks; a
character for each sound, without stress. A letter standing alone is spelt. Words of more than one
word, such as other languages' (`arabic yes`), are left out. The commands of a task are added to the
manifest's words by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from command_line import one_line_errors, parser_of
from make_words import phonemes_of

from speechseq.cli.terminal import add_force, refuse_existing
from speechseq.errors import UsageError
from speechseq.files import atomic_write
from speechseq.manifest import MANIFEST, read_manifest

MARKS = "ˈˌː.ˑ "
ALIKE = {"ᵊ": "ə", "ɾ": "t", "T": "t", "ᵻ": "ɪ"}
"""Sounds that are written as others: too rare to be learnt, or said in no other place."""


def phones_of(word: str) -> str:
    """Return a word's sounds, a character each."""
    said = "".join(mark for mark in phonemes_of(word, british=False) if mark not in MARKS)
    return "".join(ALIKE.get(sound, sound) for sound in said)


def words_in(sources: Sequence[str]) -> Iterator[str]:
    """Yield the words of manifests, of lists (files of words), and words themselves."""
    for source in sources:
        if source.endswith(MANIFEST):
            yield from (utterance.text for utterance in read_manifest(source))
        elif Path(source).is_file():
            yield from Path(source).read_text(encoding="utf-8").split()
        else:
            yield source


def main() -> None:
    """Read the command line and write the file."""
    parser = parser_of(__doc__)
    parser.add_argument("sources", nargs="+", metavar="WORD_OR_FILE")
    parser.add_argument("-o", "--output", type=Path, required=True)
    add_force(parser, "the file")
    arguments = parser.parse_args()
    with one_line_errors():
        refuse_existing(arguments.force, arguments.output)
        words = sorted({word for word in words_in(arguments.sources) if word.isalpha()})
        if not words:
            raise UsageError("no word; name words, lists or manifests of single words")
        lines = [f"{word} {phones_of(word)}\n" for word in words]
        with atomic_write(arguments.output) as file:
            file.write("".join(lines).encode())
    print(f"{arguments.output}: {len(words)} words", file=sys.stderr)


if __name__ == "__main__":
    main()
