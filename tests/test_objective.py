"""What a batch costs: mixtures of utterances, the loss on the layer half-way, a second task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import rows

from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recipe_file import read_recipe
from speechseq.training.augment import mix_up, mixed_share
from speechseq.training.data import Batch, collate
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.loop import train
from speechseq.training.loss import Sums, blended, divergence, loss_sums, presence_loss
from speechseq.training.objective import Objective, from_features

CPU = torch.device("cpu")
STEP = 7
"""One in which no utterance is its own partner."""


def recipe(head: str = "ctc", layers: int = 2, **sections: dict[str, Any]) -> Recipe:
    tree = {
        "data": {"tokens": "classes" if head == "classify" else "words"},
        "features": {"mels": 8},
        "model": {"head": head, "hidden": 6, "layers": layers, "layer_norm": True},
        **sections,
    }
    return recipe_from_dict(tree, "test")


def batch(sizes: tuple[int, ...] = (9, 14, 12)) -> Batch:
    """Clips of so many frames, of tokens 1, 2, …"""
    rng = np.random.default_rng(0)
    clips = [rng.normal(-3, 1, (size, 8)).astype(np.float32) for size in sizes]
    return collate(clips, [[1 + n] for n in range(len(sizes))], rows=tuple(range(len(sizes))))


def cost(made: Recipe, network: SpeechNetwork, step: int = 0) -> Sums:
    objective = Objective(made, CPU, network.features)
    return objective.sums(from_features(network, made), batch(), step)


@settings(deadline=None)
@given(st.floats(0, 0.5), st.integers(0, 1000), st.integers(1, 6))
def test_a_mixture_holds_two_of_a_batch(share: float, seed: int, count: int) -> None:
    features = torch.randn(count, 5, 3, generator=torch.Generator().manual_seed(seed))
    lengths = torch.arange(count) % 5 + 1
    found = mix_up(features, lengths, share, np.random.default_rng(seed))
    assert sorted(found.partners.tolist()) == list(range(count))
    for row, partner in enumerate(found.partners.tolist()):
        expected = (1 - share) * features[row] + share * features[partner]
        torch.testing.assert_close(found.features[row], expected)
        assert found.lengths[row] == max(lengths[row], lengths[partner])


def test_shares_differ_and_one_of_the_two_stays_the_stronger() -> None:
    shares = {mixed_share(1.0, np.random.default_rng(n)) for n in range(20)}
    assert len(shares) == 20 and min(shares) < 0.15 and 0.35 < max(shares) <= 0.5


def test_what_is_mixed_in_behind_a_short_clip_is_silence() -> None:
    made = recipe("classify", augment={"mixup": 1.0})
    network = SpeechNetwork(made, 5)
    objective = Objective(made, CPU, network.features)
    sent = batch()
    floor = float(np.log(made.features.floor))
    quiet = [np.full((int(size), 8), floor, np.float32) for size in sent.lengths]
    still = collate(quiet, [[1]] * len(quiet), rows=tuple(range(len(quiet))))
    found = objective._heard(network.features, still, STEP)[0]
    torch.testing.assert_close(found, found[:1, :1].expand_as(found))


def test_a_mixture_is_to_be_both_of_its_classes() -> None:
    made = recipe("classify", augment={"mixup": 1.0})
    network = SpeechNetwork(made, 5)
    found = cost(made, network, step=STEP)
    sent = batch()
    objective = Objective(made, CPU, network.features)
    _, _, mixed = objective._heard(network.features, sent, STEP)
    assert mixed
    log_probs, sizes = network.from_features(mixed.features, mixed.lengths)
    own, partners = (
        loss_sums(log_probs, sizes, labels, sent.label_lengths).true
        for labels in (sent.labels, sent.labels[mixed.partners])
    )
    assert own != partners
    torch.testing.assert_close(found.true, (1 - mixed.share) * own + mixed.share * partners)
    assert found.labels == 3
    torch.testing.assert_close(cost(made, network, step=STEP).true, found.true)
    assert cost(made, network, step=STEP + 1).true != found.true


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_middle_is_what_a_network_of_half_the_layers_would_give(layers: int) -> None:
    network = SpeechNetwork(recipe(layers=layers), 5).eval()
    sent = batch()
    found = network.to_learn_from(sent.log_mels, sent.lengths, middle=True)
    whole, same = network.from_features(sent.log_mels, sent.lengths)
    assert found.log_probs.equal(whole) and found.lengths.equal(same) and found.presence is None
    network.encoder.layers = network.encoder.layers[: layers // 2]
    half, _ = network.from_features(sent.log_mels, sent.lengths)
    assert found.middle is not None
    assert found.middle.equal(half) and not found.middle.equal(whole)


@pytest.mark.parametrize("views", [{}, {"consistency": 0.5}])
def test_part_of_the_loss_falls_on_the_layer_half_way(views: dict[str, float]) -> None:
    plain = recipe(training=views)
    network = SpeechNetwork(plain, 5)
    losses = [
        cost(recipe(training={"intermediate": share, **views}), network).true
        for share in (0.25, 0.5)
    ]
    whole = cost(plain, network).true
    assert losses[0] != whole
    torch.testing.assert_close(losses[1] - whole, 2 * (losses[0] - whole))


def test_what_is_in_the_text_is_told_from_the_mean_of_its_own_frames() -> None:
    network = SpeechNetwork(recipe(training={"auxiliary": 0.5}), 5).eval()
    sent = batch()
    states, _, sizes = network.encoder(sent.log_mels, sent.lengths)
    found = network.to_learn_from(sent.log_mels, sent.lengths).presence
    assert found is not None and network.auxiliary is not None
    for row, size in enumerate(sizes.tolist()):
        expected = network.auxiliary(states[row, :size].mean(0))
        torch.testing.assert_close(found[row], expected)


def test_tokens_that_are_in_the_text_are_to_be_told() -> None:
    labels, lengths = torch.tensor([1, 1, 3, 2]), torch.tensor([3, 0, 1])
    there = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]])
    right = 40.0 * (2 * there - 1)
    assert presence_loss(right, labels, lengths) < 1e-6
    assert presence_loss(torch.cat([right, right]), labels, lengths) < 1e-6
    wrong = right.clone()
    wrong[1, 1] = 40.0
    torch.testing.assert_close(presence_loss(wrong, labels, lengths), torch.tensor(40.0))


@pytest.mark.parametrize("views", [{}, {"consistency": 0.5}])
def test_the_second_task_is_added_to_the_loss(views: dict[str, float]) -> None:
    made = recipe(training={"auxiliary": 0.5, **views})
    network = SpeechNetwork(made, 5)
    found = cost(made, network)
    twice = cost(recipe(training={"auxiliary": 1.0, **views}), network)
    assert found.missed > 0 and found.true == twice.true
    one, two = (
        sums.over(sums.labels, sums.frames, settings.training)
        for sums, settings in ((found, made), (twice, recipe(training={"auxiliary": 1.0, **views})))
    )
    torch.testing.assert_close(two - one, 0.5 * found.missed / found.labels)


def test_a_batch_without_any_label_can_be_learnt_from() -> None:
    """Noise alone comes in batches of its own: they are sorted by length."""
    made = recipe(training={"auxiliary": 0.5})
    network = SpeechNetwork(made, 5)
    objective = Objective(made, CPU, network.features)
    quiet = collate([np.zeros((9, 8), np.float32)] * 2, [[], []], rows=(0, 1))
    assert quiet.labels.dtype == torch.int64
    assert torch.isfinite(objective.sums(from_features(network, made), quiet, 0).missed)


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_teacher_hears_through_its_own_mean_and_deviation(mixup: float) -> None:
    made = recipe("classify", augment={"mixup": mixup})
    network, teacher = SpeechNetwork(made, 5), SpeechNetwork(made, 5).eval()
    teacher.load_state_dict(network.state_dict())
    objective = Objective(made, CPU, network.features, teacher=teacher)
    network.eval()
    same = objective.sums(from_features(network, made), batch(), STEP).untaught
    assert same is not None
    torch.testing.assert_close(same, torch.tensor(0.0))
    network.features.cmvn.mean -= 5.0
    other = objective.sums(from_features(network, made), batch(), STEP).untaught
    assert other is not None and other > 1e-4
    heard, lengths, _ = objective._heard(teacher.features, batch(), STEP)
    expected, sizes = teacher.from_features(heard, lengths)
    own, _ = network.from_features(*objective._heard(network.features, batch(), STEP)[:2])
    torch.testing.assert_close(other, divergence(expected, own, sizes))


def test_blended_sums_keep_what_is_no_loss() -> None:
    one, other = (
        Sums(*map(torch.tensor, values)) for values in ((4.0, 1.0, 2, 3), (8.0, 9.0, 5, 6))
    )
    found = blended(one, other, 0.25)
    assert found.true == 5.0 and (found.even, found.labels, found.frames) == (1.0, 2, 3)


@pytest.mark.parametrize(
    ("tokens", "setting"),
    [
        ("classes", "augment.mixup=0.5"),
        ("words", "training.intermediate=0.3"),
        ("words", "training.auxiliary=0.3"),
    ],
)
def test_both_are_learnt_from(tokens: str, setting: str, write_recipe, tmp_path: Path) -> None:
    changes = ["model.layers=2", "training.epochs=25", "training.batch=4", setting]
    run = tmp_path / "run"
    train(read_recipe(write_recipe(tokens), changes), run, device="cpu")
    assert rows(run)[-1]["validation_error"] == 0
    assert rows(run)[-1]["loss"] < rows(run)[0]["loss"] * 0.7
