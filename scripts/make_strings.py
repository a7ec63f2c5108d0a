"""Join single words of a recipe's training speakers to sentences like those it learns from.

    python scripts/list_words.py --without-speakers 8 --least 1 -o data/words.jsonl
    python scripts/make_strings.py recipes/an4/lstm_ctc.yaml data/words.jsonl -o data/an4_strings

A training sentence gives the order, and for each word another of its kind may stand, as
scripts/make_sentences.py has them: any that the string's one speaker has said. What this speaker
has said none of is left out. Words follow each other closely, over a faint noise.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of
from make_sentences import KIND_OF

from speechseq.compose import Composition, String, by_speaker, string_of, write_strings
from speechseq.errors import DataError
from speechseq.manifest import Utterance, read_manifest
from speechseq.recipe_file import read_recipe
from speechseq.splits import own_splits

HOW = Composition(
    gap_seconds=(-0.04, 0.1), margin_seconds=(0.05, 0.4), level_db=(-30.0, -18.0), snr_db=45.0
)
"""Words were cut with some silence around them, and overlap by it."""

NOISE_SECONDS = 10

LEAST_WORDS = 2

Own = Mapping[str, Sequence[Utterance]]
"""One speaker's clips of each word."""


def by_word(clips: Sequence[Utterance]) -> Own:
    """Return one speaker's clips by what they say."""
    found: dict[str, list[Utterance]] = defaultdict(list)
    for clip in clips:
        found[clip.text].append(clip)
    return found


def chosen(sentence: str, own: Own, chance: random.Random) -> list[Utterance]:
    """Return a speaker's clips for a sentence, as far as there are any."""
    said = [[w for w in KIND_OF.get(word, [word]) if w in own] for word in sentence.split()]
    return [chance.choice(own[chance.choice(words)]) for words in said if words]


def strings(
    texts: Sequence[str], speakers: Mapping[str, Own], count: int, rate: int
) -> Iterator[String]:
    """Yield so many strings, speaker by speaker in turn; the same arguments give the same.

    Raises:
        DataError: no sentence can be said by anybody.
        AudioError: a clip cannot be read.
    """
    hiss = np.random.default_rng(0).standard_normal(NOISE_SECONDS * rate)
    names = sorted(speakers)
    number = made = 0
    while made < count:
        number += 1
        chance, rng = random.Random(number), np.random.default_rng(number)
        name = names[number % len(names)]
        clips = chosen(chance.choice(texts), speakers[name], chance)
        if len(clips) >= LEAST_WORDS:
            made += 1
            yield string_of(clips, rate, HOW, [hiss], rng), " ".join(u.text for u in clips), name
        elif number > 100 * (made + len(names)):
            raise DataError(
                "hardly a sentence has two words these speakers have said; list more of theirs"
            )


def main() -> None:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("words", type=Path, help="manifest of single words")
    parser.add_argument("--count", type=natural, default=1200, metavar="N", help="strings")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with one_line_errors():
        recipe = read_recipe(arguments.recipe)
        sentences = own_splits(recipe.data, recipe.seed)[0]
        heard = {utterance.speaker for utterance in sentences} - {""}
        speakers = {
            name: by_word(clips)
            for name, clips in by_speaker(read_manifest(arguments.words)).items()
            if name in heard
        }
        if not speakers:
            raise DataError(f"{arguments.words}: no word of the recipe's training speakers")
        found = strings(
            [utterance.text for utterance in sentences],
            speakers,
            arguments.count,
            recipe.features.rate,
        )
        print(write_strings(found, arguments.output, recipe.features.rate, "train"))


if __name__ == "__main__":
    main()
