"""Weigh a classifier's unknown class against its words, by validation clips alone.

    python scripts/weigh_unknown.py runs/nine_classes_final -o runs/nine_classes_weighed

Training says how often a clip is none of the words, which is not how often a user says none. What
is added to the score of `_unknown_` decides how much is refused; it is the most with which as many
of validation's known words are right as without, so that what is refused more costs nothing that
could be measured. The new run has the recipe of the first. Prints, for each offset, known words
right and unknown ones refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from command_line import one_line_errors, parser_of
from runs import reweighted

from speechseq.errors import ModelError
from speechseq.manifest import read_utterance
from speechseq.model_file import RUN_MODEL, RUN_WEIGHTS
from speechseq.padding import pad
from speechseq.recogniser import load
from speechseq.splits import load_split
from speechseq.tokens import NO_TEXT, UNKNOWN
from speechseq.training.encoder import load_network
from speechseq.training.run_folder import read_run, refuse_run

OFFSETS = np.arange(0, 31) / 10
"""What is tried."""

BATCH = 32


def log_probs_of(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what a classifier says of validation (clips, classes), and the classes (clips,)."""
    recogniser, (recipe, vocabulary) = load(run), read_run(run)
    utterances = load_split(recipe.data, "validation", recipe.seed)
    found = []
    for at in range(0, len(utterances), BATCH):
        clips = [read_utterance(one, recogniser.rate) for one in utterances[at : at + BATCH]]
        found.append(recogniser.network(*pad(clips))[0][:, 0])
    labels = [vocabulary.encode(utterance.text)[0] for utterance in utterances]
    return np.concatenate(found), np.array(labels)


def counts(
    log_probs: np.ndarray, labels: np.ndarray, tokens: tuple[str, ...], offset: float
) -> tuple[int, int]:
    """Return how many known words are right, and how many clips of unknown ones are refused."""
    moved = log_probs + offset * (np.array(tokens) == UNKNOWN)
    none = np.array([token in NO_TEXT for token in tokens])
    best = moved.argmax(axis=1)
    right = (best == labels) & ~none[labels]
    refused = none[best] & (labels == tokens.index(UNKNOWN))
    return int(right.sum()), int(refused.sum())


def weigh(run: Path, target: Path) -> float:
    """Write a run whose unknown class is weighed, and return what was added to its score.

    Raises:
        ModelError: it is no run of a classifier that knows unknown words, or `target` is there.
    """
    recipe, vocabulary = read_run(run)
    if UNKNOWN not in vocabulary.tokens:
        raise ModelError(f"{run}: tells no class {UNKNOWN}; name the run of a recipe that has it")
    refuse_run(target)
    log_probs, labels = log_probs_of(run)
    found = {x: counts(log_probs, labels, vocabulary.tokens, x) for x in OFFSETS.tolist()}
    for offset, (right, refused) in found.items():
        print(f"{offset:.1f}: {right} known words right, {refused} unknown ones refused")
    chosen: float = max(offset for offset, (right, _) in found.items() if right >= found[0.0][0])
    weights = load_network(run / RUN_WEIGHTS, recipe, vocabulary).state_dict()
    unknown = vocabulary.tokens.index(UNKNOWN)
    scores = [place for place, told in enumerate(vocabulary.told_as) if told == unknown]
    weights["head.output.state.bias"][scores] += chosen
    reweighted(run, weights, target)
    return chosen


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    arguments = parser.parse_args()
    with one_line_errors():
        chosen = weigh(arguments.run, arguments.output)
    print(f"{arguments.output / RUN_MODEL}: {chosen:.1f} added to the score of {UNKNOWN}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
