"""Vocabularies: texts to numbers and back, normalisation, and what cannot be spelt."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from speechseq.errors import DataError, UsageError
from speechseq.tokens import BLANK, BLANK_TOKEN, KINDS, NO_TEXT, UNKNOWN, Vocabulary

texts = st.lists(st.text(), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=texts)
def test_round_trip(kind: str, texts: list[str]) -> None:
    assume((all if kind == "classes" else any)(text.split() for text in texts))
    vocabulary = Vocabulary.from_texts(kind, texts)
    for text in texts:
        numbers = vocabulary.encode(text)
        assert vocabulary.decode(numbers) == vocabulary.normalise(text)
        assert not vocabulary.is_sequence or BLANK not in numbers
        assert all(0 <= number < len(vocabulary) for number in numbers)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=texts)
def test_the_order_of_the_texts_does_not_matter(kind: str, texts: list[str]) -> None:
    assume((all if kind == "classes" else any)(text.split() for text in texts))
    one = Vocabulary.from_texts(kind, texts)
    assert one == Vocabulary.from_texts(kind, reversed([*texts, *texts]))


@pytest.mark.parametrize(
    ("kind", "tokens", "numbers"),
    [
        ("characters", (BLANK_TOKEN, " ", "a", "b"), [2, 3, 1, 3, 2]),
        ("words", (BLANK_TOKEN, "ab", "ba"), [1, 2]),
        ("classes", ("Ab ba",), [0]),
    ],
)
def test_what_a_token_is(kind: str, tokens: tuple[str, ...], numbers: list[int]) -> None:
    vocabulary = Vocabulary.from_texts(kind, ["Ab ba"])
    assert vocabulary.tokens == tokens
    assert vocabulary.encode("Ab ba") == numbers
    assert vocabulary.is_sequence == (kind != "classes")
    assert len(vocabulary) == len(tokens)


def test_tokens_are_sorted() -> None:
    assert Vocabulary.from_texts("words", ["two one", "Three"]).tokens[1:] == (
        "one",
        "three",
        "two",
    )
    assert Vocabulary.from_texts("classes", ["b", "a", "b"]).tokens == ("a", "b")


@pytest.mark.parametrize("kind", ["characters", "words"])
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Zwei\t\nDREI  ", "zwei drei"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufb01ve \uff11", "five 1"),
        ("a\u00a0b\u2028c", "a b c"),
        ("ÄÖ", "äö"),
        ("\u0635\u0641\u0631", "صفر"),
    ],
)
def test_sequences_are_folded(kind: str, text: str, normal: str) -> None:
    vocabulary = Vocabulary.from_texts(kind, [text])
    assert vocabulary.normalise(text) == normal
    assert vocabulary.encode(text) == vocabulary.encode(normal)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("  Left  Turn ", "Left Turn"), ("e\u0301", "\u00e9"), ("\ufb01", "\ufb01")],
)
def test_labels_keep_their_case(text: str, normal: str) -> None:
    vocabulary = Vocabulary.from_texts("classes", [text])
    assert vocabulary.tokens == (normal,)
    assert vocabulary.normalise(text) == normal


@given(st.text())
def test_composed_and_decomposed_texts_are_one(text: str) -> None:
    for normalise in KINDS.values():
        decomposed = unicodedata.normalize("NFD", text)
        assert normalise(decomposed) == normalise(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (
            "characters",
            "ab, c!",
            "text 'ab, c!': cannot be spelt, '!', ',', 'c' not among the 4 characters",
        ),
        ("words", "ab cd", "text 'ab cd': cannot be spelt, 'cd' not among the 3 words"),
        ("classes", "AB", "text 'AB': cannot be spelt, 'AB' not among the 1 classes"),
    ],
)
def test_an_unspellable_text_names_what_is_missing(kind: str, text: str, says: str) -> None:
    vocabulary = Vocabulary.from_texts(kind, ["ab ba"])
    with pytest.raises(DataError) as caught:
        vocabulary.encode(text)
    assert str(caught.value) == says + "; correct the text or train with it"


def test_five_missing_tokens_are_named_at_most() -> None:
    with pytest.raises(DataError) as caught:
        Vocabulary.from_texts("characters", ["x"]).encode("abcdefgh\n")
    assert "'a', 'b', 'c', 'd', 'e' not among" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_blank_cannot_be_said() -> None:
    vocabulary = Vocabulary.from_texts("words", ["one two"])
    assert vocabulary.tokens[BLANK] == BLANK_TOKEN
    with pytest.raises(DataError, match="'<blank>' not among"):
        vocabulary.encode(f"one {BLANK_TOKEN}")
    characters = Vocabulary.from_texts("characters", [BLANK_TOKEN])
    assert characters.decode(characters.encode(BLANK_TOKEN)) == BLANK_TOKEN


def test_an_empty_text_has_no_tokens() -> None:
    for kind in ("characters", "words"):
        vocabulary = Vocabulary.from_texts(kind, ["one"])
        assert vocabulary.encode("  ") == []
        assert vocabulary.decode([]) == ""


def test_decoded_characters_have_single_spaces_between_words() -> None:
    vocabulary = Vocabulary("characters", (BLANK_TOKEN, " ", "a"))
    assert vocabulary.decode([1, 2, 1, 1, 2, 1]) == "a a"


@pytest.mark.parametrize(
    ("kind", "tokens", "says"),
    [
        ("classes", ("a", "a"), "vocabulary: a token stands twice; list each once"),
        (
            "words",
            (BLANK_TOKEN, BLANK_TOKEN),
            "vocabulary: a token stands twice; list each once",
        ),
        ("words", ("a",), "vocabulary: does not begin with <blank>; put it first"),
        ("characters", ("a", BLANK_TOKEN), "vocabulary: does not begin with <blank>; put it first"),
        ("characters", (), "vocabulary: does not begin with <blank>; put it first"),
        (
            "words",
            (BLANK_TOKEN,),
            "vocabulary: empty; the training texts hold nothing to learn",
        ),
        ("classes", (), "vocabulary: empty; the training texts hold nothing to learn"),
    ],
)
def test_a_wrong_vocabulary(kind: str, tokens: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError) as caught:
        Vocabulary(kind, tokens)
    assert str(caught.value) == says


def test_an_unknown_kind() -> None:
    says = "tokens: unknown tokens 'word'; did you mean 'words'?"
    for make in (lambda: Vocabulary("word", ("a",)), lambda: Vocabulary.from_texts("word", ["a"])):
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == says


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_texts_that_hold_nothing(kind: str) -> None:
    with pytest.raises(DataError, match="empty; the training texts hold nothing"):
        Vocabulary.from_texts(kind, ["", " \n"])


def test_an_empty_class_label_is_refused() -> None:
    with pytest.raises(DataError, match="an empty class label; name the class or drop"):
        Vocabulary.from_texts("classes", ["a", "  "])


@pytest.mark.parametrize("label", NO_TEXT)
@pytest.mark.parametrize("kind", ["characters", "words"])
def test_what_is_no_word_is_no_text_to_sequences(kind: str, label: str) -> None:
    vocabulary = Vocabulary.from_texts(kind, ["one", label], lexicon=True)
    assert vocabulary == Vocabulary.from_texts(kind, ["one"], lexicon=True)
    assert vocabulary.normalise(label) == ""
    assert vocabulary.encode(label) == []
    with pytest.raises(DataError, match="the training texts hold nothing to learn"):
        Vocabulary.from_texts(kind, [label])


@pytest.mark.parametrize("label", NO_TEXT)
def test_what_is_no_word_is_a_class_to_classifiers(label: str) -> None:
    vocabulary = Vocabulary.from_texts("classes", ["one", label])
    assert vocabulary.tokens == (label, "one")
    assert vocabulary.encode(label) == [0]
    assert vocabulary.normalise(label) == vocabulary.decode([0]) == label


def test_a_lexicon_travels_with_the_vocabulary() -> None:
    made = Vocabulary.from_texts("characters", ["Two  one", "one"], lexicon=True)
    assert made.words == ("one", "two")
    assert Vocabulary.from_dict(made.to_dict()) == made
    assert "words" not in Vocabulary.from_texts("characters", ["one"]).to_dict()


def test_the_space_is_a_token_of_spelt_words_alone() -> None:
    spelt, words = ("a b", "b"), ("left right",)
    assert Vocabulary.from_texts("characters", spelt).space == 1
    assert Vocabulary.from_texts("characters", ["a", "b"]).space is None
    assert Vocabulary.from_texts("words", words).space is None


def test_words_apart_are_told_as_unknown() -> None:
    vocabulary = Vocabulary.from_texts("classes", ["up", "_unknown_:b", "_silence_", "_unknown_:a"])
    assert vocabulary.tokens == ("_silence_", UNKNOWN, "up")
    assert vocabulary.apart == ("_unknown_:a", "_unknown_:b")
    assert vocabulary.told_as == (0, 1, 2, 1, 1)
    assert vocabulary.names == ("_silence_", UNKNOWN, "up", "a", "b")
    assert vocabulary.encode("_unknown_:b") == [4]
    assert vocabulary.encode("_unknown_:other") == vocabulary.encode(UNKNOWN) == [1]
    assert vocabulary.normalise("_unknown_:b") == UNKNOWN
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    assert Vocabulary.from_texts("classes", ["up", UNKNOWN]).told_as == (0, 1)


def test_phones_are_numbers_and_the_scores_those_of_the_tokens() -> None:
    found = Vocabulary.from_texts("classes", ["up", "_silence_", "_unknown_:cup", "_unknown_:x"])
    vocabulary = replace(found, phones=("", None, "ʌp", "kʌp", None))
    assert vocabulary.sounds == ("k", "p", "ʌ")
    assert vocabulary.sounds_of == ((), None, (3, 2), (1, 3, 2), None)
    assert vocabulary.names == vocabulary.tokens
    assert vocabulary.labels == ("_silence_", UNKNOWN, "up", "cup", "x")
    assert vocabulary.encode("_unknown_:cup") == [3] and vocabulary.told_as[3] == 1
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    with pytest.raises(DataError, match="phones are of classes, of each; give them again"):
        replace(found, phones=("", None, "ʌp"))


@pytest.mark.parametrize(("kind", "tokens"), [("words", (BLANK_TOKEN, UNKNOWN)), ("classes", "a")])
def test_words_apart_need_classes_with_unknown(kind: str, tokens: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="words apart need classes with _unknown_; add it"):
        Vocabulary(kind, tuple(tokens), apart=("_unknown_:a",))
