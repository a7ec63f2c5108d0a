"""Phones beside classes: how words sound, what that costs, and what it says of the classes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objective import CPU, batch
from test_parity import made

from speechseq.errors import DataError, UsageError
from speechseq.model_file import read_model
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import Vocabulary
from speechseq.training.base import start_from
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.export import TOLERANCE, export_network
from speechseq.training.objective import Objective, from_features
from speechseq.training.phones import LEAST_EVIDENCE, Phones, Spoken
from speechseq.training.pronunciations import phones_of, read_pronunciations

TOKENS = ("_silence_", "_unknown_", "no", "papa", "up")
VOCABULARY = Vocabulary(
    "classes",
    TOKENS,
    apart=("_unknown_:cup", "_unknown_:arabic no"),
    phones=("", None, "nO", "pɑpɑ", "ʌp", "kʌp", None),
)
WEIGHT = 0.3


def recipe(**model: object) -> Recipe:
    tree = {
        "data": {"tokens": "classes", "pronunciations": "/of/mine/phones.txt"},
        "features": {"rate": 8000, "mels": 8, "low_hz": 60},
        "model": {"head": "classify", "hidden": 6, "layers": 1, "phones": WEIGHT, **model},
        "training": {"auxiliary": 0.5},
    }
    return recipe_from_dict(tree, "test")


def phones(seed: int = 0) -> Phones:
    torch.manual_seed(seed)
    return Phones(4, VOCABULARY, WEIGHT)


def spelt(path: tuple[int, ...]) -> tuple[int, ...]:
    """What a path of one sound or blank a frame spells."""
    return tuple(sound for sound, _ in itertools.groupby(path) if sound)


# ---- evidence ----


def test_evidence_is_the_sum_over_all_alignments() -> None:
    heard = phones()
    log_probs = heard(torch.randn(2, 5, 4)).detach()
    lengths = torch.tensor([5, 3])
    found = heard.evidence(log_probs, lengths)
    sounds = range(log_probs.shape[2])
    for row, size in enumerate(lengths.tolist()):
        for token in (2, 4):
            paths = [
                log_probs[row, range(size), path].sum()
                for path in itertools.product(sounds, repeat=size)
                if spelt(path) == VOCABULARY.sounds_of[token]
            ]
            expected = WEIGHT * torch.stack(paths).logsumexp(0)
            torch.testing.assert_close(found[row, token], expected, rtol=1e-4, atol=1e-4)
    assert found[:, :2].eq(0).all(), "of silence and unknown nothing is said"
    assert found[1, 3] == WEIGHT * LEAST_EVIDENCE, "four sounds do not go into three frames"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 1000))
def test_evidence_is_ctcs_and_padding_changes_nothing(sizes: list[int], seed: int) -> None:
    heard, lengths = phones(seed), torch.tensor(sizes)
    log_probs = heard(torch.randn(len(sizes), max(sizes) + 3, 4)).detach()
    found = heard.evidence(log_probs, lengths)
    for row, size in enumerate(sizes):
        for token in (2, 3, 4):
            sounds = VOCABULARY.sounds_of[token]
            assert sounds is not None
            loss = torch.nn.functional.ctc_loss(
                log_probs[row, :size, None],
                torch.tensor([sounds]),
                [size],
                [len(sounds)],
                reduction="sum",
            )
            expected = WEIGHT * max(-loss.item(), LEAST_EVIDENCE)
            assert found[row, token].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_class_whose_sounds_were_not_said_loses() -> None:
    network = SpeechNetwork(recipe(), VOCABULARY).eval()
    frames, lengths = torch.randn(3, 20, 8), torch.tensor([20, 12, 7])
    plain = network.to_learn_from(frames, lengths)
    assert plain.sounds is not None
    evidence = network.phones.evidence(*plain.sounds)  # type: ignore[union-attr]
    found, sizes = network.from_features(frames, lengths)
    torch.testing.assert_close(
        found[:, 0], (plain.log_probs[:, 0] + evidence).log_softmax(1), rtol=1e-4, atol=1e-5
    )
    assert sizes.tolist() == [1, 1, 1]


@pytest.mark.parametrize("model", [{}, {"pooling": "attention", "bidirectional": False}])
def test_the_graph_is_the_network(tmp_path: Path, model: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = SpeechNetwork(recipe(**model), VOCABULARY).eval()
    with torch.no_grad():
        network.phones.output.weight.mul_(30)  # type: ignore[union-attr]
    path = tmp_path / "model.onnx"
    found = export_network(network, recipe(**model), VOCABULARY, path, card={})
    assert found.largest_difference < TOLERANCE and found.different_texts == 0
    assert read_model(path).recipe.data.pronunciations == "phones.txt", "no place on a disk"


# ---- what it costs ----


def test_the_second_task_is_ctc_over_the_phones_that_are_known() -> None:
    torch.manual_seed(0)
    network = SpeechNetwork(recipe(), VOCABULARY).eval()
    clips = batch()
    labels = torch.tensor([5, 6, 4])  # cup; arabic no, whose sounds are not known; up
    clips.labels.copy_(labels)
    objective = Objective(recipe(), CPU, network.features, spoken=Spoken.of(VOCABULARY, CPU))
    sums = objective.sums(from_features(network, recipe()), clips, 0)
    features = network.features.finish(clips.log_mels, clips.lengths)
    learnt = network.to_learn_from(features, clips.lengths)
    told = torch.tensor([1, 1, 4])
    expected = -learnt.log_probs[range(3), 0, told].sum()
    torch.testing.assert_close(sums.true, expected)
    assert learnt.sounds is not None
    missed = 0.0
    for row, label in ((0, 5), (2, 4)):
        sounds = VOCABULARY.sounds_of[label]
        assert sounds is not None
        size = clips.lengths[row]
        missed += torch.nn.functional.ctc_loss(
            learnt.sounds[0][row, :size, None],
            torch.tensor([sounds]),
            [size],
            [len(sounds)],
            reduction="sum",
        ) / len(sounds)
    torch.testing.assert_close(sums.missed, missed)


def test_a_batch_of_no_known_sounds_costs_nothing_and_still_has_a_gradient() -> None:
    spoken = Spoken.of(VOCABULARY, CPU)
    log_probs = torch.randn(2, 4, 6, requires_grad=True)
    loss = spoken.loss(log_probs, torch.tensor([4, 3]), torch.tensor([6]))
    loss.backward()
    assert loss == 0 and log_probs.grad is not None


def test_a_base_gives_its_sounds_only_where_they_are_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, settled = tmp_path / "base.onnx", recipe()
    theirs = SpeechNetwork(settled, VOCABULARY).eval()
    export_network(theirs, settled, VOCABULARY, base, card={})
    tree = settled.to_dict()
    tree["training"]["base"] = str(base)
    other = Vocabulary("classes", TOKENS, phones=("", None, "no", "papa", "up"))
    for vocabulary, same in ((VOCABULARY, True), (other, False)):
        network, notes = SpeechNetwork(settled, vocabulary), []
        start_from(network, recipe_from_dict(tree, "test"), vocabulary, notes.append)
        weights = (net.state_dict()["phones.output.weight"] for net in (network, theirs))
        one, two = weights
        assert (one.shape == two.shape and bool(np.allclose(one, two, atol=1e-6))) == same


def test_without_phones_nothing_is_beside_the_classes() -> None:
    network, _, _ = made({"head": "classify"}, {})
    assert network.phones is None


# ---- the file ----


def test_pronunciations_are_read_in_the_order_of_the_words(tmp_path: Path) -> None:
    path = tmp_path / "phones.txt"
    path.write_text("up ʌp\n\nice cream Iskɹim\n", encoding="utf-8")
    assert read_pronunciations(path) == {"up": "ʌp", "ice cream": "Iskɹim"}
    words = ["_silence_", "_unknown_", "up", "down"]
    assert phones_of(path, words) == ("", None, "ʌp", None)


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (b"up\n", ["up"], "1: 'up' is not a word and its phones; write both"),
        (b"up p\n", ["down"], "has none of the 1 words; name the words' own file"),
    ],
)
def test_what_is_no_file_of_pronunciations(
    tmp_path: Path, content: bytes, words: list[str], says: str
) -> None:
    path = tmp_path / "phones.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        phones_of(path, words)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "phones.txt"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.pronunciations: .* cannot be read"):
        read_pronunciations(path)
