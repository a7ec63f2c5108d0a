"""Log-mels of clips, computed once and kept on disk, in RAM or mapped from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechseq.errors import DataError
from speechseq.files import CACHE_VARIABLE, atomic_write, cache_folder
from speechseq.manifest import Utterance, read_utterance
from speechseq.padding import pad
from speechseq.recipe import FeatureSettings
from speechseq.training.augment import change_speed
from speechseq.training.features import LogMel
from speechseq.training.notes import Show


@dataclass(frozen=True)
class LogMels:
    """Log-mels of many clips in one array `frames` (total frames, mels), in RAM or mapped.

    Clip n at speed s is ``frames[starts[n, s] : starts[n, s] + lengths[n, s]]``.
    """

    frames: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def clip(self, number: int, speed: int = 0) -> np.ndarray:
        """Return the log-mels (frames, mels) of one clip at one speed."""
        start = self.starts[number, speed]
        return self.frames[start : start + self.lengths[number, speed]]


def cached_log_mels(
    utterances: Sequence[Utterance],
    features: FeatureSettings,
    speeds: Sequence[float] = (1.0,),
    *,
    ram_gigabytes: float,
    progress: Show | None = None,
) -> LogMels:
    """Return the log-mels of every utterance at every speed, computed once and kept on disk.

    The cache is named by a hash of what the numbers depend on: settings, speeds, and each
    source's path, size and times (those of change, too: renamed, it is computed anew). Up to
    `ram_gigabytes` it is read into RAM, else mapped.

    Raises:
        AudioError: an utterance cannot be read.
        DataError: the cache cannot be written.
    """
    key = _cache_key(utterances, features, speeds)
    folder = cache_folder()
    data, index = folder / f"{key}.f32", folder / f"{key}.json"
    if not index.is_file() or not data.is_file():
        _build_cache(data, index, utterances, features, speeds, progress)
    lengths = _lengths(index, (len(utterances), len(speeds)))
    starts = (np.cumsum(lengths.ravel()) - lengths.ravel()).reshape(lengths.shape)
    shape = (int(lengths.sum()), features.mels)
    if data.stat().st_size != shape[0] * shape[1] * 4:
        raise DataError(f"{data}: is not whole; delete it and train again")
    frames: np.ndarray = np.memmap(data, np.float32, "r", shape=shape)
    if frames.nbytes <= ram_gigabytes * 1e9:
        frames = np.array(frames)
    return LogMels(frames, starts, lengths)


def _lengths(index: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read how many frames each clip has at each speed (clips, speeds)."""
    try:
        lengths = np.array(json.loads(index.read_text())["lengths"], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        lengths = np.zeros(0, np.int64)
    if lengths.shape != shape or lengths.min(initial=0) < 0:
        raise DataError(f"{index}: is damaged; delete it and train again")
    return lengths


_AFTER_LOG_MELS = ("kind", "coefficients", "deltas", "cmvn")
"""Feature settings that the cached log-mels do not depend on."""


def _cache_key(
    utterances: Sequence[Utterance], features: FeatureSettings, speeds: Sequence[float]
) -> str:
    """Hash what log-mels depend on; MFCCs, deltas and CMVN are computed from them later."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in asdict(features).items() if k not in _AFTER_LOG_MELS}
    digest.update(json.dumps(["log-mels 2", settings, list(speeds)]).encode())
    sources: dict[str, tuple[Any, ...]] = {"": ()}
    for u in utterances:
        if u.audio_filepath not in sources:
            sources[u.audio_filepath] = _source(Path(u.audio_filepath))
        stretch = (sources[u.audio_filepath], u.offset, u.duration, u.volume)
        digest.update(repr(stretch).encode())
    return digest.hexdigest()[:32]


def _source(path: Path) -> tuple[Any, ...]:
    """Return what tells a file from another, and from what it was before."""
    try:
        status = path.stat()
    except OSError:
        return (os.path.abspath(path),)
    # The time of change is of this copy: archives give all their files the same of modification.
    return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _build_cache(
    data: Path,
    index: Path,
    utterances: Sequence[Utterance],
    features: FeatureSettings,
    speeds: Sequence[float],
    progress: Show | None,
) -> None:
    lengths = []
    try:
        with atomic_write(data) as file:
            for number, clip in enumerate(_compute(utterances, features, speeds)):
                lengths.append([len(frames) for frames in clip])
                for frames in clip:
                    file.write(np.ascontiguousarray(frames).data)
                if progress:
                    progress("features", number + 1, len(utterances))
        with atomic_write(index) as file:
            file.write(json.dumps({"lengths": lengths, "mels": features.mels}).encode())
    except DataError as error:
        raise DataError(f"{error}, or set {CACHE_VARIABLE} to another folder") from None


def _compute(
    utterances: Sequence[Utterance], features: FeatureSettings, speeds: Sequence[float]
) -> Iterator[list[np.ndarray]]:
    """Yield each utterance's log-mels (frames, mels), one array a speed."""
    log_mel = LogMel(features)
    for utterance in utterances:
        samples = read_utterance(utterance, features.rate)
        clips, lengths = pad([change_speed(samples, features.rate, speed) for speed in speeds])
        with torch.inference_mode():
            frames, sizes = log_mel(torch.from_numpy(clips), torch.from_numpy(lengths))
        yield [row[:size].numpy() for row, size in zip(frames, sizes.tolist(), strict=True)]
