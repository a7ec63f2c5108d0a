"""Forced alignment: against every path on tiny cases, and against torchaudio."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.alignment import align, frames_needed
from speechseq.errors import DataError
from speechseq.tokens import BLANK

labels_of = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def distribution(seed: int, frames: int, tokens: int = 4) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(frames, tokens)) * 2
    return raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))


def spell(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def spans(path: list[int]) -> list[tuple[int, int]]:
    found = []
    frame = 0
    for token, group in itertools.groupby(path):
        size = len(list(group))
        if token != BLANK:
            found.append((frame, frame + size))
        frame += size
    return found


@pytest.mark.parametrize(
    ("labels", "needed"), [([], 0), ([1], 1), ([1, 2], 2), ([1, 1], 3), ([2, 2, 2, 1], 6)]
)
def test_frames_needed(labels: list[int], needed: int) -> None:
    assert frames_needed(labels) == needed


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 2), max_size=3))
def test_frames_needed_is_the_shortest_path_that_spells_it(labels: list[int]) -> None:
    sizes = (
        size
        for size in range(7)
        for path in itertools.product(range(3), repeat=size)
        if spell(path) == labels
    )
    assert frames_needed(labels) == next(sizes)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32), st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(0, 3)
)
def test_align_finds_the_best_of_every_path(seed: int, labels: list[int], spare: int) -> None:
    frames = frames_needed(labels) + spare
    log_probs = distribution(seed, frames, tokens=3)
    candidates = [p for p in itertools.product(range(3), repeat=frames) if spell(p) == labels]
    best = max(candidates, key=lambda path: log_probs[np.arange(frames), list(path)].sum())
    assert align(log_probs, labels) == spans(list(best))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), labels_of, st.integers(0, 30))
def test_align_agrees_with_torchaudio(seed: int, labels: list[int], spare: int) -> None:
    frames = frames_needed(labels) + spare
    log_probs = distribution(seed, frames)
    path, _ = torchaudio.functional.forced_align(
        torch.from_numpy(log_probs[None]), torch.tensor([labels], dtype=torch.int32), blank=BLANK
    )
    assert align(log_probs, labels) == spans(path[0].tolist())


@settings(deadline=None)
@given(st.integers(0, 2**32), labels_of, st.integers(0, 9))
def test_spans_are_in_order_and_apart(seed: int, labels: list[int], spare: int) -> None:
    frames = frames_needed(labels) + spare
    found = align(distribution(seed, frames), labels)
    edges = [edge for span in found for edge in span]
    assert len(found) == len(labels)
    assert edges == sorted(edges)
    assert all(start < end for start, end in found)
    assert edges[0] >= 0
    assert edges[-1] <= frames
    for number in range(1, len(labels)):
        apart = found[number][0] - found[number - 1][1]
        assert apart >= (labels[number] == labels[number - 1])


def test_a_certain_path() -> None:
    path = [0, 2, 2, 0, 2, 1, 1, 0]
    log_probs = np.log(np.eye(3)[path] * 0.97 + 0.01).astype(np.float32)
    assert align(log_probs, [2, 2, 1]) == [(1, 3), (4, 5), (5, 7)]


def test_nothing_to_align() -> None:
    assert align(distribution(0, 3), []) == []
    assert align(np.zeros((0, 3)), []) == []


@pytest.mark.parametrize(
    ("frames", "labels", "needed"), [(0, [1], 1), (2, [1, 2, 3], 3), (2, [1, 1], 3)]
)
def test_too_few_frames(frames: int, labels: list[int], needed: int) -> None:
    says = f"{frames} frames cannot spell {len(labels)} labels, which need {needed};"
    with pytest.raises(DataError, match=says):
        align(distribution(0, frames), labels)


def test_labels_of_probability_0() -> None:
    log_probs = np.array([[0.0, -np.inf]] * 4)
    with pytest.raises(DataError, match="probability 0"):
        align(log_probs, [1])


def test_one_impossible_frame_is_gone_around() -> None:
    half = np.log(0.5)
    log_probs = np.array([[half, half], [0.0, -np.inf], [half, half]])
    assert align(log_probs, [1, 1]) == [(0, 1), (2, 3)]
