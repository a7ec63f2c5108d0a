"""scripts/make_strings.py: sentences out of speakers' own words."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from speechseq.audio import write_wav
from speechseq.manifest import Utterance, read_manifest, write_manifest

RATE = 16000


def clips(folder: Path, speaker: str, words: str) -> list[Utterance]:
    """Write a tone for each word."""
    found = []
    for number, word in enumerate(words.split()):
        path = folder / f"{speaker}{number}.wav"
        tone = 0.3 * np.sin(np.arange(RATE // 4) * (0.1 + 0.05 * number))
        write_wav(path, tone.astype(np.float32), RATE)
        found.append(Utterance(str(path), 0.25, word, speaker, split="train"))
    return found


def own(words: list[Utterance]) -> dict[str, list[Utterance]]:
    return {word.text: [word] for word in words}


def test_words_stand_for_others_of_their_kind_that_the_speaker_said(
    script: ModuleType, tmp_path: Path
) -> None:
    said = own(clips(tmp_path, "ann", "six seven enter"))
    texts = {
        tuple(u.text for u in script.chosen("erase two nine maria", said, random.Random(seed)))
        for seed in range(40)
    }
    assert texts == {("enter", a, b) for a in ("six", "seven") for b in ("six", "seven")}


def test_strings_are_of_one_speaker_each_and_say_what_they_hold(
    script: ModuleType, tmp_path: Path
) -> None:
    speakers = {
        "ann": own(clips(tmp_path, "ann", "six seven")),
        "bob": own(clips(tmp_path, "bob", "a b c")),
    }
    texts = ["one two three", "x y z", "june"]
    made = list(script.strings(texts, speakers, 12, RATE))
    assert {speaker for _, _, speaker in made} == {"ann", "bob"}
    for samples, text, speaker in made:
        words = text.split()
        assert len(words) == 3 and set(words) <= set(speakers[speaker])
        assert 3 * 0.25 - 2 * 0.04 <= len(samples) / RATE - 2 * 0.05 <= 3 * 0.25 + 0.2 + 0.7
    again = list(script.strings(texts, speakers, 12, RATE))
    assert [text for _, text, _ in again] == [text for _, text, _ in made]
    np.testing.assert_array_equal(again[5][0], made[5][0])


def test_only_training_speakers_words_are_joined(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = clips(tmp_path, "ann", "six seven")
    held = [replace(u, split="validation") for u in clips(tmp_path, "bob", "two")]
    write_manifest(tmp_path / "data.jsonl", [*train, *held])
    write_manifest(tmp_path / "words.jsonl", [*train, *held])
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"data: {{corpus: jsonl, root: {tmp_path / 'data.jsonl'}, tokens: characters}}"
    )
    command = [str(recipe), str(tmp_path / "words.jsonl"), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["make_strings.py", *command, "--count", "3"])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1, "one word a sentence makes no string"
    assert "hardly a sentence" in capsys.readouterr().err
    longer = [replace(u, text="six two") for u in train]
    write_manifest(tmp_path / "data.jsonl", [*longer, *held])
    script.main()
    made = read_manifest(tmp_path / "out" / "strings.jsonl")
    assert [u.speaker for u in made] == ["ann"] * 3
    assert {u.split for u in made} == {"train"}
