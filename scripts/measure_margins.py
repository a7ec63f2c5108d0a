"""Measure what silence and faint noise around utterances do to a model's errors.

    python scripts/measure_margins.py recipes/an4/margins.yaml an4

The recipe's validation utterances are heard with so many seconds before and behind, of digital
silence or with white noise over all. Prints word error rates, and the characters that are heard in
a minute of the noise alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from command_line import one_line_errors, parser_of

from speechseq.errors import UsageError
from speechseq.manifest import read_utterance
from speechseq.metrics import total_rate, word_errors
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import Recogniser, load
from speechseq.splits import own_splits

MARGIN_SECONDS = (0.0, 1.0, 3.0, 10.0)
NOISE_DB = (None, -70.0, -60.0, -50.0)
"""Of full scale; none: digital silence."""

ALONE_SECONDS = 50.0
SEED = 0


def hiss(samples: int, level_db: float | None, rng: np.random.Generator) -> np.ndarray:
    """Return white noise (samples,) of a level."""
    if level_db is None:
        return np.zeros(samples, np.float32)
    return rng.normal(0, 10 ** (level_db / 20), samples).astype(np.float32)


def measure(recogniser: Recogniser, clips: Sequence[np.ndarray], texts: Sequence[str]) -> None:
    """Print the table."""
    print("| noise | " + " | ".join(f"{s:g} s" for s in MARGIN_SECONDS) + " | alone |")
    print("|---|" + "---|" * (len(MARGIN_SECONDS) + 1))
    for level_db in NOISE_DB:
        rng = np.random.default_rng(SEED)
        cells = []
        for seconds in MARGIN_SECONDS:
            margin = round(seconds * recogniser.rate)
            padded = [np.pad(clip, margin) for clip in clips]
            heard = [
                recogniser.transcribe(clip + hiss(len(clip), level_db, rng)).text for clip in padded
            ]
            cells.append(f"{100 * total_rate(word_errors(texts, heard)):.2f} %")
        alone = recogniser.transcribe(
            hiss(round(ALONE_SECONDS * recogniser.rate), level_db, rng)
        ).text
        cells.append(f"{len(alone.replace(' ', '')) * 60 / ALONE_SECONDS:.0f}")
        name = "none" if level_db is None else f"{level_db:g} dB"
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("recipe", help="whose validation utterances are heard")
    parser.add_argument("model", help="bundled name, model file or run")
    arguments = parser.parse_args()
    with one_line_errors():
        recogniser = load(arguments.model)
        if not recogniser.vocabulary.is_sequence:
            raise UsageError(f"{arguments.model}: a classifier; give a model of sequences")
        recipe = read_recipe(arguments.recipe, ["data.same_words=[]"])
        _, held_out = own_splits(recipe.data, recipe.seed)
        clips = [read_utterance(utterance, recogniser.rate) for utterance in held_out]
        measure(recogniser, clips, [utterance.text for utterance in held_out])
    return 0


if __name__ == "__main__":
    sys.exit(main())
