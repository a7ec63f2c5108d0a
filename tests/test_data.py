"""The training set: an epoch holds everything once, and noise is what it should be."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.alignment import frames_needed
from speechseq.manifest import Utterance
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import BLANK_TOKEN, NO_TEXT
from speechseq.training.data import Share, TrainingData, collate, validation_batches
from speechseq.training.feature_cache import LogMels
from speechseq.training.preflight import Split, drop_infeasible, lack_of, space_of, vocabulary_of


def recipe(**sections: object) -> Recipe:
    return recipe_from_dict({"features": {"rate": 8000, "mels": 4}, **sections}, "test")


def log_mels(sizes: Sequence[int], speeds: int = 1) -> LogMels:
    """Clips whose frames all hold 10 * number + speed."""
    lengths = np.array([[size + speed for speed in range(speeds)] for size in sizes])
    flat = lengths.ravel()
    values = np.repeat(
        [10 * number + speed for number in range(len(sizes)) for speed in range(speeds)], flat
    )
    frames = np.repeat(values[:, None], 4, axis=1).astype(np.float32)
    return LogMels(frames, (np.cumsum(flat) - flat).reshape(lengths.shape), lengths)


def training_data(sizes: Sequence[int], made: Recipe, **more: object) -> TrainingData:
    speeds = len(made.augment.speeds)
    labels = [[number + 1] for number in range(len(sizes))]
    utterances = [Utterance(f"{number}.wav", 1.0, "") for number in range(len(sizes))]
    return TrainingData(utterances, log_mels(sizes, speeds), labels, [], made, **more)


def test_noise_alone_stands_among_the_examples_as_no_text() -> None:
    made = recipe(
        training={"batch": 4},
        augment={"noise_alone": 0.25, "noise_probability": 0.5, "join": 2},
    )
    data = dataclasses.replace(
        training_data([9] * 40, made), noises=[np.full((30, 4), -3.0, np.float32)]
    )
    plan = data.epoch(0)
    examples = [example for chunk in plan for example in chunk]
    spoken = [example for example in examples if example]
    assert sorted(n for example in spoken for n, _ in example) == list(range(40))
    assert len(examples) - len(spoken) == round(0.25 * len(spoken)) > 0
    number, chunk = next((n, chunk) for n, chunk in enumerate(plan) if [] in chunk)
    batch = data.batch(chunk, 0, number, range(len(chunk)))
    for row, example in enumerate(chunk):
        assert batch.label_lengths[row] == len(example)
        if not example:
            assert batch.log_mels[row].max() > np.log(made.features.floor)
    assert len(batch.utterances) == sum(map(len, chunk))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_an_epoch_holds_every_utterance_once(
    sizes: list[int], batch: int, joined: int, epoch: int
) -> None:
    made = recipe(training={"batch": batch}, augment={"join": joined, "speeds": [0.9, 1.0]})
    plan = training_data(sizes, made).epoch(epoch)
    examples = [example for chunk in plan for example in chunk]
    assert sorted(n for example in examples for n, _ in example) == list(range(len(sizes)))
    assert all(speed in (0, 1) for example in examples for _, speed in example)
    assert max(map(len, examples)) <= joined
    assert [len(chunk) == batch for chunk in plan].count(False) <= 1
    assert max(map(len, plan)) <= batch


def waste(plan: Sequence[Sequence[Sequence[tuple[int, int]]]], clips: LogMels) -> float:
    """The share of a plan's frames that is padding."""
    real = padded = 0
    for chunk in plan:
        sizes = [sum(int(clips.lengths[pair]) for pair in example) for example in chunk]
        real, padded = real + sum(sizes), padded + max(sizes) * len(sizes)
    return 1 - real / padded


def test_batches_hold_clips_of_like_length() -> None:
    made = recipe(training={"batch": 16})
    sizes = np.random.default_rng(0).integers(20, 400, 320).tolist()
    data = training_data(sizes, made)
    order = np.random.default_rng(1).permutation(320).reshape(-1, 16)
    random = waste([[[(int(n), 0)] for n in chunk] for chunk in order], data.log_mels)
    assert random > 0.3
    assert waste(data.epoch(0), data.log_mels) < random / 3


def test_plans_follow_from_seed_and_epoch() -> None:
    sizes = list(range(10, 50))
    made = recipe(augment={"join": 2, "speeds": [0.9, 1.0]}, training={"batch": 4})
    data = training_data(sizes, made)
    assert data.epoch(3) == training_data(sizes, made).epoch(3)
    assert data.epoch(3) != data.epoch(4)
    other = training_data(sizes, dataclasses.replace(made, seed=1))
    assert data.epoch(3) != other.epoch(3)
    first = [np.mean([len(e) for e in chunk]) for chunk in data.epoch(0)]
    assert first != sorted(first), "batches come in random order, not by length"


def test_splices_make_each_epochs_steps_its_own() -> None:
    made = recipe(
        augment={"splice": 0.5}, training={"batch": 4}, model={"head": "classify"},
        data={"tokens": "classes"},
    )  # fmt: skip
    data = training_data([9] * 40, made, none=[0])
    data = dataclasses.replace(
        data,
        labels=[[1 + number % 2] for number in range(40)],
        utterances=[Utterance(f"{number}.wav", 1.0, "ab"[number % 2]) for number in range(40)],
    )
    found = [len(data.epoch(epoch)) for epoch in range(6)]
    assert len(set(found)) > 1 and data.steps(6) == sum(found)


@pytest.mark.parametrize("overlap", [0.0, 0.05])
def test_strings_have_frames_enough_for_their_text(overlap: float) -> None:
    """Each clip alone has just enough; together they need one more, and have two edges less."""
    made = recipe(
        augment={"join": 3, "join_gap_seconds": 0.02, "join_overlap_seconds": overlap},
        features={"rate": 8000, "mels": 4, "low_hz": 60, "edge_seconds": 0.02},
    )
    data = training_data([6] * 3, made, space=[9])
    data = dataclasses.replace(data, labels=[[1, 1, 2], [2, 3, 3], [4, 4, 5]])
    for number in range(60):
        batch = data.batch([[(0, 0), (1, 0)], [(2, 0), (0, 0), (1, 0)]], 0, number, [0, 1])
        labels = batch.labels.split(batch.label_lengths.tolist())
        frames = made.model.output_frames(batch.lengths).tolist()
        assert all(
            frames_needed(label.tolist()) <= size
            for label, size in zip(labels, frames, strict=True)
        )


@pytest.mark.parametrize("joined", [1, 3])
def test_steps_are_counted_as_they_will_be(joined: int) -> None:
    made = recipe(augment={"join": joined}, training={"batch": 4})
    data = training_data(list(range(10, 51)), made)
    assert data.steps(5) == sum(len(data.epoch(epoch)) for epoch in range(5))


def test_a_batch_can_be_made_again() -> None:
    made = recipe(augment={"join": 3, "gain_db": 6, "shift_seconds": 0.05})
    data = training_data([5, 9, 7, 8], made)
    examples = [[(0, 0), (1, 0)], [(2, 0)]]
    one, again, other = (data.batch(examples, 1, number, [0, 1]) for number in (2, 2, 3))
    assert one.log_mels.equal(again.log_mels)
    assert not one.log_mels.equal(other.log_mels)


@pytest.mark.parametrize("space", [[], [9]])
def test_labels_and_frames_are_joined(space: list[int]) -> None:
    made = recipe(augment={"join": 3, "join_gap_seconds": 0.0, "speeds": [1.0, 1.1]})
    data = training_data([5, 9, 7], made, space=space)
    batch = data.batch([[(2, 1), (0, 0)], [(1, 0)]], 0, 0, [0, 1])
    assert batch.labels.tolist() == [3, *space, 1, 2]
    assert batch.label_lengths.tolist() == [2 + len(space), 1]
    assert batch.lengths.tolist() == [8 + 5, 9]
    assert batch.log_mels.shape == (2, 13, 4)
    assert batch.log_mels[0, :, 0].tolist() == [21.0] * 8 + [0.0] * 5
    assert batch.log_mels[1, :, 0].tolist() == [10.0] * 9 + [0.0] * 4


@settings(deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)
)
def test_processes_and_pieces_share_an_epoch_without_loss(
    utterances: int, batch: int, ranks: int, pieces: int, joined: int
) -> None:
    """The union over all of them is the set, nothing is doubled, and each row stays what it was."""
    made = recipe(training={"batch": batch}, augment={"join": joined, "gain_db": 6})
    data = training_data([5 + number % 7 for number in range(utterances)], made)
    whole = [batch for (batch,) in data.batches(1, 0, Share())]
    shares = [list(data.batches(1, 0, Share(rank, ranks, pieces))) for rank in range(ranks)]
    for step, alone in enumerate(whole):
        parts = [piece for share in shares for piece in share[step]]
        assert len(parts) == ranks * pieces
        assert {len(share[step]) for share in shares} == {pieces}
        real = [piece for piece in parts if piece.weight]
        heard = Counter(u.audio_filepath for piece in real for u in piece.utterances)
        assert heard == Counter(u.audio_filepath for u in alone.utterances)
        for piece in real:
            for row, place in enumerate(piece.rows):
                size = int(alone.lengths[place])
                assert int(piece.lengths[row]) == size
                assert piece.log_mels[row, :size].equal(alone.log_mels[place, :size])
    heard = Counter(u.audio_filepath for batch in whole for u in batch.utterances)
    assert set(heard.values()) == {1} and len(heard) == utterances


def test_the_largest_batch_is_the_one_with_most_padded_frames() -> None:
    data = training_data([5, 90, 7, 8, 9, 6], recipe(training={"batch": 2}))
    sizes = [b.log_mels.shape[0] * b.log_mels.shape[1] for (b,) in data.batches(0, 0, Share())]
    assert data.largest().log_mels.shape[:2] == (2, 90) and max(sizes) == 180


def test_gaps_stay_under_their_longest() -> None:
    made = recipe(augment={"join": 2, "join_gap_seconds": 0.1})
    data = training_data([5, 9], made)
    sizes = {int(data.batch([[(0, 0), (1, 0)]], 0, n, [0]).lengths[0]) for n in range(200)}
    assert sizes == set(range(14, 14 + 11))


@pytest.mark.parametrize(("overlap", "shortest"), [(0.01, 13), (0.02, 12), (0.5, 12)])
def test_overlaps_stay_under_their_longest(overlap: float, shortest: int) -> None:
    more = {"join_gap_seconds": 0.03, "join_overlap_seconds": overlap}
    data = training_data([5, 9], recipe(augment={"join": 2, **more}))
    sizes = {int(data.batch([[(0, 0), (1, 0)]], 0, n, [0]).lengths[0]) for n in range(400)}
    assert sizes == set(range(shortest, 14 + 4))


def test_validation_holds_every_utterance_once_and_unchanged() -> None:
    clips = log_mels([9, 3, 7, 5, 1], speeds=2)
    labels = [[number] * number for number in range(5)]
    seen: list[int] = []
    for numbers, batch in validation_batches(clips, labels, 2):
        seen += numbers.tolist()
        assert batch.lengths.tolist() == [int(clips.lengths[n, 0]) for n in numbers]
        assert batch.labels.tolist() == [n for n in numbers for _ in range(n)]
        assert batch.label_lengths.tolist() == numbers.tolist()
        for row, number in enumerate(numbers):
            own = batch.log_mels[row, : batch.lengths[row]]
            np.testing.assert_array_equal(own.numpy(), clips.clip(number))
            assert not batch.log_mels[row, batch.lengths[row] :].any()
    assert sorted(seen) == list(range(5))
    assert seen == [4, 1, 3, 2, 0], "sorted by length"


def test_collating_pads_with_zeros() -> None:
    batch = collate([np.ones((2, 3)), np.full((1, 3), 2.0)], [[1, 2], []])
    assert batch.log_mels.tolist() == [[[1.0] * 3] * 2, [[2.0] * 3, [0.0] * 3]]
    assert batch.labels.tolist() == [1, 2]
    assert batch.label_lengths.tolist() == [2, 0]


def test_clips_must_be_long_enough_when_their_ends_are_cut_off() -> None:
    plain, cut = recipe(), recipe(augment={"cut_seconds": 0.05})
    utterance, left = Utterance("a.wav", 1.0, "a"), cut.model.output_frames(100 - 2 * 5)
    label = ([1, 2] * left)[:left]
    assert lack_of(cut, utterance, label, 100) == ""
    assert lack_of(cut, utterance, [*label, 3], 100) and not lack_of(
        plain, utterance, [*label, 3], 100
    )


# ---- speech that is no text ----


@pytest.mark.parametrize("label", NO_TEXT)
def test_what_is_no_word_is_kept_for_ctc_and_other_empty_texts_are_not(label: str) -> None:
    made = recipe(data={"tokens": "words"})
    assert lack_of(made, Utterance("a.wav", 1.0, label), [], 1) == ""
    for text in ("", "  "):
        lack = lack_of(made, Utterance("a.wav", 1.0, text), [], 9)
        assert lack == f"9 frames for {text!r}, which needs 0 and holds no token"
    classes = recipe(data={"tokens": "classes"}, model={"head": "classify"})
    assert lack_of(classes, Utterance("a.wav", 1.0, label), [0], 1) == ""


def test_only_utterances_that_should_have_a_text_are_dropped() -> None:
    texts = ["one", *NO_TEXT, "", "one one"]
    utterances = [Utterance(f"{n}.wav", 1.0, text) for n, text in enumerate(texts)]
    labels = [[1], [], [], [], [1, 1]]
    split = Split(utterances, log_mels([5, 5, 5, 5, 2]), labels, texts)
    notes: list[str] = []
    kept = drop_infeasible(recipe(data={"tokens": "words"}), split, notes.append)
    assert [u.text for u in kept.utterances] == ["one", *NO_TEXT]
    assert list(kept.labels) == [[1], [], []]
    assert kept.log_mels.lengths.tolist() == [[5], [5], [5]]
    assert [note.split(":")[0] for note in notes] == ["dropped 3.wav", "dropped 4.wav"]


@pytest.mark.parametrize("first", [*NO_TEXT, ""])
def test_the_space_between_joined_utterances_does_not_hang_on_the_first_text(first: str) -> None:
    made = recipe(augment={"join": 2})
    utterances = [Utterance("a.wav", 1.0, text) for text in (first, "ba")]
    vocabulary = vocabulary_of(made, utterances)
    assert vocabulary.tokens == (BLANK_TOKEN, " ", "a", "b")
    assert space_of(made, vocabulary) == [1]


@pytest.mark.parametrize(
    ("labels", "joined"),
    [
        ([[1], [], [2]], [1, 9, 2]),
        ([[], [1], [2]], [1, 9, 2]),
        ([[1], [2], []], [1, 9, 2]),
        ([[], [1, 1], []], [1, 1]),
        ([[], [], []], []),
    ],
)
def test_spaces_stand_between_texts_alone(labels: list[list[int]], joined: list[int]) -> None:
    utterances = [Utterance(f"{n}.wav", 1.0, "") for n in range(3)]
    made = recipe(augment={"join": 3})
    data = TrainingData(utterances, log_mels([5, 9, 7]), labels, [], made, space=[9])
    batch = data.batch([[(0, 0), (1, 0), (2, 0)]], 0, 0, [0])
    assert batch.labels.tolist() == joined
    assert batch.label_lengths.tolist() == [len(joined)]
