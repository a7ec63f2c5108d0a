"""Free Spoken Digit Dataset: English digits at 8 kHz, six speakers, tightly trimmed."""

from __future__ import annotations

import re
from pathlib import Path

from speechseq.corpora.clips import clips_in, measured, require
from speechseq.errors import UsageError, nearest
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_TEST_RECORDINGS = 5
_NAME = re.compile(r"(\d)_(.+)_(\d+)")


def read(place: Path, *, held_out_speaker: str = "") -> list[Utterance]:
    """List the digits as words. Split test is recordings 0 to 4 of each digit and speaker.

    With `held_out_speaker`, the test split is all of that speaker instead, and the training
    split everyone else.

    Raises:
        UsageError: no such speaker.
        DataError: `place` is not this corpus.
    """
    clips = clips_in(place / "recordings")
    rows = [
        (int(match[1]), match[2], int(match[3]), path)
        for match, path in ((_NAME.fullmatch(name), path) for name, path in clips.items())
        if match
    ]
    require(rows, place, "recordings/{digit}_{speaker}_{n}.wav")
    speakers = {speaker for _, speaker, _, _ in rows}
    if held_out_speaker and held_out_speaker not in speakers:
        raise UsageError(
            f"held_out_speaker: no speaker {held_out_speaker!r} in {place}"
            f"{nearest(held_out_speaker, speakers)} (speakers: {', '.join(sorted(speakers))})"
        )

    def split(speaker: str, number: int) -> str:
        if held_out_speaker:
            return "test" if speaker == held_out_speaker else "train"
        return "test" if number < _TEST_RECORDINGS else "train"

    return measured(
        Utterance(str(path), 0.0, WORDS[digit], speaker, split=split(speaker, number))
        for digit, speaker, number, path in rows
    )


CORPUS = Corpus(
    name="fsdd",
    title="Free Spoken Digit Dataset: English digits, 6 speakers, 8 kHz, 0.4 h",
    splits=("train", "test"),
    read=read,
    folder="free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    archives=(
        Archive(
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
            member="free-spoken-digit-dataset-*",
        ),
    ),
    options=("held_out_speaker",),
)
