"""The losses: CTC for sequences, cross-entropy for classes, both with label smoothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from speechseq.recipe import TrainingSettings
from speechseq.training.features import within

PLAIN = TrainingSettings()
"""Settings that leave a loss as it is: no smoothing."""


@dataclass(frozen=True)
class Sums:
    """A batch's loss before it is divided: over labels, and, for smoothing, over frames.

    `apart` is how much two views of the same utterances differ, `missed` how wrong the second task
    is beside CTC, `untaught` how much what a teacher makes of them differs.
    """

    true: Tensor
    even: Tensor
    labels: Tensor
    frames: Tensor
    apart: Tensor | float = 0.0
    missed: Tensor | float = 0.0
    untaught: Tensor | None = None

    def over(self, labels: Tensor, frames: Tensor, settings: TrainingSettings) -> Tensor:
        """Return this batch's part of the mean over so many labels and frames."""
        smoothing = settings.label_smoothing
        loss = (1 - smoothing) * self.true / labels + smoothing * self.even / frames
        if self.untaught is not None:
            share = settings.teacher_weight
            loss = (1 - share) * loss + share * self.untaught / labels
        beside = settings.consistency * self.apart + settings.auxiliary * self.missed
        return loss + beside / labels


def loss_of(
    log_probs: Tensor,
    lengths: Tensor,
    labels: Tensor,
    label_lengths: Tensor,
    settings: TrainingSettings = PLAIN,
) -> Tensor:
    """Return the mean loss of a batch's labels: CTC, or cross-entropy of one class a clip."""
    sums = loss_sums(log_probs, lengths, labels, label_lengths)
    return sums.over(sums.labels, sums.frames, settings)


def loss_sums(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Sums:
    """Return a batch's summed loss and what to divide it by.

    Every label weighs the same; a mean over utterances would let short ones outweigh long ones.
    No text at all, to be heard in speech of other words, weighs as one label.
    `log_probs` is (batch, frames, tokens); smoothing mixes in the mean log-probability of all
    tokens, as cross-entropy's label smoothing does.

    Source: Graves et al. 2006 (CTC); Szegedy et al. 2016 (label smoothing).
    """
    log_probs = log_probs.float()
    even = -(log_probs.mean(dim=2) * within(lengths, log_probs.shape[1])).sum()
    if log_probs.shape[1] == 1 and len(labels) == len(log_probs):
        # A class each; for CTC one token in one frame is the same.
        true = nn.functional.nll_loss(log_probs[:, 0], labels, reduction="sum")
    else:
        true = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), labels, lengths, label_lengths, reduction="sum"
        )
    return Sums(true, even, weight_of(label_lengths), lengths.sum())


def weight_of(label_lengths: Tensor) -> Tensor:
    """Count a batch's labels; no text at all, where every frame is to be blank, counts as one."""
    return label_lengths.clamp(min=1).sum()


def adjusted(log_probs: Tensor, shares: Tensor, strength: float) -> Tensor:
    """Return log-probabilities (batch, frames, tokens) as the tokens' shares of training bend them.

    A network whose bent log-probabilities are right for training is itself right for classes of
    equal number. Tokens that training never holds keep what they have.

    Source: Menon et al. 2021, Long-tail learning via logit adjustment.
    """
    bent = torch.where(shares > 0, shares, 1.0).log() * strength
    return (log_probs.float() + bent).log_softmax(2)


def two_view_sums(
    log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor
) -> Sums:
    """Return the sums of a batch seen in two views (2 · batch, frames, tokens), first ones first.

    The loss is the mean of both views'. Each view is also drawn towards the other, frame by frame:
    the mean of both Kullback-Leibler divergences, neither's gradient reaching its target.

    Source: Yao et al. 2024, CR-CTC: consistency regularization on CTC; for classes it is
    Liang et al. 2021, R-Drop.
    """
    both = loss_sums(log_probs, lengths, labels.repeat(2), label_lengths.repeat(2))
    one, other = log_probs.float().chunk(2)
    sizes = lengths.chunk(2)[0]
    apart = (divergence(other, one, sizes) + divergence(one, other, sizes)) / 2
    return Sums(both.true / 2, both.even / 2, both.labels / 2, both.frames / 2, apart)


def presence_loss(logits: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Return the summed binary cross-entropy of which tokens are in each text.

    `logits` is (views · batch, tokens), all utterances' first views first; labels stand one text
    behind the other, so many of each.
    """
    there = logits.new_zeros(len(label_lengths), logits.shape[1], dtype=torch.float32)
    rows = torch.arange(len(label_lengths), device=logits.device)
    there[rows.repeat_interleave(label_lengths), labels] = 1.0
    there = there.repeat(len(logits) // len(there), 1)
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), there, reduction="sum")


def blended(one: Sums, other: Sums, share: float) -> Sums:
    """Return sums whose loss is to `share` the other's; all else is one's."""
    return replace(one, true=(1 - share) * one.true + share * other.true)


def divergence(target: Tensor, log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from log-probabilities to a target that stands still.

    Both are (batch, frames, tokens); it is summed over real frames.
    """
    target = target.detach().float()
    inside = within(lengths, log_probs.shape[1]).unsqueeze(2)
    return (target.exp() * (target - log_probs.float()) * inside).sum()
