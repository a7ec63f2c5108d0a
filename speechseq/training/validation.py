"""Validation: what the averaged weights make of a split, by the same decoder that ships."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechseq.alignment import frames_needed
from speechseq.decoding import decoder_for
from speechseq.metrics import accuracy, total_rate, word_errors
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary
from speechseq.training.data import validation_batches
from speechseq.training.distributed import World
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.loss import loss_sums
from speechseq.training.preflight import Split

BATCH = 64
"""Utterances validated at a time."""


@dataclass(frozen=True)
class Validation:
    """Scores of a split; `error` is what to choose by: WER, or 1 - accuracy.

    `loss` is the mean over its labels, as in training; `hypotheses` are its utterances' texts,
    `posteriors` (frames, tokens) those of one of them.
    """

    loss: float
    accuracy: float
    error: float
    hypotheses: Sequence[str]
    posteriors: np.ndarray

    def row(self) -> dict[str, float]:
        """Return the scores as columns of the metrics."""
        return {
            "validation_loss": self.loss,
            "validation_accuracy": self.accuracy,
            "validation_error": self.error,
        }


def validate(
    network: SpeechNetwork,
    split: Split,
    vocabulary: Vocabulary,
    *,
    recipe: Recipe,
    device: torch.device,
    world: World,
) -> Validation:
    """Score a split; every process of `world` takes its share of the batches."""
    network.eval()
    decode = decoder_for(vocabulary, recipe.decoding.decoder)
    found: list[tuple[int, str]] = []
    losses: list[tuple[float, float]] = []
    posteriors = np.zeros((0, len(vocabulary)), np.float32)
    batches = validation_batches(split.log_mels, split.labels, BATCH)
    with torch.inference_mode():
        for number, (utterances, batch) in enumerate(batches):
            if number % world.size != world.rank:
                continue
            lengths = batch.lengths.to(device)
            frames = network.features.finish(batch.log_mels.to(device), lengths)
            log_probs, sizes = network.from_features(frames, lengths)
            losses.append(_loss(log_probs, sizes, [split.labels[n] for n in utterances]))
            rows = [
                row[:size]
                for row, size in zip(log_probs.cpu().numpy(), sizes.tolist(), strict=True)
            ]
            texts = [vocabulary.decode(decode(row).tokens) for row in rows]
            found += zip(utterances.tolist(), texts, strict=True)
            posteriors = posteriors if len(posteriors) else np.exp(rows[-1])
    found = sorted(world.gather(found))
    hypotheses = [text for _, text in found]
    right = accuracy(split.references, hypotheses)
    error = 1 - right
    if vocabulary.is_sequence:
        error = total_rate(word_errors(split.references, hypotheses))
    # Exact sums: in whatever order processes bring their parts.
    loss, count = (math.fsum(part) for part in zip(*world.gather(losses), strict=True))
    return Validation(loss / max(count, 1), right, error, hypotheses, posteriors)


def _loss(log_probs: Tensor, sizes: Tensor, labels: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return the summed loss of the texts that their frames can spell, and their labels' number.

    One that cannot would make the loss infinite, for all epochs alike.
    """
    rows = [
        row
        for row, (label, size) in enumerate(zip(labels, sizes.tolist(), strict=True))
        if frames_needed(label) <= size
    ]
    if not rows:
        return 0.0, 0.0
    flat = torch.tensor([number for row in rows for number in labels[row]], dtype=torch.int64)
    counts = torch.tensor([len(labels[row]) for row in rows])
    device = log_probs.device
    sums = loss_sums(log_probs[rows], sizes[rows], flat.to(device), counts.to(device))
    return float(sums.true), float(sums.labels)
