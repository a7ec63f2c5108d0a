"""What the recogniser's tests share: vocabularies, and networks that are written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recognition import Recognition
from speechseq.tokens import BLANK_TOKEN, Vocabulary

RATE = 8000
HOP = 80
CHARACTERS = Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"))
WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right"))
CLASSES = Vocabulary("classes", ("Off", "On"))


def recipe(**sections: dict[str, object]) -> Recipe:
    features = {"rate": RATE, **sections.pop("features", {})}
    return recipe_from_dict({"features": features, **sections}, "test")


def network(best: Sequence[int], tokens: int, sure: float = 0.9):
    """Return a network that says these tokens, frame by frame, whatever it hears."""
    probs = np.full((len(best), tokens), (1 - sure) / (tokens - 1))
    probs[np.arange(len(best)), best] = sure

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs = np.log(np.stack([probs] * len(samples))).astype(np.float32)
        return log_probs, np.full(len(samples), len(best))

    return run


def seen(found: Recognition) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in found.words]
