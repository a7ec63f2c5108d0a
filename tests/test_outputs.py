"""Writers: each one's text, word for word."""

from __future__ import annotations

import json
import os

import pytest

from speechseq.outputs import WRITERS
from speechseq.recogniser import Recognition, Word

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
}
GOLDEN_SILENCE = {
    "txt": "",
    "json": '{"file": "a/b.wav", "text": "", "words": [], "confidence": 1.0, "duration": 0.5}',
}


@pytest.mark.parametrize("name", WRITERS)
def test_golden(name: str) -> None:
    assert WRITERS[name]("a/b.wav", RECOGNITION) == GOLDEN[name]
    assert WRITERS[name]("a/b.wav", SILENCE) == GOLDEN_SILENCE[name]


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
