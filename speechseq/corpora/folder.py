"""Clips of one's own in folders: the name of a folder is the class of the clips in it."""

from __future__ import annotations

from pathlib import Path

from speechseq.corpora.clips import clips_in, folders_in, hashed_speaker, measured
from speechseq.errors import DataError
from speechseq.manifest import Corpus, Utterance
from speechseq.sound_files import SUFFIXES

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "testing"), "test"),
}
"""What splits are called, in small letters; no name is to learn from."""

NOISE = "_background_noise_"


def read(place: Path) -> list[Utterance]:
    """List the clips of every class, with a split of train.

    A folder of noise recordings, `_background_noise_`, is no class: training mixes them in.
    Where the classes lie inside folders train, validation (val, dev) or test, those are the
    splits. Clips
    called {speaker}_nohash_{n}, as in Speech Commands, name their speakers.

    Raises:
        DataError: there are no classes, or folders of splits lie beside folders of classes.
    """
    found = []
    for label, split in label_folders(place):
        clips = clips_in(label)
        if not clips and any(path.name[0] != "." for path in label.iterdir()):
            raise DataError(
                f"{label}: holds no clips of {', '.join(SUFFIXES)}, but other things; put the "
                f"clips right into it, or move it away"
            )
        found += [
            Utterance(str(clip), 0.0, label.name, hashed_speaker(name), split=split)
            for name, clip in clips.items()
        ]
    if not found:
        raise DataError(
            f"{place}: no folders of clips here; put each word's clips into a folder of its name"
        )
    return measured(found)


def label_folders(place: Path) -> list[tuple[Path, str]]:
    """List the folders of the classes, each with its split, whether they hold clips or not.

    Raises:
        DataError: it is no folder, or folders of splits lie beside folders of classes.
    """
    if not place.is_dir():
        raise DataError(f"{place}: not a folder; give one with a folder of clips for each class")
    folders = [path for path in folders_in(place) if path.name != NOISE]
    splits = [path for path in folders if path.name in SPLIT_NAMES and not clips_in(path)]
    if splits and len(splits) != len(folders):
        odd = next(path.name for path in folders if path not in splits)
        raise DataError(f"{place}: {odd!r} lies beside {splits[0].name!r}; move it into a split")
    if not splits:
        return [(path, "train") for path in folders]
    return [
        (path, SPLIT_NAMES[parent.name])
        for parent in splits
        for path in folders_in(parent)
        if path.name != NOISE
    ]


CORPUS = Corpus(
    name="folder",
    title="your own clips: one folder for each class",
    splits=(),
    read=read,
    noise=NOISE,
)

SYNTHETIC = Corpus(
    name="synthetic_words",
    title="English words by synthetic voices, 16 kHz",
    splits=("train",),
    read=read,
    folder="synthetic_words",
    licence="your own",
    homepage="https://huggingface.co/hexgrad/Kokoro-82M",
    made_by="python scripts/make_words.py -o data/corpora/synthetic_words",
)
