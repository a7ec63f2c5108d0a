"""Clips of none of the words, made of the halves of two."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from speechseq.errors import DataError
from speechseq.manifest import Utterance
from speechseq.recipe import AugmentSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import SILENCE, UNKNOWN, Vocabulary
from speechseq.training.augment import splice
from speechseq.training.data import TrainingData
from speechseq.training.feature_cache import LogMels
from speechseq.training.preflight import none_of
from speechseq.training.stream import _check

CLASSES = Vocabulary("classes", (SILENCE, UNKNOWN, "no", "yes"))


def recipe(share: float) -> Recipe:
    return recipe_from_dict(
        {
            "data": {"tokens": "classes"},
            "model": {"head": "classify"},
            "features": {"mels": 2},
            "augment": {"splice": share},
            "training": {"batch": 4},
        },
        "test",
    )


def data(share: float, texts: list[str]) -> TrainingData:
    """Clips of eight frames that hold their own number."""
    count = len(texts)
    frames = np.repeat(np.arange(count, dtype=np.float32), 8)[:, None].repeat(2, axis=1)
    lengths = np.full((count, 1), 8)
    return TrainingData(
        [Utterance(f"{n}.wav", 1.0, text) for n, text in enumerate(texts)],
        LogMels(frames, np.arange(count)[:, None] * 8, lengths),
        [CLASSES.encode(text) for text in texts],
        [],
        recipe(share),
        none=none_of(recipe(share), CLASSES),
    )


def test_a_splice_is_cut_at_one_share_of_both_sounds() -> None:
    quiet, loud = np.full((20, 2), -20.0), np.zeros((20, 2))
    one = np.concatenate([quiet, loud]) + np.arange(40)[:, None] * 1e-6
    other = np.concatenate([loud, loud, quiet]) + np.arange(60)[:, None] * 1e-6 + 1
    shares = set()
    for seed in range(50):
        found = splice(one, other, np.random.default_rng(seed))
        cut = next(n for n in range(len(found)) if found[n, 0] > 0.5)
        np.testing.assert_array_equal(found[:cut], one[:cut])
        np.testing.assert_array_equal(found[cut:], other[len(other) - len(found) + cut :])
        share = (cut - 20) / 20
        assert (len(other) - len(found) + cut) / 40 == pytest.approx(share, abs=0.051)
        shares.add(share)
    assert min(shares) >= 0.25 and max(shares) <= 0.75 and len(shares) > 6


def test_where_all_is_noise_a_splice_is_cut_about_the_middle() -> None:
    noise = np.random.default_rng(0).normal(size=(80, 2))
    for clip in (noise, np.zeros((80, 2))):
        found = splice(clip, clip + 50, np.random.default_rng(1))
        assert 15 <= int((found[:, 0] < 25).sum()) <= 65


def test_words_that_begin_or_end_alike_are_not_spliced() -> None:
    """The beginning of "no" and the end of "go" are "no"."""
    texts = ["no", "go", "yes", "nine"] * 50
    training = dataclasses.replace(
        data(1.0, ["no", "yes"] * 100),
        utterances=[Utterance(f"{n}.wav", 1.0, text) for n, text in enumerate(texts)],
        labels=[[2 + n % 4] for n in range(200)],
    )
    pairs = [[texts[n] for n, _ in e] for b in training.epoch(0) for e in b if len(e) == 2]
    found = {tuple(pair) for pair in pairs}
    assert {("no", "yes"), ("go", "yes"), ("go", "nine"), ("yes", "nine")} <= found
    assert not {frozenset(pair) for pair in found} & {
        frozenset(pair) for pair in (("no", "go"), ("no", "nine"), ("no",), ("go",))
    }


def test_an_epoch_holds_every_clip_once_and_so_many_splices() -> None:
    texts = ["no", "yes", UNKNOWN, SILENCE] * 50
    training = data(0.25, texts)
    examples = [example for batch in training.epoch(0) for example in batch]
    assert sorted(e[0][0] for e in examples if len(e) == 1) == list(range(200))
    spliced = [e for e in examples if len(e) == 2]
    assert 10 < len(spliced) <= 50
    for (one, _), (other, _) in spliced:
        assert {texts[one], texts[other]} == {"no", "yes"}, "two different words, no others"


def test_what_is_spliced_is_unknown_and_holds_both() -> None:
    training = data(0.5, ["no", "yes"] * 20)
    batches = [piece for pieces in training.batches(0, 0, _whole()) for piece in pieces]
    seen = 0
    for batch in batches:
        lengths, labels = batch.lengths.tolist(), batch.labels.tolist()
        for row, size, label in zip(batch.log_mels, lengths, labels, strict=True):
            values = set(row[:size, 0].tolist())
            if label == CLASSES.tokens.index(UNKNOWN):
                seen += 1
                assert len(values) == 2
            else:
                assert len(values) == 1
    assert seen


def _whole():
    from speechseq.training.data import Share

    return Share()


def test_splices_are_mixed_with_other_clips() -> None:
    """Their halves together are as long as one clip; batches are of like length."""
    training = data(0.3, ["no", "yes"] * 100)
    kinds = [{len(example) for example in batch} for batch in training.epoch(0)]
    assert any(kind == {1, 2} for kind in kinds)


def test_without_a_share_nothing_is_spliced() -> None:
    training = data(0.0, ["no", "yes"] * 4)
    assert all(len(example) == 1 for batch in training.epoch(0) for example in batch)


def test_splices_need_a_class() -> None:
    known = Vocabulary("classes", ("no", "yes"))
    with pytest.raises(DataError, match=r"makes clips of class _unknown_; there is none"):
        none_of(recipe(0.1), known)
    assert none_of(recipe(0.0), known) == []
    assert none_of(recipe(0.1), CLASSES) == [1, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"augment": AugmentSettings(splice=0.1)},
        {"data": dataclasses.replace(Recipe().data, others=("an4",))},
        {"data": dataclasses.replace(Recipe().data, clips_per_class=3)},
        {"training": dataclasses.replace(Recipe().training, logit_adjustment=1.0)},
    ],
)
def test_streams_refuse_what_they_would_not_do(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"not for streamed shards; leave it out"):
        _check(None, dataclasses.replace(Recipe(), **change), 1)  # type: ignore[arg-type]


def test_words_apart_share_what_unknown_has() -> None:
    training = data(0.0, [*["no"] * 10, *["yes"] * 10, *[UNKNOWN] * 10, *[SILENCE] * 10])
    # Scores 4 and 5, of words apart, hold nothing of their own here; they are told as unknown.
    shares = training.shares((0, 1, 2, 3, 1, 1))
    assert shares.tolist() == pytest.approx([0.25] * 6)
    apart = dataclasses.replace(training, labels=[[n % 6] for n in range(40)])
    shares = apart.shares((0, 1, 2, 3, 1, 1))
    assert shares[[1, 4, 5]].tolist() == pytest.approx(
        [sum(n % 6 in (1, 4, 5) for n in range(40)) / 40] * 3
    )
    assert float(shares[:4].sum()) == pytest.approx(1.0)


def test_words_apart_are_none_of_the_words() -> None:
    vocabulary = dataclasses.replace(CLASSES, apart=("_unknown_:cuff", "_unknown_:cup"))
    assert none_of(recipe(0.1), vocabulary) == [1, 0, 4, 5], "unknown first, none is spliced"
