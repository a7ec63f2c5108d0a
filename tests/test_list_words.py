"""scripts/list_words.py: single words of several corpora, sentences cut into theirs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from layouts import make_layout

from speechseq.corpora import CORPORA
from speechseq.manifest import CORPORA_VARIABLE, Utterance
from speechseq.recipe import DataSettings, FeatureSettings, Recipe
from speechseq.splits import load_split
from speechseq.tokens import Vocabulary

LETTERS = Vocabulary.from_texts("characters", ["go on"])
FRAMES = 50
RATE = 16000


def hearing(text: str, frames: list[int]) -> SimpleNamespace:
    """A model that hears these letters at these frames and nothing else."""
    log_probs = np.full((1, FRAMES, len(LETTERS)), -9.0, np.float32)
    log_probs[0, :, 0] = 0
    for frame, token in zip(frames, LETTERS.encode(text), strict=True):
        log_probs[0, frame, [0, token]] = -9, 0
    return SimpleNamespace(
        rate=RATE,
        vocabulary=LETTERS,
        network=lambda *batch: (log_probs, np.array([FRAMES])),
        frame_seconds=0.02,
        recipe=Recipe(features=FeatureSettings(edge_seconds=0.1)),
    )


@pytest.fixture
def second(tmp_path: Path) -> Utterance:
    """A second of silence, 0.5 s into a file."""
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(2 * RATE), RATE)
    return Utterance(str(tmp_path / "a.wav"), 1.0, "go on", "me", offset=0.5, split="train")


def test_a_sentence_is_cut_half_way_between_its_words(
    script: ModuleType, second: Utterance
) -> None:
    # Letters of 20 ms at 0.1 and 0.14 s, a space, then 0.4 and 0.46 s, behind 0.1 s of silence.
    words = list(script.words_of(hearing("go on", [10, 12, 18, 25, 28]), [second]))
    assert [u.text for u in words] == ["go", "on"]
    assert [u.offset for u in words] == pytest.approx([0.5, 0.5 + (0.16 + 0.4) / 2])
    ends = [u.offset + u.duration for u in words]
    assert ends == pytest.approx([0.5 + 0.28, 0.5 + 0.48 + script.REACH_SECONDS])
    assert {(u.speaker, u.split) for u in words} == {("me", "train")}


def test_what_is_too_short_or_cannot_be_spelt_is_left_out(
    script: ModuleType, second: Utterance
) -> None:
    words = list(script.words_of(hearing("go on", [1, 2, 3, 40, 41]), [second]))
    assert [u.text for u in words] == ["go", "on"]
    close = list(script.words_of(hearing("go on", [0, 1, 2, 3, 49]), [second]))
    assert [u.text for u in close] == ["on"], "the first has 50 ms"
    long = Utterance(second.audio_filepath, 0.0, "go on" * FRAMES, "me")
    assert not list(script.words_of(hearing("go on", [1, 2, 3, 40, 41]), [long]))


def test_corpora_are_listed_without_words_and_foreign_ones_stand_apart(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path))
    for name in ("speech_commands", "arabic_speech_commands"):
        make_layout(name, tmp_path)
    found = script.listed(script.Choice(without=["bed", "zero"]))
    texts = Counter(u.text for u in found)
    assert set(texts) == {"yes", "no", "cat", "arabic backward", "arabic zoom in", "arabic zero"}
    splits = {(u.split, u.text.startswith("arabic")) for u in found}
    assert splits == {("train", False), ("validation", False), ("train", True)}
    expected = [u for u in CORPORA["speech_commands"].utterances("train") if u.text == "cat"]
    assert [u.key for u in found if u.text == "cat" and u.split == "train"] == [
        u.key for u in expected
    ]
    assert not script.listed(script.Choice(least=1000))


def test_some_words_are_listed_with_so_many_clips_to_train_on(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path))
    make_layout("speech_commands", tmp_path)
    whole = script.listed(script.Choice(only=["yes", "cat"]))
    counts = Counter((u.text, u.split) for u in whole)
    assert set(counts) == {(word, s) for word in ("yes", "cat") for s in ("train", "validation")}
    most = min(n for (_, split), n in counts.items() if split == "train") - 1
    few = Counter((u.text, u.split) for u in script.listed(script.Choice(only=["yes"], most=most)))
    assert few == {
        ("yes", "train"): most,
        ("yes", "validation"): counts["yes", "validation"],
    }


def test_speakers_that_are_to_be_measured_are_not_listed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CORPORA_VARIABLE, str(tmp_path))
    make_layout("an4", tmp_path)
    monkeypatch.setattr(script, "load", lambda name: None)
    monkeypatch.setattr(script, "words_of", lambda model, sentences: iter(sentences))
    held_out = load_split(DataSettings(corpus="an4", validation_speakers=1), "validation", seed=0)
    every = {u.speaker for u in script.listed(script.Choice(least=1))}
    assert {u.speaker for u in script.listed(script.Choice(least=1, without_speakers=1))} == (
        every - {u.speaker for u in held_out}
    )
    assert len(every) > 1


def test_words_are_spelt_as_they_sound(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "phones.txt").write_text("go ɡO\n", encoding="utf-8")
    words = [Utterance("a.wav", 1.0, text, "me", split="train") for text in ("go", "arabic yes")]
    found = script.spelt(words, tmp_path / "phones.txt")
    assert [(u.audio_filepath, u.text) for u in found] == [("a.wav", "ɡO")]
