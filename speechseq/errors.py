"""What can go wrong, as exceptions that carry their exit code, and the one table look-up.

Every message reads ``<where>: <what is wrong>; <what to do>`` and fits one line: the command
line prints it as it stands.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class SpeechseqError(Exception):
    """The work could not be done; the message says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(SpeechseqError):
    """What the user typed or wrote (a flag, a recipe key) is not understood."""

    exit_code = 2


class AudioError(SpeechseqError):
    """A file, stream or array is not usable audio."""


class DataError(SpeechseqError):
    """A corpus, manifest, archive or download is missing or damaged."""


class ModelError(SpeechseqError):
    """A model file or run folder is missing, damaged or not one of ours."""


class SomeInputsFailed(SpeechseqError):
    """Some of many inputs failed; the others were done."""

    exit_code = 3


class GateFailed(SpeechseqError):
    """A check that stands before a result was not passed, so the result was not written."""

    exit_code = 4


BRIEF_CHARACTERS = 80
"""Longest form of a value in a message."""

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 2
_BRIEF.maxstring = _BRIEF.maxother = BRIEF_CHARACTERS


def brief(value: object) -> str:
    """Return a value as Python writes it, cut to a length and depth that fit a message."""
    text = _BRIEF.repr(value)
    return text if len(text) <= BRIEF_CHARACTERS else f"{text[: BRIEF_CHARACTERS - 1]}…"


def installing(extra: str) -> str:
    """Say how to install what an extra of this package needs."""
    return f"pip install '.[{extra}]' in the clone"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are close to `name`: "; did you mean 'x'?", or list them all.

    An empty table gives "; there are none".
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "; choose from " + ", ".join(names) if names else "; there are none"


def choose(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """Look `name` up in `table`.

    Raises:
        UsageError: `name` is not there; the message names the nearest entries.
    """
    if name in table:
        return table[name]
    raise UsageError(f"{what}: unknown {what.rpartition('.')[2]} {name!r}{nearest(name, table)}")
