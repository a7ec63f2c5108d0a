"""Segments: what is decoded piece by piece is what is decoded at once, in any decoder's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq import segments
from speechseq.decoding import Decoder, Hypothesis, decoder_for, greedy
from speechseq.segments import Confidence, Segment, Segmenter, join
from speechseq.tokens import BLANK_TOKEN, Vocabulary

SPACED = Vocabulary("characters", (BLANK_TOKEN, " ", "a", "b"), ("ab", "ba", "a"))
UNSPACED = Vocabulary("characters", (BLANK_TOKEN, "a", "b"))
WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right", "stop"))
VOCABULARIES = pytest.mark.parametrize("vocabulary", [SPACED, UNSPACED, WORDS], ids=str)

FRAME_SECONDS = 1.0
"""So that a segment is of 60 frames and 5 ahead, and one frame is a pause to be cut."""


def spelt(path: Sequence[int], tokens: int, *, seed: int = 0) -> np.ndarray:
    """Log-probabilities (frames, tokens) whose best path this is, more or less clearly."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (len(path), tokens))
    scores[np.arange(len(path)), list(path)] += rng.uniform(1.1, 4, len(path))
    return (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)


def paths(tokens: int, *, longest: int, most: int) -> st.SearchStrategy[list[int]]:
    """Tokens, one a frame, in up to so many runs of up to so many frames each."""
    runs = st.tuples(st.integers(0, tokens - 1), st.integers(1, longest))
    drawn = st.lists(runs, min_size=1, max_size=most)
    return drawn.map(lambda found: [token for token, size in found for _ in range(size)])


def pieces(log_probs: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut frames at these sizes, the last one again and again."""
    begun = 0
    for number in range(len(log_probs)):
        if begun >= len(log_probs):
            return
        size = sizes[min(number, len(sizes) - 1)]
        yield log_probs[begun : begun + size]
        begun += size


def segmented(
    log_probs: np.ndarray,
    vocabulary: Vocabulary,
    *,
    decoder: str = "greedy",
    sizes: Sequence[int] = (30,),
    frame_seconds: float = FRAME_SECONDS,
) -> list[Segment]:
    decode = decoder_for(vocabulary, decoder)
    cut = Segmenter(vocabulary, decode, frame_seconds, spells=decoder == "greedy")
    return list(cut(pieces(log_probs, sizes)))


def text_of(found: Sequence[Segment], vocabulary: Vocabulary) -> str:
    texts = (vocabulary.decode(segment.hypothesis.tokens) for segment in found)
    return " ".join(filter(None, texts))


def whole(found: Sequence[Segment]) -> Hypothesis:
    """The segments' hypotheses, one after the other."""
    confidence = Confidence()
    for segment in found:
        confidence.add(segment)
    parts = [segment.hypothesis for segment in found]
    return Hypothesis(
        tuple(token for part in parts for token in part.tokens),
        tuple(start for part in parts for start in part.starts),
        tuple(end for part in parts for end in part.ends),
        tuple(value for part in parts for value in part.token_confidences),
        confidence.value,
    )


def check_equal(found: Hypothesis, expected: Hypothesis) -> None:
    assert (found.tokens, found.starts, found.ends) == (
        expected.tokens,
        expected.starts,
        expected.ends,
    )
    assert found.token_confidences == pytest.approx(expected.token_confidences)
    assert found.confidence == pytest.approx(expected.confidence, rel=1e-5)


def check_meet(found: Sequence[Segment], frames: int) -> None:
    """Segments lie side by side, and their tokens inside them."""
    borders = [(segment.first, segment.last) for segment in found]
    assert [last for _, last in borders] == [*(first for first, _ in borders[1:]), frames]
    for segment in found:
        assert all(segment.first <= start for start in segment.hypothesis.starts)
        assert all(end <= segment.last for end in segment.hypothesis.ends)


# ---- greedy: exact, whatever is said ----


@VOCABULARIES
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_greedy_segments_are_the_whole(vocabulary: Vocabulary, data: st.DataObject) -> None:
    tokens = len(vocabulary)
    path = data.draw(paths(tokens, longest=30, most=40))
    if max(np.diff(np.flatnonzero(np.diff(path, prepend=-1, append=-1))), default=0) > 60:
        return  # a token as long as a segment: see below
    log_probs = spelt(path, tokens)
    sizes = data.draw(st.lists(st.integers(1, 100), min_size=1, max_size=5))
    found = segmented(log_probs, vocabulary, sizes=sizes)
    check_meet(found, len(path))
    check_equal(whole(found), greedy(log_probs))
    assert text_of(found, vocabulary) == vocabulary.decode(greedy(log_probs).tokens)


def test_a_word_that_goes_on_over_a_cut_is_one_word() -> None:
    path = [2, 0, 3, 0] * 60
    found = segmented(spelt(path, 4), SPACED)
    assert len(found) == 1
    assert text_of(found, SPACED) == "ab" * 60


def test_words_are_not_cut_where_there_is_a_space() -> None:
    path = ([2, 3, 0, 0, 1, 0] * 6 + [2, 0, 0, 0, 0, 3]) * 5
    found = segmented(spelt(path, 4), SPACED)
    assert len(found) > 1
    for segment in found[:-1]:
        assert SPACED.tokens[segment.hypothesis.tokens[-1]] == " "


@VOCABULARIES
@pytest.mark.parametrize("frames", [130, 400])
def test_a_token_held_for_minutes_is_one(vocabulary: Vocabulary, frames: int) -> None:
    log_probs = spelt([0, *[2] * frames, 0, 2], len(vocabulary))
    found = segmented(log_probs, vocabulary)
    assert len(found) == 1
    expected, held = greedy(log_probs), found[0].hypothesis
    assert (held.tokens, held.starts, held.ends) == (
        expected.tokens,
        expected.starts,
        expected.ends,
    )
    # What lies ahead of a cut counts on both sides of it.
    assert held.token_confidences == pytest.approx(expected.token_confidences, rel=0.01)


def test_the_last_pause_is_cut_and_a_long_one_before_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "PAUSE_SECONDS", 4.0)
    word = [2, 3]
    path = [*word, 0, 0, 1, 0, 0, *word, 0, 0, 0, 1, *word, 0, 1, *word, *[0] * 60]
    first = segmented(spelt(path, 4), SPACED)[0]
    assert first.last == 13, "behind the last space with a pause of four around it"
    path = [*word, 0, 1, *word, 0, 0, 1, *word, 1, *word, *[0] * 60]
    first = segmented(spelt(path, 4), SPACED)[0]
    assert first.last == 9, "behind the space in the longest pause"


# ---- silence ----


@VOCABULARIES
def test_silence_is_segments_without_tokens(vocabulary: Vocabulary) -> None:
    log_probs = spelt([0] * 500, len(vocabulary))
    found = segmented(log_probs, vocabulary)
    check_meet(found, 500)
    check_equal(whole(found), greedy(log_probs))


def test_frames_in_hand_do_not_grow_with_silence() -> None:
    sizes = []

    def decode(log_probs: np.ndarray) -> Hypothesis:
        sizes.append(len(log_probs))
        return greedy(log_probs)

    cut = Segmenter(SPACED, decode, FRAME_SECONDS, spells=True)
    (found,) = cut(spelt([0] * 30, 4) for _ in range(100))
    assert max(sizes) <= 65 + 30
    assert (found.first, found.last) == (0, 3000)


def test_silence_does_not_count_where_there_are_tokens() -> None:
    log_probs = np.concatenate([spelt([0] * 200, 4), spelt([2, 3, 1] * 40, 4)])
    found = segmented(log_probs, SPACED)
    assert whole(found).confidence == pytest.approx(greedy(log_probs).confidence)


def test_nothing_at_all() -> None:
    assert segmented(np.zeros((0, 4), np.float32), SPACED) == []
    assert Confidence().value == 1.0


# ---- a lexicon ----


def said(words: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A path that says words with pauses, some of their letters misheard."""
    path: list[int] = []
    for word in words:
        for letter in SPACED.encode(word):
            heard = rng.integers(2, 4) if rng.random() < 0.15 else letter
            path += [int(heard)] * rng.integers(1, 3) + [0] * rng.integers(1, 2)
        path += [0] * rng.integers(0, 4) + [1] + [0] * rng.integers(0, 6)
    return path


@pytest.mark.parametrize("seed", range(20))
def test_a_lexicon_finds_the_words_of_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [SPACED.words[number] for number in rng.integers(0, 3, 100)]
    log_probs = spelt(said(words, rng), 4, seed=seed)
    found = segmented(log_probs, SPACED, decoder="lexicon", frame_seconds=0.3)
    expected = decoder_for(SPACED, "lexicon")(log_probs)
    assert len(found) > 2
    check_meet(found, len(log_probs))
    assert text_of(found, SPACED) == SPACED.decode(expected.tokens)


def test_whole_words_stand_alone_where_a_decoder_knows_but_words() -> None:
    """Without a space heard for a minute, each segment of a lexicon is of words."""
    path = [2, 0, 3, *[0] * 30] * 6
    found = segmented(spelt(path, 4), SPACED, decoder="lexicon")
    assert set(text_of(found, SPACED).split()) <= set(SPACED.words)
    assert len(found) > 1


@pytest.mark.parametrize("decoder", ["greedy", "lexicon"])
def test_what_follows_is_heard_before_a_cut(decoder: str) -> None:
    """The decoder is given AHEAD_SECONDS behind the last frame that a segment may end at."""
    seen = []
    decode = decoder_for(SPACED, decoder)

    def watched(log_probs: np.ndarray) -> Hypothesis:
        seen.append(len(log_probs))
        return decode(log_probs)

    path = [2, 3, 0, 1] * 100
    cut: Decoder = watched
    found = list(Segmenter(SPACED, cut, FRAME_SECONDS, spells=False)([spelt(path, 4)]))
    for segment, size in zip(found[:-1], seen, strict=False):
        assert segment.last - segment.first <= size - segments.AHEAD_SECONDS


# ---- joining ----


def test_joined_segments_keep_everything() -> None:
    one = Segment(Hypothesis((2,), (1,), (3,), (0.9,), 0.9), 0, 5)
    two = Segment(Hypothesis((3, 2), (5, 8), (6, 9), (0.5, 0.5), 0.5), 5, 9)
    silent = Segment(Hypothesis((), (), (), (), 0.1), 9, 99)
    found = join(join(one, two), silent)
    assert (found.first, found.last) == (0, 99)
    assert found.hypothesis.tokens == (2, 3, 2)
    assert found.hypothesis.starts == (1, 5, 8)
    assert found.hypothesis.confidence == pytest.approx((0.9 * 0.9 * 0.5 * 0.5) ** 0.25)
    assert join(silent, silent).hypothesis.confidence == pytest.approx(0.1)
