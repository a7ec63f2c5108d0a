"""Speech Commands: its lists, its unknown words and its silence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from layouts import COMMANDS, make_layout, tone
from test_corpora import splits

from speechseq.corpora import CORPORA
from speechseq.errors import DataError, UsageError
from speechseq.manifest import read_utterance

SPEECH_COMMANDS = ("speech_commands", "speech_commands_v0.01")


def commands(place: Path, **options: object) -> Counter[tuple[str, str]]:
    found = CORPORA["speech_commands"].read(place, **options)
    return Counter((u.split, u.text) for u in found)


@pytest.mark.parametrize("name", SPEECH_COMMANDS)
def test_speech_commands_follow_the_lists(name: str, tmp_path: Path) -> None:
    found = CORPORA[name].read(make_layout(name, tmp_path))
    official = [u for u in found if u.split != "canonical-test"]
    assert {u.text for u in official} == set(COMMANDS)
    by_split = {split: {u.speaker for u in official if u.split == split} for split in splits(found)}
    assert by_split["validation"] == {"3d4e5f60"} and by_split["test"] == {"4e5f6071"}
    assert len(by_split["train"]) == 3


def test_speech_commands_of_some_words(tmp_path: Path) -> None:
    found = commands(make_layout("speech_commands", tmp_path), words=("yes", "no"))
    assert {label for _, label in found} == {"yes", "no"}
    assert found["train", "yes"] == 6 and found["canonical-test", "no"] == 1


def test_speech_commands_with_unknown_and_silence(tmp_path: Path) -> None:
    place = make_layout("speech_commands", tmp_path)
    found = commands(place, words=("yes", "no"), unknown=True, silence=True)
    # Train: all unknown clips there are, and for silence twice the 6 clips a known word has;
    # elsewhere a tenth of 4 or 12 clips, rounded up.
    assert found["train", "_unknown_"] == 12 and found["train", "_silence_"] == 12
    for split in ("validation", "test"):
        assert found[split, "_unknown_"] == 1 and found[split, "_silence_"] == 1
    assert found["canonical-test", "_unknown_"] == 1 and found["canonical-test", "_silence_"] == 1


def test_unknown_is_never_a_known_word(tmp_path: Path) -> None:
    place = make_layout("speech_commands", tmp_path)
    options = {"words": ("yes", "no"), "unknown": True}
    found = CORPORA["speech_commands"].read(place, **options)
    unknown = [u for u in found if u.text == "_unknown_" and u.split != "canonical-test"]
    assert {Path(u.audio_filepath).parent.name for u in unknown} <= {"bed", "cat"}
    canonical = [u for u in found if u.text == "_unknown_" and u.split == "canonical-test"]
    assert [u.speaker for u in canonical] == ["4e5f6071"]


def test_choice_of_unknown_does_not_hang_on_the_suffix(tmp_path: Path) -> None:
    place = make_layout("speech_commands", tmp_path)

    def chosen() -> list[str]:
        found = CORPORA["speech_commands"].read(place, words=("yes",), unknown=True)
        return [u.key for u in found if u.text == "_unknown_" and u.split == "validation"]

    before = chosen()
    for clip in (place / "bed").iterdir():
        tone(clip.with_suffix(".flac"))
        clip.unlink()
    assert chosen() == before and len(before) == 1


def test_silence_of_the_splits_does_not_overlap(tmp_path: Path) -> None:
    place = make_layout("speech_commands", tmp_path)
    for word in COMMANDS:
        for number in range(60):
            tone(place / word / f"{number:08x}_nohash_0.wav")
    found = CORPORA["speech_commands"].read(place, silence=True)
    silence = [u for u in found if u.text == "_silence_" and u.split != "canonical-test"]
    train = [u for u in silence if u.split == "train"]
    assert len(train) == 132 and sum(not u.audio_filepath for u in train) == 14
    assert all(u.duration == 1.0 for u in silence)
    bounds = {"train": (0, 16), "validation": (16, 18), "test": (18, 20)}
    for utterance in silence:
        if utterance.audio_filepath:
            first, last = bounds[utterance.split]
            assert first <= utterance.offset and utterance.offset + 1 <= last
    assert len({u.key for u in train if u.audio_filepath}) == 118
    noises = [np.sqrt(np.mean(read_utterance(u, 16000) ** 2)) for u in train if u.audio_filepath]
    levels = np.sort(20 * np.log10(noises))
    assert np.abs(levels - np.linspace(-80, -10, len(levels))).max() < 5  # evenly spread, in dB


def test_speech_commands_refusals(tmp_path: Path) -> None:
    place = make_layout("speech_commands", tmp_path)
    with pytest.raises(UsageError, match=r"no word 'yess' .*did you mean 'yes'"):
        commands(place, words=("yess",))
    with pytest.raises(UsageError, match="unknown: needs words"):
        commands(place, unknown=True)
    for clip in (place / "_background_noise_").iterdir():
        clip.unlink()
    with pytest.raises(DataError, match="_background_noise_: no noise long enough"):
        commands(place, silence=True)
    (place / "validation_list.txt").unlink()
    with pytest.raises(DataError, match=r"validation_list.txt: cannot be read"):
        commands(place)
