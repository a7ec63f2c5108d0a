"""Decoders: a plain reference of CTC's collapse rule, certain paths, confidences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.decoding import (
    DECODERS,
    Decoder,
    Lexicon,
    after,
    best_class,
    decoder_for,
    greedy,
)
from speechseq.errors import DataError, UsageError
from speechseq.tokens import BLANK, BLANK_TOKEN, Vocabulary

LETTERS = Vocabulary("characters", (BLANK_TOKEN, "a", "b", "c"), ("a", "b", "ab"))

paths = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def on_path(path: list[int], probability: float = 0.9, tokens: int = 4) -> np.ndarray:
    """Return log-probabilities whose best token at each frame is the path's."""
    rest = (1 - probability) / (tokens - 1)
    values = np.full((len(path), tokens), rest)
    values[np.arange(len(path)), path] = probability
    return np.log(values)


def collapse(path: list[int]) -> list[tuple[int, int, int]]:
    """Return (token, start, end) of each run that is not blank: the rule as Graves writes it."""
    runs = []
    frame = 0
    for token, group in itertools.groupby(path):
        size = len(list(group))
        if token != BLANK:
            runs.append((token, frame, frame + size))
        frame += size
    return runs


@settings(deadline=None)
@given(paths)
def test_greedy_is_the_collapse_rule(path: list[int]) -> None:
    found = greedy(on_path(path))
    assert list(zip(found.tokens, found.starts, found.ends, strict=True)) == collapse(path)
    assert len(found.token_confidences) == len(found.tokens)


def test_every_path_of_four_frames() -> None:
    for path in itertools.product(range(3), repeat=4):
        found = greedy(on_path(list(path), tokens=3))
        assert found.tokens == tuple(token for token, _, _ in collapse(list(path)))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_greedy_of_any_distribution(seed: int, frames: int) -> None:
    raw = np.random.default_rng(seed).normal(size=(frames, 4)) * 3
    log_probs = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    found = greedy(log_probs)
    assert found.tokens == tuple(t for t, _, _ in collapse(log_probs.argmax(axis=1).tolist()))
    assert 0 < found.confidence <= 1
    best = np.exp(log_probs.max(axis=1))
    for start, end, sure in zip(found.starts, found.ends, found.token_confidences, strict=True):
        assert sure == pytest.approx(np.prod(best[start:end]) ** (1 / (end - start)))


def test_confidence_is_over_the_tokens_frames_alone() -> None:
    log_probs = np.log([[0.99, 0.01], [0.2, 0.8], [0.5, 0.5 + 1e-9], [0.9, 0.1]])
    found = greedy(log_probs)
    assert found.tokens == (1,)
    assert found.confidence == pytest.approx(np.sqrt(0.8 * 0.5))
    assert found.token_confidences == pytest.approx((np.sqrt(0.8 * 0.5),))


def test_confidence_of_silence_is_the_blanks() -> None:
    found = greedy(np.log([[0.9, 0.1], [0.6, 0.4]]))
    assert found.tokens == found.starts == found.ends == found.token_confidences == ()
    assert found.confidence == pytest.approx(np.sqrt(0.9 * 0.6))


def test_no_frames_give_no_tokens() -> None:
    assert greedy(np.zeros((0, 3), np.float32)).tokens == ()


def test_best_class() -> None:
    found = best_class(np.log([[0.2, 0.7, 0.1]]))
    assert (found.tokens, found.starts, found.ends) == ((1,), (0,), (1,))
    assert found.confidence == pytest.approx(0.7)
    assert found.token_confidences == (found.confidence,)


def test_a_class_may_have_number_0() -> None:
    assert best_class(np.log([[0.8, 0.2]])).tokens == (0,)


@pytest.mark.parametrize("decode", [make(LETTERS) for make in DECODERS.values()], ids=DECODERS)
def test_a_certain_path_is_exact(decode: Decoder) -> None:
    found = decode(on_path([2], probability=1 - 1e-12))
    assert found.tokens == (2,)
    assert found.confidence == pytest.approx(1)


@pytest.mark.parametrize("decode", [make(LETTERS) for make in DECODERS.values()], ids=DECODERS)
def test_rounding_above_certainty_stays_a_probability(decode: Decoder) -> None:
    log_probs = np.array([[-20.0, 1e-6, -20.0]], np.float32)
    found = decode(log_probs)
    assert found.confidence == 1
    assert found.token_confidences == (1,)


@pytest.mark.parametrize("decode", [make(LETTERS) for make in DECODERS.values()], ids=DECODERS)
def test_results_are_plain_python(decode: Decoder) -> None:
    found = decode(on_path([1]).astype(np.float32))
    assert {type(number) for number in (*found.tokens, *found.starts, *found.ends)} == {int}
    assert {type(value) for value in (found.confidence, *found.token_confidences)} == {float}


def random_log_probs(seed: int, frames: int, tokens: int) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(frames, tokens)) * 2
    return raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))


def text_of(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    return "".join(vocabulary.tokens[token] for token in tokens)


def best_by_trying_all(log_probs: np.ndarray, vocabulary: Vocabulary) -> float:
    """Return the score of the best of all paths that spell nothing but the lexicon's words."""
    best = -np.inf
    frames, tokens = log_probs.shape
    for path in itertools.product(range(tokens), repeat=frames):
        text = text_of(vocabulary, [token for token, _, _ in collapse(list(path))])
        if not text or set(text.split(" ")) <= set(vocabulary.words):
            best = max(best, log_probs[np.arange(frames), list(path)].sum())
    return float(best)


LEXICA = {
    "one word": Vocabulary("characters", (BLANK_TOKEN, "a", "b"), ("ab",)),
    "repeats": Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"), ("aa", "b", "bab")),
    "prefixes": Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"), ("a", "ab", "abb")),
    "no space": Vocabulary("characters", (BLANK_TOKEN, "a", "b", "c"), ("aa", "abc", "c")),
}


@pytest.mark.parametrize("name", LEXICA)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), frames=st.integers(1, 6))
def test_lexicon_finds_the_best_of_all_its_paths(name: str, seed: int, frames: int) -> None:
    vocabulary = LEXICA[name]
    log_probs = random_log_probs(seed, frames, len(vocabulary))
    lexicon = Lexicon(vocabulary)
    found = lexicon(log_probs)
    text = text_of(vocabulary, found.tokens)
    assert not text or set(text.split(" ")) <= set(vocabulary.words)
    if text and text != text_of(vocabulary, greedy(log_probs).tokens):
        score = log_probs[np.arange(frames), lexicon._best_path(log_probs, BLANK)].sum()
        assert score == pytest.approx(best_by_trying_all(log_probs, vocabulary))


def best_text_behind(log_probs: np.ndarray, vocabulary: Vocabulary, late: int) -> str:
    """Return what the best of all paths tells, where `late` may be seen once before all words."""
    best, told = -np.inf, ""
    frames, tokens = log_probs.shape
    alone = vocabulary.tokens[late] in vocabulary.words
    for path in itertools.product(range(tokens), repeat=frames):
        text = text_of(vocabulary, [token for token, _, _ in collapse(list(path))])
        fits = not text or set(text.split(" ")) <= set(vocabulary.words)
        begin = next((frame for frame, token in enumerate(path) if token != BLANK), frames)
        if not fits and path[begin] == late and not alone:
            rest = [token for token, _, _ in collapse(list(path[begin + 1 :]))]
            text = text_of(vocabulary, rest)
            fits = not text or (text[0] == " " and set(text[1:].split(" ")) <= {*vocabulary.words})
        score = log_probs[np.arange(frames), list(path)].sum()
        if fits and score > best:
            best, told = score, text.strip()
    return told


@pytest.mark.parametrize("name", LEXICA)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), frames=st.integers(1, 6), number=st.integers(0, 2))
def test_lexicon_tells_nothing_of_a_late_character(
    name: str, seed: int, frames: int, number: int
) -> None:
    vocabulary = LEXICA[name]
    late = 1 + number % (len(vocabulary) - 1)
    if vocabulary.tokens[late] == " ":
        return
    log_probs = random_log_probs(seed, frames, len(vocabulary))
    found = after(Lexicon(vocabulary), late)(log_probs)
    assert text_of(vocabulary, found.tokens) == best_text_behind(log_probs, vocabulary, late)


def test_a_late_character_is_for_a_lexicon_alone() -> None:
    assert after(greedy, 2) is greedy
    late = on_path([BLANK, 2, BLANK, 1, 3, BLANK], tokens=4)
    lexicon = Lexicon(LEXICA["repeats"])
    assert text_of(LEXICA["repeats"], after(lexicon, 2)(late).tokens) == "b"
    assert after(lexicon, 2)(late).starts == (4,)
    assert text_of(LEXICA["repeats"], lexicon(late).tokens) != "b"


def test_lexicon_mends_a_spelling() -> None:
    vocabulary = Vocabulary(
        "characters", (BLANK_TOKEN, " ", "e", "n", "o", "t", "w"), ("one", "two")
    )
    spelt = [vocabulary.tokens.index(letter) for letter in "ono two"]
    log_probs = on_path(spelt, probability=0.7, tokens=len(vocabulary))
    assert text_of(vocabulary, greedy(log_probs).tokens) == "ono two"
    found = Lexicon(vocabulary)(log_probs)
    assert text_of(vocabulary, found.tokens) == "one two"
    assert found.starts == tuple(range(7)) and found.confidence < greedy(log_probs).confidence


def test_lexicon_hears_nothing_where_no_word_fits() -> None:
    vocabulary = Vocabulary("characters", (BLANK_TOKEN, "a", "b"), ("ab",))
    assert Lexicon(vocabulary)(on_path([1], tokens=3)).tokens == ()


@pytest.mark.parametrize("words", [(), ("a", "")])
def test_lexicon_without_words_says_so(words: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"holds no list of words; use greedy"):
        Lexicon(Vocabulary("characters", (BLANK_TOKEN, "a"), words))


def test_an_unknown_decoder_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="lexicon"):
        decoder_for(LETTERS, "lexikon")
    assert decoder_for(Vocabulary("classes", ("a",)), "greedy") is best_class
