"""A larger model as teacher: what is learnt from it, and what it must have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_loop import rows

from speechseq.errors import ModelError
from speechseq.recipe import TrainingSettings
from speechseq.recipe_file import read_recipe
from speechseq.tokens import Vocabulary
from speechseq.training.base import teacher_of
from speechseq.training.loop import train
from speechseq.training.loss import divergence, loss_sums
from speechseq.training.run_folder import read_run

CPU = torch.device("cpu")


def log_probs(seed: int, shape: tuple[int, ...] = (2, 4, 3)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.manual_seed(seed)).log_softmax(-1)


def test_the_divergence_is_pytorchs_over_real_frames() -> None:
    target, own, lengths = log_probs(0), log_probs(1), torch.tensor([4, 2])
    pairs = [(own[0], target[0]), (own[1, :2], target[1, :2])]
    expected = sum(
        torch.nn.functional.kl_div(a, b, log_target=True, reduction="sum") for a, b in pairs
    )
    torch.testing.assert_close(divergence(target, own, lengths), expected)
    assert divergence(own, own, lengths) == 0


def test_no_gradient_reaches_the_target() -> None:
    target, own = log_probs(0).requires_grad_(), log_probs(1).requires_grad_()
    divergence(target, own, torch.tensor([4, 2])).backward()
    assert target.grad is None
    assert own.grad is not None


def test_a_teacher_takes_its_share_of_the_loss() -> None:
    one = torch.tensor([1, 1])
    sums = loss_sums(log_probs(1), torch.tensor([4, 2]), torch.tensor([1, 2]), one)
    taught = type(sums)(sums.true, sums.even, sums.labels, sums.frames, untaught=torch.tensor(6.0))
    for share, expected in ((0.0, sums.true / 2), (1.0, torch.tensor(3.0))):
        settings = TrainingSettings(teacher_weight=share)
        torch.testing.assert_close(taught.over(sums.labels, sums.frames, settings), expected)


@pytest.fixture
def teacher(write_recipe, tmp_path: Path) -> Path:
    """A run that has learnt the tones."""
    train(read_recipe(write_recipe(), ["training.epochs=12"]), tmp_path / "teacher", device="cpu")
    return tmp_path / "teacher"


def test_a_pupil_learns_from_its_teacher_alone(teacher: Path, write_recipe, tmp_path: Path) -> None:
    """With all weight on the teacher the texts say nothing, so only it can have taught them."""
    settings = [f"training.teacher={teacher}", "training.teacher_weight=1", "training.epochs=12"]
    settings += ["model.hidden=16", "training.consistency=0.1", "augment.time_masks=1"]
    train(read_recipe(write_recipe(), settings), tmp_path / "pupil", device="cpu")
    errors = [row["validation_error"] for row in rows(tmp_path / "pupil")]
    assert min(errors) < errors[0] / 3
    assert read_run(tmp_path / "pupil")[0].training.teacher == str(teacher)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("features.mels=21", "features"),
        ("model.time_stride=4", "frames a second"),
        ("", "tokens"),
    ],
)
def test_a_teacher_must_hear_and_spell_alike(
    teacher: Path, write_recipe, change: str, what: str
) -> None:
    changes = [f"training.teacher={teacher}", *filter(None, [change])]
    recipe = read_recipe(write_recipe(), changes)
    vocabulary = read_run(teacher)[1] if change else Vocabulary.from_texts("words", ["other"])
    with pytest.raises(ModelError, match=f"has other {what}; set the recipe's alike"):
        teacher_of(recipe, vocabulary, CPU)


def test_a_teacher_never_learns(teacher: Path, write_recipe) -> None:
    recipe = read_recipe(write_recipe(), [f"training.teacher={teacher / 'model.onnx'}"])
    network = teacher_of(recipe, read_run(teacher)[1], CPU)
    assert network is not None
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    assert teacher_of(read_recipe(write_recipe()), read_run(teacher)[1], CPU) is None
