"""Hebrew yes and no: 60 clips of eight words at 8 kHz, one speaker; the name is the transcript."""

from __future__ import annotations

import re
from pathlib import Path

from speechseq.corpora.clips import clips_in, measured, require
from speechseq.files import Archive
from speechseq.manifest import Corpus, Utterance

_WORDS = {"1": "yes", "0": "no"}
_TRAIN_CLIPS = 30


def read(place: Path) -> list[Utterance]:
    """List the clips by name: the first 30 are the training split, the others the test split.

    Raises:
        DataError: `place` is not this corpus.
    """
    clips = {name: path for name, path in clips_in(place).items() if re.fullmatch(r"[01_]+", name)}
    require(clips, place, "0_1_0_1_0_1_0_1.wav and its like")
    return measured(
        Utterance(
            str(path),
            0.0,
            " ".join(_WORDS[digit] for digit in name if digit in _WORDS),
            split="train" if number < _TRAIN_CLIPS else "test",
        )
        for number, (name, path) in enumerate(sorted(clips.items()))
    )


CORPUS = Corpus(
    name="yesno",
    title="Hebrew yes/no: 60 clips of 8 words, one speaker, 8 kHz, 0.1 h",
    splits=("train", "test"),
    read=read,
    folder="waves_yesno",
    licence="Apache 2.0",
    homepage="https://www.openslr.org/1/",
    archives=(
        Archive(
            "http://www.openslr.org/resources/1/waves_yesno.tar.gz",
            sha256="c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
            member="waves_yesno",
        ),
    ),
)
