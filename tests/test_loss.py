"""The losses against sums over paths and against PyTorch."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from speechseq.recipe import TrainingSettings
from speechseq.training.loss import adjusted, loss_of, loss_sums, two_view_sums

SMOOTHED = TrainingSettings(label_smoothing=0.1)

LENGTHS = {"sequences": torch.tensor([6, 3, 5]), "classes": torch.ones(3, dtype=torch.long)}
LABELS = {
    "sequences": (torch.tensor([1, 2, 3, 1]), torch.tensor([2, 1, 1])),
    "classes": (torch.tensor([0, 4, 2]), torch.ones(3, dtype=torch.long)),
}


def test_the_ctc_loss_ignores_padding_and_equals_the_sum_over_paths() -> None:
    log_probs = torch.log_softmax(torch.randn(1, 3, 3, generator=torch.manual_seed(0)), dim=2)
    # Paths of three frames that spell "1": 1__ _1_ __1 11_ _11 111
    p = log_probs[0].exp().tolist()
    paths = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)]
    expected = -math.log(sum(p[0][a] * p[1][b] * p[2][c] for a, b, c in paths))
    padded = torch.cat([log_probs, torch.full((1, 2, 3), -5.0)], dim=1)
    one = torch.tensor([1])
    found = loss_of(padded, torch.tensor([3]), one, one)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    smoothed = loss_of(padded, torch.tensor([3]), one, one, SMOOTHED)
    even = -log_probs.mean().item()
    assert smoothed.item() == pytest.approx(0.9 * found.item() + 0.1 * even, rel=1e-5)


def test_the_class_loss_equals_pytorchs_label_smoothing() -> None:
    scores = torch.randn(4, 5, generator=torch.manual_seed(0))
    labels = torch.tensor([0, 1, 2, 4])
    expected = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.1)
    log_probs = scores.log_softmax(1).unsqueeze(1)
    ones = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(loss_of(log_probs, ones, labels, ones, SMOOTHED), expected)


def scores(kind: str, views: int) -> Tensor:
    """Log-probabilities (views · 3, frames, 5)."""
    frames = int(LENGTHS[kind].max())
    made = torch.randn(3 * views, frames, 5, generator=torch.manual_seed(0))
    return made.log_softmax(2)


@pytest.mark.parametrize("kind", LENGTHS)
def test_two_equal_views_are_one(kind: str) -> None:
    log_probs = scores(kind, 1)
    one = loss_sums(log_probs, LENGTHS[kind], *LABELS[kind])
    both = two_view_sums(log_probs.repeat(2, 1, 1), LENGTHS[kind].repeat(2), *LABELS[kind])
    assert both.apart == 0
    for name in ("true", "even", "labels", "frames"):
        found = torch.as_tensor(getattr(both, name), dtype=torch.float32)
        torch.testing.assert_close(found, getattr(one, name).float())
    losses = [sums.over(sums.labels, sums.frames, SMOOTHED) for sums in (both, one)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_loss_of_two_views_is_the_mean_of_both(kind: str) -> None:
    log_probs = scores(kind, 2)
    both = two_view_sums(log_probs, LENGTHS[kind].repeat(2), *LABELS[kind])
    views = [loss_sums(view, LENGTHS[kind], *LABELS[kind]) for view in log_probs.chunk(2)]
    torch.testing.assert_close(both.true, (views[0].true + views[1].true) / 2)
    torch.testing.assert_close(both.even, (views[0].even + views[1].even) / 2)


@pytest.mark.parametrize("kind", LENGTHS)
def test_views_are_apart_by_the_symmetric_divergence_of_their_real_frames(kind: str) -> None:
    log_probs = scores(kind, 2)
    expected = 0.0
    for one, other, size in zip(*log_probs.chunk(2), LENGTHS[kind].tolist(), strict=True):
        pairs = ((one[:size], other[:size]), (other[:size], one[:size]))
        for view, target in pairs:
            expected += kl_div(view, target, log_target=True, reduction="sum").item() / 2
    found = two_view_sums(log_probs, LENGTHS[kind].repeat(2), *LABELS[kind])
    assert found.apart.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 1
    weighty = dataclasses.replace(SMOOTHED, consistency=0.5)
    one, other = (found.over(found.labels, found.frames, s) for s in (SMOOTHED, weighty))
    assert (other - one).item() == pytest.approx(0.5 * expected / found.labels.item(), rel=1e-4)


def test_padding_does_not_set_views_apart() -> None:
    log_probs, lengths = scores("sequences", 2), LENGTHS["sequences"].repeat(2)
    other = log_probs.clone()
    for row, size in enumerate(lengths.tolist()):
        other[row, size:] = torch.randn(6 - size, 5).log_softmax(1)
    assert not other.equal(log_probs)
    one, again = (two_view_sums(x, lengths, *LABELS["sequences"]) for x in (log_probs, other))
    assert one.apart.equal(again.apart)


def test_no_gradient_reaches_what_a_view_is_drawn_towards() -> None:
    """d/dv of exp(t) (t - v) / 2 is -exp(t) / 2, and nothing comes by way of t."""
    log_probs = scores("sequences", 2).requires_grad_()
    lengths = LENGTHS["sequences"].repeat(2)
    two_view_sums(log_probs, lengths, *LABELS["sequences"]).apart.backward()
    one, other = log_probs.detach().chunk(2)
    inside = (torch.arange(6) < lengths.unsqueeze(1)).unsqueeze(2)
    expected = -torch.cat([other, one]).exp() / 2 * inside
    torch.testing.assert_close(log_probs.grad, expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_no_text_weighs_as_one_label(batch: int) -> None:
    """All frames are to be blank; a batch of nothing else has a loss like others."""
    log_probs = scores("sequences", 1)[:batch]
    lengths, none = LENGTHS["sequences"][:batch], torch.zeros(batch, dtype=torch.long)
    sums = loss_sums(log_probs, lengths, torch.tensor([], dtype=torch.long), none)
    blanks = [-row[:size, 0].sum() for row, size in zip(log_probs, lengths, strict=True)]
    torch.testing.assert_close(sums.true, torch.stack(blanks).sum())
    assert sums.labels == batch
    assert sums.over(sums.labels, sums.frames, TrainingSettings()) == sums.true / batch


def test_adjusted_log_probabilities_are_bayes_posteriors_for_the_shares_of_training() -> None:
    even = torch.tensor([[[0.2, 0.5, 0.3]]])
    shares = torch.tensor([0.7, 0.1, 0.2])
    bent = even * shares / (even * shares).sum()
    torch.testing.assert_close(adjusted(even.log(), shares, 1.0).exp(), bent)
    torch.testing.assert_close(adjusted(even.log(), shares, 0.0).exp(), even)


def test_a_token_that_training_never_holds_is_not_pushed_out_of_sight() -> None:
    even = torch.tensor([[[0.2, 0.5, 0.3]]])
    found = adjusted(even.log(), torch.tensor([0.0, 0.5, 0.5]), 1.0)
    assert torch.isfinite(found).all()
