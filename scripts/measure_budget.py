"""Measure what a recipe's training costs on this machine before its corpus is there.

    python scripts/measure_budget.py RECIPE --utterances 28539 --seconds 12.7

Takes whole training steps (forward, loss, backward, optimiser) of the recipe's network on random
frames of utterances as long as the corpus' mean, and multiplies. What is left out: reading and
augmentation, which training does beside the steps (an epoch takes 1.15 times the bare steps,
`bench_train.py`), the first epoch's features, and validation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from command_line import one_line_errors

from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.training.encoder import SpeechNetwork, choose_device, parameters
from speechseq.training.loss import loss_sums, two_view_sums

LABELS_A_SECOND = 14
"""Characters of read English."""


def step_seconds(recipe: Recipe, tokens: int, seconds: float, rounds: int, device: str) -> float:
    """Return the median time of a step on a batch of utterances of so many seconds."""
    place = choose_device(device)
    network = SpeechNetwork(recipe, tokens).to(place).train()
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    batch, views = recipe.training.batch, 2 if recipe.training.consistency else 1
    frames = recipe.features.frames(round(seconds * recipe.features.rate))
    lengths = torch.full((views * batch,), frames, device=place)
    features = torch.randn(views * batch, frames, network.features.dims, device=place)
    classes = recipe.model.head == "classify"
    count = 1 if classes else max(round(LABELS_A_SECOND * seconds), 1)
    labels = torch.randint(1 - classes, tokens, (batch * count,), device=place)
    label_lengths = torch.full((batch,), count, device=place)
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        log_probs, sizes = network.from_features(features, lengths)
        measure = two_view_sums if views == 2 else loss_sums
        sums = measure(log_probs, sizes, labels, label_lengths)
        loss = sums.over(sums.labels, sums.frames, recipe.training)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Measure, and print what the whole training would take."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("recipe", type=Path)
    add("--utterances", type=int, required=True, help="to train on")
    add("--seconds", type=float, required=True, help="of each of them, on average")
    add("--tokens", type=int, default=30, help="of the vocabulary (default: 30)")
    add("--rounds", type=int, default=5, help="steps to take the median of (default: 5)")
    add("--device", default="cpu")
    arguments = parser.parse_args()
    if min(arguments.utterances, arguments.tokens, arguments.rounds) < 1 or arguments.seconds <= 0:
        parser.error("--utterances, --seconds, --tokens and --rounds are more than 0")
    with one_line_errors():
        recipe = read_recipe(arguments.recipe)
        step = step_seconds(
            recipe, arguments.tokens, arguments.seconds, arguments.rounds, arguments.device
        )
        network = SpeechNetwork(recipe, arguments.tokens)
    steps = -(-arguments.utterances // recipe.training.batch)
    epochs = recipe.training.epochs
    hours = step * steps / 3600
    print(
        f"{arguments.recipe}: {parameters(network):,} parameters; "
        f"batches of {recipe.training.batch}, {step:.2f} s a step on {torch.get_num_threads()} "
        f"threads ({arguments.device}); {steps:,} steps and {hours:.2f} h an epoch, "
        f"{epochs * hours:.1f} h for {epochs} epochs"
    )


if __name__ == "__main__":
    main()
