"""Metrics: by hand, against jiwer over all texts at once, and the intervals' coverage."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.metrics import (
    LEAST_GROUPS,
    ONE,
    ErrorCounts,
    accuracy,
    character_errors,
    confusion,
    interval,
    per_class,
    resampled,
    total_rate,
    word_errors,
)

texts = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)
pairs = st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=6)


def test_word_errors_by_hand() -> None:
    assert word_errors(["a b c", "a b", "a"], ["a x c", "a", "a y z"]) == [
        ErrorCounts(1, 0, 0, 3),
        ErrorCounts(0, 1, 0, 2),
        ErrorCounts(0, 0, 2, 1),
    ]


def test_character_errors_count_spaces() -> None:
    assert character_errors(["ab cd"], ["abcd"]) == [ErrorCounts(0, 1, 0, 5)]


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_rates_are_jiwers(found: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*found, strict=True))
    assert total_rate(word_errors(references, hypotheses)) == pytest.approx(
        jiwer.wer(references, hypotheses)
    )
    assert total_rate(character_errors(references, hypotheses)) == pytest.approx(
        jiwer.cer(references, hypotheses)
    )


@settings(deadline=None, max_examples=60)
@given(texts, texts)
def test_counts_account_for_the_lengths(reference: str, hypothesis: str) -> None:
    (found,) = word_errors([reference], [hypothesis])
    assert found.total == len(reference.split())
    assert found.total - found.deletions + found.insertions == len(hypothesis.split())
    assert (found.errors == 0) == (reference == hypothesis)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_reference_counts_what_was_inserted(empty: str) -> None:
    assert word_errors([empty], ["a b"]) == [ErrorCounts(0, 0, 2, 0)]
    assert character_errors([empty], ["ab"]) == [ErrorCounts(0, 0, 2, 0)]
    assert word_errors([empty], [""])[0].errors == 0
    assert total_rate(word_errors([empty], ["a b"])) == 2


def test_edges_of_the_text_are_not_counted() -> None:
    assert character_errors([" ab "], ["ab"]) == [ErrorCounts(0, 0, 0, 2)]


def test_accuracy() -> None:
    assert accuracy(["a", "b", "c", "d"], ["a", "x", "c", ""]) == 0.5
    assert accuracy([], []) == 0


def test_lists_of_different_lengths_are_refused() -> None:
    for score in (accuracy, word_errors, character_errors, per_class):
        with pytest.raises(ValueError, match="zip"):
            score(["a", "b"], ["a"])


def test_confusion_by_hand() -> None:
    found = confusion(["a", "a", "b", "b"], ["a", "b", "b", "zebra"], ["a", "b"])
    np.testing.assert_array_equal(found, [[1, 1, 0], [0, 1, 1]])


def test_per_class_by_hand() -> None:
    one, two, three = per_class(["a", "a", "b", "c"], ["a", "b", "b", "x"])
    assert (one.label, one.support, one.recall, one.precision) == ("a", 2, 0.5, 1)
    assert (two.label, two.support, two.recall, two.precision) == ("b", 1, 1, 0.5)
    assert (three.recall, three.precision) == (0, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abx")), min_size=1))
def test_confusion_and_per_class_agree(found: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*found, strict=True))
    labels = sorted(set(references))
    counts = confusion(references, hypotheses, labels)
    assert counts.sum() == len(references)
    for row, score in enumerate(per_class(references, hypotheses)):
        assert score.support == counts[row].sum()
        assert score.recall == counts[row, row] / counts[row].sum()


# ---- intervals ----


def test_interval_holds_the_rate_and_is_repeatable() -> None:
    errors, totals = [1, 0, 2, 0, 1, 0] * 20, [5, 4, 6, 3, 5, 2] * 20
    low, high = interval(errors, totals)
    assert low < sum(errors) / sum(totals) < high
    assert interval(errors, totals) == (low, high)
    assert interval(errors, totals, seed=1) != (low, high)


def test_interval_is_the_normal_approximation_for_many() -> None:
    wrong = [1.0] * 100 + [0.0] * 900
    low, high = interval(wrong, [1.0] * 1000)
    half = 1.96 * np.sqrt(0.1 * 0.9 / 1000)
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.003)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        wrong = (rng.random(150) < 0.2).astype(float)
        low, high = interval(wrong, np.ones(150), resamples=300, seed=number)
        hits += low <= 0.2 <= high
    assert 0.89 <= hits / 200 <= 0.99


@pytest.mark.parametrize("count", [3, 6])
def test_few_speakers_are_few(count: int) -> None:
    """Percentiles alone hold the truth 77 times in a hundred for three speakers, 82 for six."""
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"s{number}" for number in range(count)], 40).tolist()
    hits = 0
    for number in range(200):
        shares = rng.beta(1.5, 13.5, size=count)
        wrong = (rng.random((count, 40)) < shares[:, None]).astype(float).ravel()
        low, high = interval(wrong, np.ones(wrong.size), speakers, resamples=300, seed=number)
        hits += low <= 0.1 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_no_rate_is_under_none_or_over_all() -> None:
    speakers = list("abc")
    assert interval([1, 30, 29], [30] * 3, speakers) == (0, 1)
    assert interval([0, 60, 29], [30] * 3, speakers)[1] > 1, "words too many"


def test_speakers_that_fail_together_widen_the_interval() -> None:
    speakers = [f"s{number // 50}" for number in range(300)]
    wrong = [float(number < 50) for number in range(300)]  # one speaker, every time
    alone = interval(wrong, [1.0] * 300)
    together = interval(wrong, [1.0] * 300, speakers)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_one_utterance_leaves_every_rate_possible() -> None:
    assert resampled([1.0], [5.0]) == resampled([0.0, 1.0], [0.0, 5.0]) == ONE
    assert interval([1.0], [5.0]) == (0.0, 1.0)
    assert interval([7.0], [5.0]) == (0.0, 1.4)
    assert resampled([0.0], [5.0]) == resampled([5.0], [5.0]) == "nothing"


def test_too_few_speakers_are_not_resampled() -> None:
    wrong = [1.0, 0.0] * 30
    speakers = [str(number % (LEAST_GROUPS - 1)) for number in range(60)]
    assert interval(wrong, [1.0] * 60, speakers) == interval(wrong, [1.0] * 60)


def test_utterances_without_a_speaker_stand_beside_the_speakers() -> None:
    speakers = [f"s{number // 50}" for number in range(200)]
    wrong = [float(number % 10 == 0) for number in range(200)]
    low, high = interval(wrong, [1.0] * 200, speakers)
    assert low == high == pytest.approx(0.1), "all speakers err alike"
    low, high = interval([*wrong, *[0.0, 1.0] * 20], [1.0] * 240, [*speakers, *[""] * 40])
    assert 0.1 < low < 40 / 240 < high < 0.22
    # Those who are not named are no speakers: of one alone, utterances are resampled.
    one = interval(wrong, [1.0] * 200, [*["ann"] * 150, *[""] * 50])
    assert one == interval(wrong, [1.0] * 200)


def test_resamples_of_nothing_are_drawn_anew() -> None:
    low, high = interval([1, 1, 2], [10, 10, 0], ["a", "b", "c"])
    assert low == 0
    # Two hold words: Student's t of one degree over the normal's 1.96, times the root of 2.
    assert high == pytest.approx(4 / 20 + 12.71 / 1.96 * 2**0.5 * (5 / 10 - 4 / 20), rel=0.005)


def test_longer_utterances_weigh_more() -> None:
    low, high = interval([0, 10] * 50, [1, 100] * 50)
    assert low < 500 / 5050 < high < 0.2


@pytest.mark.parametrize("count", [1, 30, 300])
def test_without_an_error_the_bound_is_binomial(count: int) -> None:
    low, high = interval([0.0] * count, [1.0] * count)
    assert low == 0
    # (1 - high)^count: the chance to see no error, were this the rate.
    assert (1 - high) ** count == pytest.approx(0.025)
    assert interval([1.0] * count, [1.0] * count) == pytest.approx((1 - high, 1))


def test_what_holds_nothing_makes_no_bound_tighter() -> None:
    assert interval([0] * 300, [3] + [0] * 299) == interval([0], [3])
    assert interval([3] + [0] * 299, [3] + [0] * 299) == interval([3], [3])


def test_level_and_emptiness() -> None:
    wrong = [1.0, 0.0, 0.0] * 40
    wide, narrow = (interval(wrong, [1.0] * 120, level=level) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert interval([], []) == (0, 1)
    assert interval([1], [0]) == (0, 1)
