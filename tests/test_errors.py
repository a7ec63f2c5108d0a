"""Errors: exit codes, the one table look-up, and what it says of a wrong name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechseq import errors
from speechseq.errors import SpeechseqError, UsageError, choose, nearest

EXIT_CODES = {
    "SpeechseqError": 1,
    "UsageError": 2,
    "AudioError": 1,
    "DataError": 1,
    "ModelError": 1,
    "SomeInputsFailed": 3,
    "GateFailed": 4,
}


def test_every_exception_has_its_exit_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, SpeechseqError)
    }
    assert found == EXIT_CODES


@pytest.mark.parametrize(
    ("name", "known", "says"),
    [
        ("lstn", ["lstm", "gru", "rnn"], "; did you mean 'lstm'?"),
        ("test_a", ["test_b", "test_c", "zebra"], "; did you mean 'test_c' or 'test_b'?"),
        ("violin", ["lstm", "gru"], "; choose from gru, lstm"),
        ("", ["b", "a"], "; choose from a, b"),
        ("x", [], "; there are none"),
    ],
)
def test_nearest(name: str, known: list[str], says: str) -> None:
    assert nearest(name, known) == says


def test_nearest_names_two_at_most() -> None:
    assert nearest("mel", ["mela", "melb", "melc"]).count("mel") == 2


def test_choose_returns_the_entry() -> None:
    assert choose({"a": 1, "b": 0}, "b", "cell") == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("greedi", "decoder: unknown decoder 'greedi'; did you mean 'greedy'?"),
        ("7", "decoder: unknown decoder '7'; choose from class, greedy"),
        ("two\nlines", r"decoder: unknown decoder 'two\nlines'; choose from class, greedy"),
    ],
)
def test_choose_names_what_is_unknown(name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose({"greedy": 1, "class": 2}, name, "decoder")
    assert str(caught.value) == says


@given(st.text(), st.dictionaries(st.text(alphabet="abc", min_size=1), st.integers()))
def test_choose_finds_what_is_there_and_refuses_the_rest(name: str, table: dict[str, int]) -> None:
    if name in table:
        assert choose(table, name, "thing") == table[name]
        return
    with pytest.raises(UsageError) as caught:
        choose(table, name, "thing")
    assert len(str(caught.value).splitlines()) == 1
