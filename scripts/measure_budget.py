"""Measure what a recipe's training costs on this machine before its corpus is there.

    python scripts/measure_budget.py RECIPE --utterances 28539 --seconds 12.7

Takes whole training steps (masks, forward, all that the recipe puts into the loss, backward,
optimiser) on random frames of utterances as long as the corpus' mean, and multiplies. What is left
out: reading and augmentation, which training does beside the steps (an epoch takes 1.15 times the
bare steps, `bench_train.py`), the first epoch's features, and validation.
"""

from __future__ import annotations

import statistics
import string
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
from command_line import natural, one_line_errors, parser_of, positive

from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.tokens import BLANK_TOKEN, Vocabulary
from speechseq.training.base import settings_of_base, teacher_of
from speechseq.training.data import Batch
from speechseq.training.encoder import SpeechNetwork, choose_device, parameters
from speechseq.training.objective import Objective, from_features
from speechseq.training.phones import Spoken

LABELS_A_SECOND = 14
"""Characters of read English."""

SOUNDS = string.ascii_letters[:40]
"""As many phones as English has."""

SOUNDS_A_WORD = 5


def tokens_of(recipe: Recipe, count: int) -> Vocabulary:
    """Return the vocabulary of a recipe's teacher, or so many tokens that stand for one.

    Where phones are learnt beside them, each token has some.
    """
    if recipe.training.teacher:
        vocabulary = load(recipe.training.teacher).vocabulary
    else:
        kind = "classes" if recipe.data.tokens == "classes" else "words"
        names = tuple(f"token {number}" for number in range(count))
        vocabulary = Vocabulary(kind, names if kind == "classes" else (BLANK_TOKEN, *names[1:]))
    if not recipe.model.phones:
        return vocabulary
    sounds = cycle(SOUNDS)
    phones = tuple("".join(islice(sounds, SOUNDS_A_WORD)) for _ in vocabulary.labels)
    return replace(vocabulary, phones=phones)


def random_batch(recipe: Recipe, tokens: int, seconds: float) -> Batch:
    """Return a batch of noise, each utterance so many seconds long, with labels by chance."""
    batch, classes = recipe.training.batch, recipe.model.head == "classify"
    frames = recipe.features.frames(round(seconds * recipe.features.rate))
    count = 1 if classes else max(round(LABELS_A_SECOND * seconds), 1)
    return Batch(
        torch.randn(batch, frames, recipe.features.mels),
        torch.full((batch,), frames),
        torch.randint(1 - classes, tokens, (batch * count,)),
        torch.full((batch,), count),
        rows=tuple(range(batch)),
    )


def step_seconds(
    recipe: Recipe, vocabulary: Vocabulary, seconds: float, rounds: int, device: str
) -> tuple[float, int]:
    """Return the median time of a step on utterances of so many seconds, and the parameters."""
    place = choose_device(device)
    network = SpeechNetwork(recipe, vocabulary).to(place).train()
    teacher = teacher_of(recipe, vocabulary, place)
    spoken = Spoken.of(vocabulary, place) if vocabulary.phones else None
    objective = Objective(recipe, place, network.features, teacher=teacher, spoken=spoken)
    learner = from_features(network, recipe)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    batch = random_batch(recipe, len(vocabulary), seconds)
    times = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        sums = objective.sums(learner, batch, number)
        loss = sums.over(sums.labels, sums.frames, recipe.training)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]), parameters(network)


def main() -> None:
    """Measure, and print what the whole training would take."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("recipe", type=Path)
    add("--utterances", type=natural, required=True, help="to train on")
    add("--seconds", type=positive, required=True, help="of each of them, on average")
    add("--tokens", type=int, default=30, help="of the vocabulary (default: 30)")
    add("--rounds", type=natural, default=5, help="steps to take the median of (default: 5)")
    add("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.tokens < 2:
        parser.error("--tokens: 2 or more goes here")
    with one_line_errors():
        recipe = settings_of_base(read_recipe(arguments.recipe))
        vocabulary = tokens_of(recipe, arguments.tokens)
        step, size = step_seconds(
            recipe, vocabulary, arguments.seconds, arguments.rounds, arguments.device
        )
    steps = -(-arguments.utterances // recipe.training.batch)
    epochs = recipe.training.epochs
    hours = step * steps / 3600
    print(
        f"{arguments.recipe}: {size:,} parameters; "
        f"batches of {recipe.training.batch}, {step:.2f} s a step on {torch.get_num_threads()} "
        f"threads ({arguments.device}); {steps:,} steps and {hours:.2f} h an epoch, "
        f"{epochs * hours:.1f} h for {epochs} epochs"
    )


if __name__ == "__main__":
    main()
