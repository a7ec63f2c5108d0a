"""scripts/make_sentences.py: sentences like those that are learnt from, in their words."""

from __future__ import annotations

import random
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

TEXTS = ["enter forty two", "m a r y", "yes", "july third nineteen sixty", "area code", "r u n"]


@given(seed=st.integers(0, 1000))
def test_every_word_stands_for_one_of_its_kind_that_is_known(script: ModuleType, seed: int) -> None:
    known = frozenset(word for text in TEXTS for word in text.split())
    for text in TEXTS:
        for old, new in zip(
            text.split(), script.vary(text, known, random.Random(seed)).split(), strict=True
        ):
            kind = next((kind for kind in script.KINDS if old in kind), [old])
            assert new in kind and new in known


def test_sentences_differ_are_partly_new_and_follow_from_the_seed(script: ModuleType) -> None:
    made = script.sentences(TEXTS, 200, 0)
    assert len(set(made)) == len(made)
    assert set(TEXTS) <= set(made) and len(made) > 3 * len(TEXTS)
    assert made == script.sentences(TEXTS, 200, 0) != script.sentences(TEXTS, 200, 1)


def test_no_word_is_of_two_kinds(script: ModuleType) -> None:
    words = [word for kind in script.KINDS for word in kind]
    assert len(words) == len(set(words))
