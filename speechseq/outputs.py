"""Recognitions as text; each writer takes the input's name and what was recognised in it."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from speechseq.recognition import Recognition, Word

CUE_SECONDS = 6.0
CUE_LETTERS = 84
CUE_PAUSE_SECONDS = 0.8
"""A subtitle's longest time and text (two lines of 42 letters), and the pause that ends one."""

LEAST_CUE_SECONDS = 1.0
"""A subtitle stays so long, unless the next one comes: a word may be a frame, or none, long."""


def as_text(name: str, recognition: Recognition) -> str:
    """Return the recognised text alone; the name is for writers that show it."""
    del name
    return recognition.text


def as_json(name: str, recognition: Recognition) -> str:
    """Return one line of JSON: file, text, confidence, duration, and words with their times (s)."""
    # A file name need not be Unicode, but JSON must.
    file = os.fsencode(name).decode("utf-8", errors="replace")
    return json.dumps({"file": file, **asdict(recognition)}, ensure_ascii=False)


def as_srt(name: str, recognition: Recognition) -> str:
    """Return SubRip subtitles; without words, none."""
    del name
    return "\n\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{cue_text(cue)}"
        for number, (cue, start, end) in enumerate(_shown(recognition), 1)
    )


def as_vtt(name: str, recognition: Recognition) -> str:
    """Return WebVTT subtitles; without words, their header alone."""
    del name
    blocks = (
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{html.escape(cue_text(cue), quote=False)}"
        for cue, start, end in _shown(recognition)
    )
    return "\n\n".join(("WEBVTT", *blocks))


def _shown(recognition: Recognition) -> Iterator[tuple[tuple[Word, ...], int, int]]:
    """Yield each subtitle with when it comes and goes, in thousandths of a second."""
    found = cues(recognition)
    starts = [round(cue[0].start * 1000) for cue in found]
    for cue, start, following in zip(found, starts, [*starts, None][1:], strict=True):
        end = max(round(cue[-1].end * 1000), start + round(LEAST_CUE_SECONDS * 1000))
        end = end if following is None else min(end, following)
        yield cue, start, max(end, start + 1)  # that ends as it begins is none to WebVTT


def cues(recognition: Recognition) -> list[tuple[Word, ...]]:
    """Part the words into subtitles: at pauses, and before one grows too long to be read."""
    found: list[list[Word]] = []
    for word in recognition.words:
        if found and _goes_on(found[-1], word):
            found[-1].append(word)
        else:
            found.append([word])
    return [tuple(cue) for cue in found]


def cue_text(words: Sequence[Word]) -> str:
    """Return a subtitle's text, on one line."""
    return " ".join(" ".join(word.text for word in words).split())


def _goes_on(cue: list[Word], word: Word) -> bool:
    return (
        word.start - cue[-1].end < CUE_PAUSE_SECONDS
        and word.end - cue[0].start <= CUE_SECONDS
        and len(cue_text([*cue, word])) <= CUE_LETTERS
    )


def _clock(milliseconds: int, point: str) -> str:
    """Return hours, minutes, seconds and thousandths, as subtitles write them."""
    whole, thousandths = divmod(milliseconds, 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{point}{thousandths:03}"


WRITERS: dict[str, Callable[[str, Recognition], str]] = {
    "txt": as_text,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
}
"""Output formats by name, which is also the ending of their files."""

DOCUMENTS = ("srt", "vtt")
"""Formats of whole documents: two texts one behind the other are none."""
