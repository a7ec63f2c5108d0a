"""Writers: each one's text, word for word."""

from __future__ import annotations

import json
import os

import pytest

from speechseq.outputs import CUE_LETTERS, CUE_PAUSE_SECONDS, CUE_SECONDS, WRITERS, cue_text, cues
from speechseq.recognition import Recognition, Word

RECOGNITION = Recognition(
    text="zwei drei",
    words=(Word("zwei", 0.1, 0.4, 0.9), Word("drei", 0.5, 0.82, 0.75)),
    confidence=0.8,
    duration=1.0,
)
SILENCE = Recognition(text="", words=(), confidence=1.0, duration=0.5)

GOLDEN = {
    "txt": "zwei drei",
    "json": (
        '{"file": "a/b.wav", "text": "zwei drei", "words": '
        '[{"text": "zwei", "start": 0.1, "end": 0.4, "confidence": 0.9}, '
        '{"text": "drei", "start": 0.5, "end": 0.82, "confidence": 0.75}], '
        '"confidence": 0.8, "duration": 1.0}'
    ),
    "srt": "1\n00:00:00,100 --> 00:00:01,100\nzwei drei",
    "vtt": "WEBVTT\n\n00:00:00.100 --> 00:00:01.100\nzwei drei",
}
GOLDEN_SILENCE = {
    "txt": "",
    "json": '{"file": "a/b.wav", "text": "", "words": [], "confidence": 1.0, "duration": 0.5}',
    "srt": "",
    "vtt": "WEBVTT",
}


@pytest.mark.parametrize("name", WRITERS)
def test_golden(name: str) -> None:
    assert WRITERS[name]("a/b.wav", RECOGNITION) == GOLDEN[name]
    assert WRITERS[name]("a/b.wav", SILENCE) == GOLDEN_SILENCE[name]


def said(*words: tuple[str, float, float]) -> Recognition:
    found = tuple(Word(text, start, end, 1.0) for text, start, end in words)
    return Recognition(" ".join(word.text for word in found), found, 1.0, 9999.0)


def test_subtitles_stay_long_enough_to_be_read_unless_the_next_one_comes() -> None:
    short = said(("a", 0.5, 0.5), ("b", 1.4, 1.42), ("c", 4.0, 4.0))
    vtt = WRITERS["vtt"]("", short)
    assert [line for line in vtt.splitlines() if "-->" in line] == [
        "00:00:00.500 --> 00:00:01.400",
        "00:00:01.400 --> 00:00:02.400",
        "00:00:04.000 --> 00:00:05.000",
    ]


def test_subtitles_are_cut_at_pauses_and_before_they_grow_long() -> None:
    pause = said(("a", 0.0, 1.0), ("b", 1.0 + CUE_PAUSE_SECONDS, 2.0), ("c", 2.1, 2.2))
    assert [cue_text(cue) for cue in cues(pause)] == ["a", "b c"]
    slow = said(("a", 0.0, 3.0), ("b", 3.1, CUE_SECONDS), ("c", CUE_SECONDS, CUE_SECONDS + 0.1))
    assert [cue_text(cue) for cue in cues(slow)] == ["a b", "c"]
    wordy = said(*[("x" * 20, n / 10, n / 10) for n in range(9)])
    assert [len(cue) for cue in cues(wordy)] == [4, 4, 1]
    assert all(len(cue_text(cue)) <= CUE_LETTERS for cue in cues(wordy))
    lone = said(("y" * 200, 0.0, 99.0))
    assert [cue_text(cue) for cue in cues(lone)] == ["y" * 200]


def test_subtitles_write_hours_and_round_up_to_whole_seconds() -> None:
    late = said(("a", 3599.9996, 36001.25))
    assert WRITERS["srt"]("", late) == "1\n01:00:00,000 --> 10:00:01,250\na"
    assert WRITERS["vtt"]("", late) == "WEBVTT\n\n01:00:00.000 --> 10:00:01.250\na"


def test_subtitles_of_two_cues_are_parted_by_one_empty_line() -> None:
    two = said(("a", 0.0, 1.0), ("b", 5.0, 6.0))
    first, second = "00:00:00,000 --> 00:00:01,000", "00:00:05,000 --> 00:00:06,000"
    assert WRITERS["srt"]("", two) == f"1\n{first}\na\n\n2\n{second}\nb"
    assert WRITERS["vtt"]("", two).split("\n\n") == [
        "WEBVTT", f"{first}\na".replace(",", "."), f"{second}\nb".replace(",", ".")
    ]  # fmt: skip


def test_what_is_markup_to_webvtt_is_escaped() -> None:
    odd = said(("<b>&\n-->", 0.0, 1.0))
    assert WRITERS["vtt"]("", odd).endswith("\n&lt;b&gt;&amp; --&gt;")
    assert WRITERS["srt"]("", odd).endswith("\n<b>& -->")


def test_json_is_one_line_and_keeps_letters() -> None:
    heard = Recognition('صفر "null"', (), 0.5, 1.0)
    line = WRITERS["json"]("two\nlines.wav", heard)
    assert "\n" not in line
    assert "صفر" in line
    assert json.loads(line)["file"] == "two\nlines.wav"
    assert json.loads(line)["text"] == 'صفر "null"'


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_name_that_is_not_unicode(name: str) -> None:
    text = WRITERS[name](os.fsdecode(b"caf\xe9.wav"), RECOGNITION)
    assert text.encode()
    if name == "json":
        assert json.loads(text)["file"] == "caf\ufffd.wav"
