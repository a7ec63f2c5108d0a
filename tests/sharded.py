"""What the tests of shards share: clips, a small recipe, and shards written and damaged."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
from conftest import tone

from speechseq.audio import write_wav
from speechseq.corpora.shards import Index, Sample, index_path, read_index, read_shard
from speechseq.manifest import Utterance
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.training.data import Batch
from speechseq.training.sharding import Limit, write_shards
from speechseq.training.stream import StreamData, vocabulary_of_index

CLIPS = 41


def clip(folder: Path, number: int, text: str = "") -> Utterance:
    """A short tone whose text is a number of its own, spelt with letters."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.wav"
    write_wav(path, tone(300.0 + 40 * number, 0.1 + 0.01 * (number % 9), seed=number), 8000)
    return Utterance(str(path), 0.0, text or f"w{number}")


def written(place: Path) -> list[Path]:
    """The same clips as shards of 4, of 11, and all but one utterance in one shard of two."""
    clips = [clip(place / "clips", number) for number in range(CLIPS)]
    for size in (4, 11, CLIPS - 1):
        write_shards(clips, place / str(size) / "train-%03d.tar", limit=Limit(utterances=size))
    return [place / str(size) for size in (4, 11, CLIPS - 1)]


def made_recipe(buffer: int = 10, **sections: Any) -> Recipe:
    tree = {
        "data": {"corpus": "shards", "tokens": "words", "buffer_utterances": buffer},
        "features": {"rate": 8000, "mels": 4, "low_hz": 60},
        "training": {"batch": 4},
    }
    return recipe_from_dict({**tree, **sections}, "test")


def stream(folder: Path, recipe: Recipe, ranks: int = 1, **more: Any) -> StreamData:
    index = read_index(index_path(folder, "train"))
    return StreamData(index, vocabulary_of_index(recipe, index), [], recipe, ranks, **more)


def heard(pieces: Sequence[Batch]) -> Counter[str]:
    return Counter(u.text for piece in pieces if piece.weight for u in piece.utterances)


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.log_mels.equal(b.log_mels) and a.labels.equal(b.labels)
        and (a.rows, a.utterances, a.weight) == (b.rows, b.utterances, b.weight)
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


def flac() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(500, 0.2), 8000, format="FLAC")
    return file.getvalue()


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def content(index: Index) -> dict[str, Sample]:
    found = {}
    for shard in index.shards:
        for sample in read_shard(index.locate(shard), shard.utterances):
            assert isinstance(sample, Sample), sample
            found[Path(sample.utterance.audio_filepath).name] = sample
    return found
