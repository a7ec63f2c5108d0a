"""The models that come with the package: each opens, is small, and has its card beside it."""

from __future__ import annotations

import numpy as np
import pytest

from speechseq.model_file import BUNDLED, bundled_names, find_model, read_model
from speechseq.recogniser import load


def test_there_are_models() -> None:
    assert {"digits", "commands-en", "commands-ar", "an4"} <= set(bundled_names())


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_model_is_usable(name: str) -> None:
    """A setting that is renamed would leave a model unreadable that was made with its old name."""
    recogniser = load(name)
    heard = recogniser.transcribe(np.zeros(recogniser.rate, np.float32))
    assert heard.duration == 1.0
    assert find_model(name).stat().st_size <= 4e6
    card = read_model(name).card
    assert card["name"] == name and card["licence"] and card["command"]
    written = (BUNDLED / f"{name}.md").read_text(encoding="utf-8")
    assert str(card["command"]) in written and str(card["date"]) in written
