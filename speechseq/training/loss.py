"""The losses: CTC for sequences, cross-entropy for classes, both with label smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechseq.training.features import within


@dataclass(frozen=True)
class Sums:
    """A batch's loss before it is divided: over labels, and, for smoothing, over frames.

    `apart` is how much two views of the same utterances differ.
    """

    true: Tensor
    even: Tensor
    labels: Tensor
    frames: Tensor
    apart: Tensor | float = 0.0

    def mean(self, smoothing: float) -> Tensor:
        """Return the mean over this batch's own labels and frames."""
        return self.over(self.labels, self.frames, smoothing)

    def over(
        self, labels: Tensor, frames: Tensor, smoothing: float, consistency: float = 0.0
    ) -> Tensor:
        """Return this batch's part of the mean over so many labels and frames."""
        apart = consistency * self.apart / labels
        return (1 - smoothing) * self.true / labels + smoothing * self.even / frames + apart


def loss_of(
    log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, smoothing: float
) -> Tensor:
    """Return the mean loss of a batch's labels: CTC, or cross-entropy of one class a clip."""
    return loss_sums(log_probs, lengths, labels, label_lengths).mean(smoothing)


def loss_sums(log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Sums:
    """Return a batch's summed loss and what to divide it by.

    Every label weighs the same; a mean over utterances would let short ones outweigh long ones.
    `log_probs` is (batch, frames, tokens); smoothing mixes in the mean log-probability of all
    tokens, as cross-entropy's label smoothing does.

    Source: Graves et al. 2006 (CTC); Szegedy et al. 2016 (label smoothing).
    """
    log_probs = log_probs.float()
    even = -(log_probs.mean(dim=2) * within(lengths, log_probs.shape[1])).sum()
    if log_probs.shape[1] == 1:
        true = nn.functional.nll_loss(log_probs[:, 0], labels, reduction="sum")
    else:
        true = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), labels, lengths, label_lengths, reduction="sum"
        )
    return Sums(true, even, torch.as_tensor(len(labels)), lengths.sum())


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
    inside = within(lengths.chunk(2)[0], one.shape[1]).unsqueeze(2)
    apart = torch.zeros((), device=log_probs.device)
    for view, target in ((one, other.detach()), (other, one.detach())):
        apart = apart + (target.exp() * (target - view) * inside).sum() / 2
    return Sums(both.true / 2, both.even / 2, both.labels / 2, both.frames / 2, apart)
