"""How right recognition is: accuracy, word and character errors, confusions, intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

LEAST_GROUPS = 3
"""Fewer speakers than this say nothing about other speakers; utterances are resampled instead."""

ONE = "one utterance"
"""What `resampled` returns where no more than this holds anything."""


@dataclass(frozen=True)
class ErrorCounts:
    """Edit operations from one reference, of `total` words or characters, to its hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    total: int

    @property
    def errors(self) -> int:
        """All operations together."""
        return self.substitutions + self.deletions + self.insertions


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Count each utterance's word errors, by jiwer's alignment."""
    return [_words(r, h) for r, h in zip(references, hypotheses, strict=True)]


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Count each utterance's character errors, spaces included, by jiwer's alignment."""
    return [_characters(r, h) for r, h in zip(references, hypotheses, strict=True)]


def _words(reference: str, hypothesis: str) -> ErrorCounts:
    if not reference.split():  # jiwer refuses an empty reference: all that is heard is inserted
        return ErrorCounts(0, 0, len(hypothesis.split()), 0)
    import jiwer  # 30 ms, which a transcription does not need

    return _counts(jiwer.process_words(reference, hypothesis))


def _characters(reference: str, hypothesis: str) -> ErrorCounts:
    if not reference.strip():
        return ErrorCounts(0, 0, len(hypothesis.strip()), 0)
    import jiwer

    return _counts(jiwer.process_characters(reference, hypothesis))


def _counts(found: Any) -> ErrorCounts:
    """Take the counts out of jiwer's result; its total is what it compared, after its trimming."""
    total = found.hits + found.substitutions + found.deletions
    return ErrorCounts(found.substitutions, found.deletions, found.insertions, total)


def total_rate(counts: Sequence[ErrorCounts]) -> float:
    """Return all errors over all reference words or characters (over 1, where there is none)."""
    return sum(c.errors for c in counts) / max(sum(c.total for c in counts), 1)


def accuracy(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the share of utterances that are exactly right."""
    right = sum(r == h for r, h in zip(references, hypotheses, strict=True))
    return right / max(len(references), 1)


def confusion(
    references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
    """Return counts (labels, labels + 1): rows are references, the last column any other text."""
    columns = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts[columns[reference], columns.get(hypothesis, len(labels))] += 1
    return counts


@dataclass(frozen=True)
class ClassScore:
    """How one label fared: how often it was said, found when said, and right when found."""

    label: str
    support: int
    recall: float
    precision: float


def per_class(references: Sequence[str], hypotheses: Sequence[str]) -> list[ClassScore]:
    """Score every label of the references; precision is 0 where it was never recognised."""
    said, found = Counter(references), Counter(hypotheses)
    right = Counter(r for r, h in zip(references, hypotheses, strict=True) if r == h)
    return [
        ClassScore(label, count, right[label] / count, right[label] / max(found[label], 1))
        for label, count in sorted(said.items())
    ]


def resampled(errors: Sequence[float], totals: Sequence[float], groups: Sequence[str] = ()) -> str:
    """Return what `interval` resamples: speakers or utterances.

    "nothing" where its bounds are exact, "" where there is nothing that could be wrong, ONE where
    one utterance is all there is, which says nothing of others.
    """
    if not sum(totals):
        return ""
    if not any(errors) or list(errors) == list(totals):
        return "nothing"
    if np.count_nonzero(totals) == 1:
        return ONE
    return "speakers" if len(set(groups) - {""}) >= LEAST_GROUPS else "utterances"


def interval(
    errors: Sequence[float],
    totals: Sequence[float],
    groups: Sequence[str] = (),
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a bootstrap interval of the rate sum(errors) / sum(totals).

    Utterances are resampled; whole speakers, where `groups` names at least LEAST_GROUPS of them, as
    one speaker's utterances fail together, and beside them those whose speaker is ''. A resample
    with a total of 0 is drawn anew. The percentiles lie too close to the rate where few are
    resampled, and are moved away from it (`_stretch`). Without a single error a bootstrap cannot
    see that there might have been one: the upper end is then the exact binomial bound over
    utterances that hold anything; likewise the lower end where all is wrong. One utterance, partly
    wrong, leaves all rates possible.

    Source: Bisani and Ney 2004, bootstrap estimates for ASR; Hesterberg 2015, What Teachers Should
    Know About the Bootstrap; Clopper and Pearson 1934.
    """
    pairs = np.array([errors, totals], dtype=np.float64)
    over = resampled(errors, totals, groups)
    if not over:
        return 0.0, 1.0
    rate = float(pairs[0].sum() / pairs[1].sum())
    if over == ONE:
        return 0.0, max(1.0, rate)
    if over == "nothing":
        exact = 1 - ((1 - level) / 2) ** (1 / np.count_nonzero(pairs[1]))
        return (1 - exact, 1.0) if pairs[0].any() else (0.0, exact)
    strata = [pairs]
    if over == "speakers":
        speakers = np.array(list(groups))
        _, members = np.unique(speakers[speakers != ""], return_inverse=True)
        whole = [np.bincount(members, weights=row) for row in pairs[:, speakers != ""]]
        strata = [np.stack(whole), pairs[:, speakers == ""]]
    rng = np.random.default_rng(seed)
    rates: list[float] = []
    # A resample at a time: all of them at once would take gigabytes for a large test set.
    while len(rates) < resamples:
        wrong, total = sum(
            part[:, rng.integers(part.shape[1], size=part.shape[1])].sum(axis=1)
            for part in strata
            if part.shape[1]
        )
        if total:
            rates.append(wrong / total)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    wider = _stretch(np.count_nonzero(strata[0][1]), level)
    low, high = rate + wider * (low - rate), rate + wider * (high - rate)
    most = 1.0 if np.all(pairs[0] <= pairs[1]) else np.inf
    return max(float(low), 0.0), min(float(high), most)


@lru_cache
def _stretch(units: int, level: float) -> float:
    """Return how many times farther from the rate a bound of so many resampled units belongs.

    A bootstrap's variance has `units` where an unbiased one has `units` - 1, and its tails are the
    normal distribution's where a variance estimated from few asks for Student's.
    """
    degrees = max(units - 1, 1)
    # Drawn, to within half a percent: what computes it, scipy, is no part of an installation.
    student = np.abs(np.random.default_rng(0).standard_t(degrees, size=200_000))
    normal = NormalDist().inv_cdf((1 + level) / 2)
    return float(np.quantile(student, level) / normal * np.sqrt(units / degrees))
