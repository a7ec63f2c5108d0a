"""Write sentences like those a recipe learns from, for synthetic voices to say.

    python scripts/make_sentences.py recipes/an4/lstm_ctc.yaml --count 2400 > sentences.txt
    python scripts/make_words.py --lines sentences.txt --each 1 --margin 0.3 --voices ... -o ...

Half of them are training sentences as they are; in the others a letter stands for each letter, a
unit for each unit and so on, all by chance and all words of the training split.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from pathlib import Path

from command_line import natural, one_line_errors, parser_of

from speechseq.recipe_file import read_recipe
from speechseq.splits import own_splits

_KINDS = f"""
{" ".join(string.ascii_lowercase)}
oh zero one two three four five six seven eight nine
ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety
january february march april may june july august september october november december
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
enter erase rubout repeat start stop go help yes no
"""
KINDS = tuple(line.split() for line in _KINDS.strip().splitlines())
"""Words of which any may stand where another does."""

KIND_OF = {word: kind for kind in KINDS for word in kind}

KEPT = 0.5
"""Share of sentences that stay as they are."""


def vary(sentence: str, known: frozenset[str], chance: random.Random) -> str:
    """Return the sentence with another word of its kind, out of `known`, for each word."""
    return " ".join(
        chance.choice([other for other in KIND_OF[word] if other in known])
        if word in KIND_OF
        else word
        for word in sentence.split()
    )


def sentences(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return different sentences out of so many draws; the same texts and seed give the same."""
    chance = random.Random(seed)
    known = frozenset(word for text in texts for word in text.split())
    chosen = [chance.choice(texts) for _ in range(count)]
    drawn = [text if chance.random() < KEPT else vary(text, known, chance) for text in chosen]
    return list(dict.fromkeys(drawn))


def main() -> None:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--count", type=natural, default=2400, metavar="N", help="draws")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with one_line_errors():
        recipe = read_recipe(arguments.recipe)
        texts = [utterance.text for utterance in own_splits(recipe.data, recipe.seed)[0]]
        print("\n".join(sentences(texts, arguments.count, arguments.seed)))


if __name__ == "__main__":
    main()
