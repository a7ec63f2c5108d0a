"""Recognitions as text; each writer takes the input's name and what was recognised in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from speechseq.recogniser import Recognition


def as_text(name: str, recognition: Recognition) -> str:
    """Return the recognised text alone; the name is for writers that show it."""
    del name
    return recognition.text


def as_json(name: str, recognition: Recognition) -> str:
    """Return one line of JSON: file, text, confidence, duration, and words with their times (s)."""
    # A file name need not be Unicode, but JSON must.
    file = os.fsencode(name).decode("utf-8", errors="replace")
    return json.dumps({"file": file, **asdict(recognition)}, ensure_ascii=False)


WRITERS: dict[str, Callable[[str, Recognition], str]] = {"txt": as_text, "json": as_json}
"""Output formats by name, which is also the ending of their files."""
