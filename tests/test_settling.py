"""Which words of a stream are sure, and when: what has been said never changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import on_path
from test_segments import paths, spelt
from test_streaming import LETTERS, blocks

from speechseq.decoding import decoder_for, greedy
from speechseq.segments import Segment
from speechseq.streaming import PAUSE_SECONDS, Settler
from speechseq.tokens import BLANK, BLANK_TOKEN, Vocabulary

WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right"))


FRAME_SECONDS = 0.02
PAUSE = round(PAUSE_SECONDS / FRAME_SECONDS)


def settler(vocabulary: Vocabulary, decoder: str = "greedy") -> Settler:
    decode = decoder_for(vocabulary, decoder)
    return Settler(vocabulary, decode, FRAME_SECONDS, freely=decoder == "greedy")


def settled(cut: Settler, log_probs: np.ndarray, sizes: Sequence[int]) -> list[Segment]:
    found = [segment for piece in blocks(log_probs, sizes) for segment in cut.hear(piece)]
    return found + cut.finish(log_probs[:0])


def text_of(found: Sequence[Segment], vocabulary: Vocabulary) -> str:
    texts = (vocabulary.decode(segment.hypothesis.tokens) for segment in found)
    return " ".join(filter(None, texts))


@pytest.mark.parametrize("vocabulary", [LETTERS, WORDS], ids=["letters", "words"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_greedy_is_sure_of_is_the_whole(vocabulary: Vocabulary, data: st.DataObject) -> None:
    tokens = len(vocabulary)
    path = data.draw(paths(tokens, longest=20, most=60))
    log_probs = spelt(path, tokens)
    if max((len(list(g)) for k, g in itertools.groupby(path) if k == 0), default=0) >= PAUSE:
        return  # a pause ends a word: see below
    found = settled(
        settler(vocabulary), log_probs, data.draw(st.lists(st.integers(1, 90), min_size=1))
    )
    assert text_of(found, vocabulary) == vocabulary.decode(greedy(log_probs).tokens)
    starts = [start for segment in found for start in segment.hypothesis.starts]
    kept = [
        s
        for s, t in zip(*(getattr(greedy(log_probs), x) for x in ("starts", "tokens")), strict=True)
    ]
    assert set(starts) <= set(kept)


def test_a_word_is_sure_once_a_space_is_over() -> None:
    cut = settler(LETTERS)
    frames = spelt([2, 3, 0, 1, 1, 2], 4)
    assert [len(cut.hear(frames[n : n + 1])) for n in range(6)] == [0, 0, 0, 0, 0, 1]
    assert LETTERS.decode(cut.unsure(frames[:0]).hypothesis.tokens) == "a"
    assert LETTERS.decode(cut.unsure(frames[1:2]).hypothesis.tokens) == "ab"
    assert LETTERS.decode(cut.unsure(frames[:0]).hypothesis.tokens) == "a", "nothing was taken"
    (last,) = cut.finish(frames[1:2])
    assert (last.hypothesis.tokens, last.hypothesis.starts) == ((2, 3), (5, 6))


def test_a_token_that_goes_on_is_not_said_twice() -> None:
    cut = settler(WORDS)
    frames = spelt([1, 1, 1, 0, 1, 2, 2], 3)
    said = [text_of(cut.hear(frames[n : n + 1]), WORDS) for n in range(7)]
    assert said == ["", "", "", "left", "", "left", ""]
    assert text_of(cut.finish(frames[6:]), WORDS) == "right"


@pytest.mark.parametrize("decoder", ["greedy", "lexicon"])
def test_a_pause_ends_a_word_and_an_utterance(decoder: str) -> None:
    cut = settler(LETTERS, decoder)
    assert cut.resting
    word, silence = spelt([2, 3], 4), spelt([0] * PAUSE, 4)
    cut.hear(word)
    assert not cut.hear(silence[1:])
    assert not cut.resting
    assert text_of(cut.hear(silence[:1]), LETTERS) == "ab"
    assert cut.resting
    for _ in range(20):
        assert text_of(cut.hear(silence), LETTERS) == ""
        assert cut.resting
        assert len(cut._pending) <= PAUSE
    cut.hear(word)
    assert not cut.resting
    (last,) = cut.finish(silence[:0])
    assert last.hypothesis.starts == (21 * PAUSE + 2, 21 * PAUSE + 3)


ONE_TWO = Vocabulary("characters", (BLANK_TOKEN, " ", *"enotw"), ("one", "two"))


def certain(text: str, *, faint: str = "") -> np.ndarray:
    """Return frames of letters, each sure, then of a pause, whose first may be a `faint` one."""
    path = [ONE_TWO.tokens.index(letter) for letter in text] + [BLANK] * (PAUSE + 1)
    log_probs = on_path(path, tokens=len(ONE_TWO))
    if faint:
        log_probs[len(text), ONE_TWO.tokens.index(faint)] = np.log(0.1)
    return log_probs


def test_a_last_letter_behind_a_pause_is_no_word_more() -> None:
    cut = settler(ONE_TWO, "lexicon")
    assert text_of(cut.hear(certain("on", faint="e")), ONE_TWO) == "one"
    assert text_of(cut.hear(certain("e")), ONE_TWO) == ""
    assert cut.resting
    assert text_of(settled(cut, certain("e two one"), [1]), ONE_TWO) == "two one"


def test_a_last_letter_that_was_seen_comes_no_more() -> None:
    cut = settler(ONE_TWO, "lexicon")
    assert text_of(cut.hear(certain("two")), ONE_TWO) == "two"
    weak = certain("on", faint="e")
    weak[1] = np.log([0.6, 0.02, 0.02, 0.3, 0.02, 0.02, 0.02])  # not much of an n
    assert text_of(cut.hear(weak), ONE_TWO) == "one"


@pytest.mark.parametrize("seed", range(6))
def test_what_a_lexicon_is_sure_of_is_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    path: list[int] = []
    for number in rng.integers(0, 3, 60):
        for letter in LETTERS.encode(LETTERS.words[number]):
            path += [letter] * int(rng.integers(2, 5)) + [0] * int(rng.integers(1, 3))
        path += [1] * int(rng.integers(1, 3)) + [0] * int(rng.integers(0, 20))
    log_probs = spelt(path, 4, seed=seed)
    found = settled(settler(LETTERS, "lexicon"), log_probs, [10])
    expected = decoder_for(LETTERS, "lexicon")(log_probs)
    assert len(found) > 30
    assert text_of(found, LETTERS) == LETTERS.decode(expected.tokens)


def test_a_minute_without_an_end_is_sure_all_the_same() -> None:
    cut = settler(LETTERS)
    frames = spelt([2, 0, 3, 0] * 25, 4)
    said = [len(cut.hear(frames)) for _ in range(61)]
    assert sum(said) == 2
    assert len(cut._pending) <= 3000


def test_a_token_on_a_minutes_end_is_not_said_twice() -> None:
    log_probs = spelt([2, 0, 3, 0] * 749 + [2, 2, 2, 2, 2, 2, 0, 3] * 10, 4)
    found = settled(settler(LETTERS), log_probs, [1])
    assert len(found) > 1
    said = [token for segment in found for token in segment.hypothesis.tokens]
    assert said == list(greedy(log_probs).tokens)
