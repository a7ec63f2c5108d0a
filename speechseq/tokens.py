"""The vocabulary: text to token numbers and back, and the one normalisation of text.

Training, scoring and decoding all go through `Vocabulary`, so they agree on what a text is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from speechseq.errors import DataError, choose

BLANK = 0
"""Number of the CTC blank in every sequence vocabulary."""

BLANK_TOKEN = "<blank>"  # noqa: S105

UNKNOWN = "_unknown_"
"""Label of speech in none of a model's words."""

UNKNOWN_WORD = UNKNOWN + ":"
"""Beginning of the label of a word that is learnt by itself, and told as `UNKNOWN`."""

SILENCE = "_silence_"
"""Label of a recording without speech."""

NO_TEXT = (UNKNOWN, SILENCE)
"""Labels that are classes to a classifier, and no text at all to a sequence model."""


def _normalise_sequence(text: str) -> str:
    if text in NO_TEXT:
        return ""
    return " ".join(_folded("NFKC", text).lower().split())


def _normalise_label(text: str) -> str:
    return " ".join(_folded("NFC", text).split())


def _folded(form: Literal["NFC", "NFKC"], text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a folder's name in another encoding is such a class
            raise DataError(f"text {text!r}: is no Unicode; write it or its folder anew") from None
    return unicodedata.normalize(form, text)


KINDS = {
    "characters": _normalise_sequence,
    "words": _normalise_sequence,
    "classes": _normalise_label,
}
"""What a token is, with the normalisation of its text.

Sequences are folded to lower case and compatibility forms (NFKC), and `NO_TEXT` is empty; class
labels keep their case.
"""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model knows, in the order of its outputs.

    `kind` is one of `KINDS`. Sequence vocabularies (characters, words) begin with the CTC blank
    at 0; class labels have no blank. `words` are the words a lexicon decoder may spell with
    characters; most models have no use for them. `apart` are labels of words that the network
    tells apart, but that are all told as `UNKNOWN`: its scores are of the tokens, then of these.
    `phones` are how the tokens sound, and then those apart, a character for each sound; None where
    that is not known. With them only the sounds are learnt apart, and the scores are the tokens'.

    Raises:
        UsageError: unknown kind.
        DataError: no tokens, a token twice, no blank where there must be one, or no phones.
    """

    kind: str
    tokens: tuple[str, ...]
    words: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    phones: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        choose(KINDS, self.kind, "tokens")
        if len(set(self.tokens)) != len(self.tokens):
            raise DataError("vocabulary: a token stands twice; list each once")
        if self.apart and (self.kind != "classes" or UNKNOWN not in self.tokens):
            raise DataError(f"vocabulary: words apart need classes with {UNKNOWN}; add it")
        if self.phones and (self.is_sequence or len(self.phones) != len(self._numbers)):
            raise DataError("vocabulary: phones are of classes, of each; give them again")
        if self.is_sequence and (not self.tokens or self.tokens[BLANK] != BLANK_TOKEN):
            raise DataError(f"vocabulary: does not begin with {BLANK_TOKEN}; put it first")
        if len(self.tokens) <= self.is_sequence:
            raise DataError("vocabulary: empty; the training texts hold nothing to learn")

    @classmethod
    def from_texts(cls, kind: str, texts: Iterable[str], *, lexicon: bool = False) -> Vocabulary:
        """Collect every token of `texts`, sorted, so that the same texts give the same numbers.

        With `lexicon`, their words are collected, too.
        """
        normalise = choose(KINDS, kind, "tokens")
        texts = [normalise(text) for text in texts]
        found = sorted({unit for text in texts for unit in _split(kind, text)})
        apart = [unit for unit in found if kind == "classes" and unit.startswith(UNKNOWN_WORD)]
        if apart:
            found = sorted({UNKNOWN, *found}.difference(apart))
        words = sorted({word for text in texts for word in text.split()}) if lexicon else ()
        if kind == "classes" and "" in found:
            raise DataError("text '': an empty class label; name the class or drop the utterance")
        tokens = found if kind == "classes" else [BLANK_TOKEN, *found]
        return cls(kind, tuple(tokens), tuple(words), tuple(apart))

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Vocabulary:
        """Build a vocabulary from plain JSON values, as `to_dict` returns them.

        Raises:
            KeyError, TypeError: not such values; else as for the class.
        """
        kind, tokens = tree["kind"], tuple(map(str, tree["tokens"]))
        words, apart = (tuple(map(str, tree.get(name, ()))) for name in ("words", "apart"))
        phones = tuple(said if said is None else str(said) for said in tree.get("phones", ()))
        return cls(kind, tokens, words, apart, phones)

    def to_dict(self) -> dict[str, Any]:
        """Return the vocabulary as plain JSON values."""
        tree = {"kind": self.kind, "tokens": list(self.tokens)}
        more = {name: list(getattr(self, name)) for name in ("words", "apart", "phones")}
        return tree | {name: values for name, values in more.items() if values}

    @property
    def is_sequence(self) -> bool:
        """Tell whether texts are sequences of tokens (CTC) or single class labels."""
        return self.kind != "classes"

    @property
    def space(self) -> int | None:
        """The token between words that are spelt in characters; None where there is none."""
        return self._numbers.get(" ") if self.kind == "characters" else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate((*self.tokens, *self.apart))}

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each of the network's scores: a token, or the word of a label apart."""
        return self.tokens if self.phones else self.labels

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each label: a token, or the word of a label apart."""
        return (*self.tokens, *(label.removeprefix(UNKNOWN_WORD) for label in self.apart))

    @property
    def told_as(self) -> tuple[int, ...]:
        """The token that each label is told as; its own, but for `apart`."""
        return (*range(len(self.tokens)), *(self.tokens.index(UNKNOWN) for _ in self.apart))

    @cached_property
    def sounds(self) -> tuple[str, ...]:
        """All that the phones are made of; to the network they are numbers from 1, 0 is none."""
        return tuple(sorted(set("".join(said or "" for said in self.phones))))

    @cached_property
    def sounds_of(self) -> tuple[tuple[int, ...] | None, ...]:
        """The sounds of each label, as numbers; None where they are not known."""
        numbers = {sound: number for number, sound in enumerate(self.sounds, start=1)}
        return tuple(
            said if said is None else tuple(numbers[sound] for sound in said)
            for said in self.phones
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def normalise(self, text: str) -> str:
        """Return `text` as scoring and decoding see it; a word apart is told as `UNKNOWN`."""
        text = KINDS[self.kind](text)
        apart = self.apart and text.startswith(UNKNOWN_WORD)
        return UNKNOWN if apart else text

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of `text`; of a word apart, those of its own score.

        Raises:
            DataError: `text` cannot be spelt with these tokens; the missing ones are named.
        """
        numbers = self._numbers
        text = KINDS[self.kind](text)
        units = _split(self.kind, text if text in numbers else self.normalise(text))
        missing = sorted({unit for unit in units if unit not in numbers or unit == BLANK_TOKEN})
        if missing:
            names = ", ".join(repr(unit) for unit in missing[:5])
            raise DataError(
                f"text {text!r}: cannot be spelt, {names} not among the {len(self)} "
                f"{self.kind}; correct the text or train with it"
            )
        return [numbers[unit] for unit in units]

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of token numbers that hold no blank."""
        units = [self.tokens[number] for number in numbers]
        return " ".join("".join(units).split()) if self.kind == "characters" else " ".join(units)


def _split(kind: str, text: str) -> list[str]:
    if kind == "characters":
        return list(text)
    return text.split() if kind == "words" else [text]
