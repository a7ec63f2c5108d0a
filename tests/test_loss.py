"""The losses against sums over paths and against PyTorch."""

from __future__ import annotations

import math

import pytest
import torch

from speechseq.training.loss import loss_of


def test_the_ctc_loss_ignores_padding_and_equals_the_sum_over_paths() -> None:
    log_probs = torch.log_softmax(torch.randn(1, 3, 3, generator=torch.manual_seed(0)), dim=2)
    # Paths of three frames that spell "1": 1__ _1_ __1 11_ _11 111
    p = log_probs[0].exp().tolist()
    paths = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)]
    expected = -math.log(sum(p[0][a] * p[1][b] * p[2][c] for a, b, c in paths))
    padded = torch.cat([log_probs, torch.full((1, 2, 3), -5.0)], dim=1)
    one = torch.tensor([1])
    found = loss_of(padded, torch.tensor([3]), one, one, 0.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    smoothed = loss_of(padded, torch.tensor([3]), one, one, 0.1)
    even = -log_probs.mean().item()
    assert smoothed.item() == pytest.approx(0.9 * found.item() + 0.1 * even, rel=1e-5)


def test_the_class_loss_equals_pytorchs_label_smoothing() -> None:
    scores = torch.randn(4, 5, generator=torch.manual_seed(0))
    labels = torch.tensor([0, 1, 2, 4])
    expected = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.1)
    log_probs = scores.log_softmax(1).unsqueeze(1)
    ones = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(loss_of(log_probs, ones, labels, ones, 0.1), expected)
