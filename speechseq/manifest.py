"""Utterances and the JSON-lines manifests that hold them; what a corpus is.

One line an utterance, with the keys users of NeMo know: ``audio_filepath``, ``duration``,
``text``, and optionally ``speaker``, ``offset``, ``split``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from speechseq.audio import MAX_SECONDS, read_audio
from speechseq.errors import AudioError, DataError, UsageError, nearest
from speechseq.files import Archive, atomic_write

CORPORA_VARIABLE = "SPEECHSEQ_CORPORA"
DEFAULT_CORPORA = Path("data/corpora")

MOMENT = 1e-3
"""Seconds by which rounding lets two stretches overlap that only touch."""

MANIFEST = ".jsonl"
"""How a manifest's name ends."""

NOISE_TRAINING_SHARE = 0.8
"""How much of each noise recording training hears; the rest is for other splits' silence."""


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech in an audio file, and what is said in it.

    `duration` and `offset` are seconds; `offset` is where the utterance begins in the file.
    A duration of 0 means up to the end of the file. An empty `audio_filepath` stands for
    digital silence of `duration` seconds. Samples are multiplied by `volume`.
    """

    audio_filepath: str
    duration: float
    text: str
    speaker: str = ""
    offset: float = 0.0
    split: str = ""
    volume: float = 1.0

    @property
    def stretch(self) -> tuple[str, float]:
        """The very stretch of audio: the file, by its real path, and where in it."""
        return os.path.realpath(self.audio_filepath), round(self.offset, 3)

    @property
    def key(self) -> str:
        """Name the stretch of audio, without the folder it lies in: stable across machines.

        Files of the same name in folders of the same name share it.
        """
        path = Path(self.audio_filepath)
        return f"{path.parent.name}/{path.stem}@{self.offset:.3f}"


def rank_of(name: str) -> str:
    """Return what names are sorted by to be as if in random order, but alike on every machine."""
    # File names need not be Unicode: what is not stands in them as lone surrogates.
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "audio_filepath": str,
    "duration": (int, float),
    "text": str,
    "speaker": str,
    "offset": (int, float),
    "split": str,
    "volume": (int, float),
}
_NUMBERS = {"duration": "seconds", "offset": "seconds", "volume": "factors"}
LONGEST_SECONDS = 1e7
"""Times of a manifest are less, so that they can be counted in samples."""
_REQUIRED = ("audio_filepath", "duration", "text")


def parse_line(line: str, where: str, folder: Path) -> Utterance:
    """Read one manifest line; relative audio paths are taken from `folder`.

    Unknown keys are ignored, as other toolkits write their own beside these; null is as if the
    key were not there.

    Raises:
        DataError: not a JSON object, or a key is missing or of the wrong type.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); write one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object; write one JSON object a line")
    row = {name: value for name, value in row.items() if value is not None}
    for name in _REQUIRED:
        if name not in row:
            raise DataError(f"{where}: no {name!r}; add it ({', '.join(_REQUIRED)} are required)")
    for name, kind in _FIELD_TYPES.items():
        if name in row and (not isinstance(row[name], kind) or isinstance(row[name], bool)):
            raise DataError(f"{where}: {name!r} is {row[name]!r}; a {_type_name(kind)} goes here")
    for name, unit in _NUMBERS.items():
        if not 0 <= row.get(name, 0) < LONGEST_SECONDS:
            raise DataError(f"{where}: {name!r} is {row[name]!r}; {unit}, 0 or more, go here")
    values = {name: row[name] for name in _FIELD_TYPES if name in row}
    if values["audio_filepath"]:
        values["audio_filepath"] = str(folder / values["audio_filepath"])
    return Utterance(**values)


def _type_name(kind: type | tuple[type, ...]) -> str:
    return "string" if kind is str else "number"


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a manifest of JSON lines; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is empty, or a line is wrong (it is named).
    """
    path = Path(path)
    try:
        # Not splitlines(): JSON may hold U+2028 and the like inside a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give a manifest of JSON lines"
        ) from None
    utterances = [
        parse_line(line, f"{path}:{number}", path.parent)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not utterances:
        raise DataError(f"{path}: holds no utterance; write one JSON object a line")
    return utterances


def read_split(path: str | os.PathLike[str], split: str = "", usual: str = "") -> list[Utterance]:
    """Read the utterances of one split of a manifest: of all, where it does not name several.

    Where none is chosen, the `usual` one is taken, if it is there. Beside utterances of named
    splits those of none are of train, as when a recipe lists them.

    Raises:
        DataError: as `read_manifest`.
        UsageError: there is no such split, or there are several and none is chosen.
    """
    return of_split(read_manifest(path), split, usual, where=str(path))


def of_split(
    utterances: list[Utterance], split: str = "", usual: str = "", *, where: str
) -> list[Utterance]:
    """Return the utterances of one split, as `read_split`; `where` is what an error names.

    Raises:
        UsageError: as `read_split`.
    """
    if any(u.split for u in utterances):
        utterances = [replace(u, split=u.split or "train") for u in utterances]
    names = sorted({u.split for u in utterances if u.split})
    if split or len(names) < 2:
        chosen = [u for u in utterances if not split or u.split == split]
        if not chosen:
            raise UsageError(f"{where}: no utterance of split {split!r}{nearest(split, names)}")
        return chosen
    if usual not in names:
        raise UsageError(f"{where}: holds several splits ({', '.join(names)}); choose with --split")
    return [u for u in utterances if u.split == usual]


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write utterances as JSON lines, atomically; optional keys at their defaults are left out."""
    with atomic_write(path) as file:
        for utterance in utterances:
            row = {
                name: value
                for name, value in asdict(utterance).items()
                if name in _REQUIRED or value != getattr(Utterance, name)
            }
            line = json.dumps(row, ensure_ascii=False) + "\n"
            # A file name need not be Unicode; what is not becomes JSON's own \udc.. escape.
            file.write(line.encode(errors="backslashreplace"))


def read_utterance(utterance: Utterance, rate: int) -> np.ndarray:
    """Return an utterance's samples (samples,); an empty path is digital silence.

    Raises:
        AudioError: as `read_audio`; silence longer than MAX_SECONDS.
    """
    if not utterance.audio_filepath:
        if utterance.duration > MAX_SECONDS:
            raise AudioError(
                f"silence of {utterance.duration:g} s; the limit is {MAX_SECONDS:g} s, shorten it"
            )
        return np.zeros(max(round(utterance.duration * rate), 1), np.float32)
    samples = read_audio(
        utterance.audio_filepath, rate, offset=utterance.offset, duration=utterance.duration
    )
    return samples if utterance.volume == 1.0 else samples * np.float32(utterance.volume)


@dataclass(frozen=True)
class Statistics:
    """How much speech a list of utterances holds; durations are seconds."""

    utterances: int
    hours: float
    speakers: int
    shortest: float
    longest: float
    words: int
    texts: tuple[tuple[str, int], ...]


def statistics(utterances: Sequence[Utterance]) -> Statistics:
    """Count utterances, hours, speakers, words and each text (most frequent first)."""
    durations = [utterance.duration for utterance in utterances] or [0.0]
    return Statistics(
        utterances=len(utterances),
        hours=sum(durations) / 3600,
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker}),
        shortest=min(durations),
        longest=max(durations),
        words=sum(len(utterance.text.split()) for utterance in utterances),
        texts=tuple(Counter(utterance.text for utterance in utterances).most_common()),
    )


def shared_speakers(one: Iterable[Utterance], other: Iterable[Utterance]) -> set[str]:
    """Name the speakers heard in both lists; such a pair's scores say nothing of new speakers."""
    return {u.speaker for u in one if u.speaker} & {u.speaker for u in other if u.speaker}


def shared_audio(one: Iterable[Utterance], other: Iterable[Utterance]) -> set[str]:
    """Name the stretches of one list that the other has, too, or a part of; there must be none."""

    def by_file(utterances: Iterable[Utterance]) -> dict[str, list[tuple[float, float]]]:
        found = defaultdict(list)
        for u in utterances:
            if u.audio_filepath:  # one file may be called by several names
                end = u.offset + u.duration if u.duration else math.inf
                found[os.path.realpath(u.audio_filepath)].append((u.offset, end))
        return found

    theirs = by_file(other)
    return {
        f"{path}@{begin:.3f}"
        for path, stretches in by_file(one).items()
        for begin in _overlapping(stretches, theirs[path])
    }


def _overlapping(
    one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> list[float]:
    """Return where those (begin, end) of one list begin that one of the other overlaps."""
    other = sorted(other)
    begins = [begin for begin, _ in other]
    latest = list(accumulate((end for _, end in other), max))
    found = []
    for begin, end in one:
        before = bisect_left(begins, end - MOMENT)  # so many begin before it ends
        if before and latest[before - 1] > begin + MOMENT:
            found.append(begin)
    return found


@dataclass(frozen=True)
class Corpus:
    """A public corpus, or a layout of one's own: where it comes from and how to list it.

    `read` takes the corpus' folder and, by keyword, the `options` it names, and returns every
    utterance with its `split`. `folder` is its name below a folder of corpora; an empty one
    means that the user always gives the place. `noise` is its folder of noise recordings.
    `made_by` is the command that makes what nobody publishes.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    read: Callable[..., list[Utterance]]
    folder: str = ""
    licence: str = ""
    homepage: str = ""
    archives: tuple[Archive, ...] = ()
    options: tuple[str, ...] = ()
    noise: str = ""
    made_by: str = ""

    def locate(self, root: str | os.PathLike[str] = "") -> Path:
        """Find the corpus: at `root`, else below $SPEECHSEQ_CORPORA, else below data/corpora.

        Raises:
            DataError: it is at none of these places.
        """
        if root:
            if not Path(root).exists():
                raise DataError(f"{root}: no such file or folder; give the place of {self.name}")
            return Path(root)
        if not self.folder:
            raise UsageError(
                f"{self.name}: needs the place of your data; give it with --root (train: data.root)"
            )
        parents = [Path(os.environ[CORPORA_VARIABLE])] if os.environ.get(CORPORA_VARIABLE) else []
        parents.append(DEFAULT_CORPORA)
        for parent in parents:
            if (parent / self.folder).is_dir():
                return parent / self.folder
        looked = " and ".join(str(parent / self.folder) for parent in parents)
        raise DataError(
            f"{self.name}: not found at {looked}; "
            f"run '{self.made_by or f'speechseq data download {self.name}'}' "
            f"or give its place with --root (train: data.root)"
        )

    def utterances(
        self, split: str, *, root: str | os.PathLike[str] = "", **options: object
    ) -> list[Utterance]:
        """List one split's utterances.

        Raises:
            UsageError: the corpus has no such split.
            DataError: the corpus, or this split of it, is not there.
        """
        if self.splits and split not in self.splits:
            raise UsageError(f"{self.name}: no split {split!r}; it has {', '.join(self.splits)}")
        place = self.locate(root)
        there = self.read(place, **options)
        found = [u for u in there if u.split == split]
        if not found:
            missing = f"{self.name}: split {split!r} is not in {place}"
            if self.splits:
                raise DataError(f"{missing}; it must be added there")
            names = ", ".join(sorted({u.split for u in there}))
            raise DataError(
                f"{missing}, which holds {names}; it must be added there, or take --split "
                f"validation, which was held out of training"
            )
        return found
