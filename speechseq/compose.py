"""Strings of words out of recordings of single ones, alone or in noise: what to measure on."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechseq.audio import write_wav
from speechseq.errors import DataError
from speechseq.files import beside, writing
from speechseq.manifest import Utterance, read_utterance, write_manifest
from speechseq.tokens import NO_TEXT

MANIFEST_NAME = "strings.jsonl"


@dataclass(frozen=True)
class Composition:
    """How strings are made; seconds, and decibels against full scale (`level_db`) or speech.

    A string takes `shortest` to `longest` utterances of one speaker, each with a gap of
    `gap_seconds` behind it (below 0: an overlap), and `margin_seconds` of silence at both ends.
    Its speech has a level from `level_db`; noise lies `snr_db` under it, None for no noise.
    """

    strings: int = 300
    shortest: int = 1
    longest: int = 10
    gap_seconds: tuple[float, float] = (-0.05, 0.5)
    margin_seconds: tuple[float, float] = (0.1, 0.5)
    level_db: tuple[float, float] = (-35.0, -15.0)
    snr_db: float | None = None
    seed: int = 0


String = tuple[np.ndarray, str, str]
"""Samples, text, speaker."""


def write_strings(strings: Iterable[String], folder: Path, rate: int, split: str = "test") -> Path:
    """Write strings as wav files and their manifest, all of `split`; return the manifest's path.

    All of it appears in `folder` once it is whole.

    Raises:
        DataError: `folder` holds files already or cannot be written.
        SpeechseqError: as the strings that are taken.
    """
    with writing(folder):
        there = os.path.lexists(folder)
        if there and any(folder.iterdir()):
            raise DataError(f"{folder}: holds files already; name another folder")
    # An empty folder that is there stays: it may be a mount, or where the user stands.
    staging = beside(folder / MANIFEST_NAME if there else folder)
    try:
        with writing(folder):
            staging.mkdir(parents=True)
        _write_into(staging, strings, rate, split)
        with writing(folder):
            if there:
                for path in sorted(staging.iterdir()):  # the manifest comes last
                    path.rename(folder / path.name)
            else:
                staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / MANIFEST_NAME


def _write_into(folder: Path, strings: Iterable[String], rate: int, split: str) -> None:
    written = []
    for number, (samples, text, speaker) in enumerate(strings):
        path = folder / f"{number:05d}.wav"
        with writing(path):
            write_wav(path, samples, rate)
        written.append(Utterance(path.name, len(samples) / rate, text, speaker, split=split))
    write_manifest(folder / MANIFEST_NAME, written)


def by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Return each speaker's utterances, the speakers in order."""
    found: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        found[utterance.speaker].append(utterance)
    return dict(sorted(found.items()))


def compose(
    utterances: Sequence[Utterance],
    rate: int,
    settings: Composition,
    noises: Sequence[np.ndarray] = (),
) -> Iterator[String]:
    """Yield strings of random utterances of one speaker.

    The same seed gives the same strings; with another `snr_db` they are the same strings in more
    or less of the same noise.

    Raises:
        DataError: no utterances, or an `snr_db` without `noises`.
        AudioError: an utterance cannot be read.
    """
    spoken = by_speaker(utterances)
    if not spoken:
        raise DataError("compose: no utterances; give a split that holds some")
    if settings.snr_db is not None and not noises:
        raise DataError("compose: a signal-to-noise ratio needs noise; give recordings of it")
    speakers = list(spoken)
    for number in range(settings.strings):
        rng = np.random.default_rng([settings.seed, number])
        speaker = speakers[number % len(speakers)]
        count = int(rng.integers(settings.shortest, settings.longest + 1))
        own = spoken[speaker]
        chosen = [own[n] for n in rng.integers(len(own), size=count)]
        text = " ".join(u.text for u in chosen if u.text not in NO_TEXT)
        yield string_of(chosen, rate, settings, noises, rng), text, speaker


def string_of(
    chosen: Sequence[Utterance],
    rate: int,
    settings: Composition,
    noises: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return utterances one behind the other: float32 (samples,) in [-1, 1].

    Raises:
        AudioError: an utterance cannot be read.
    """
    speech, power = _joined([read_utterance(u, rate) for u in chosen], rate, settings, rng)
    level = 10 ** (rng.uniform(*settings.level_db) / 20) / max(np.sqrt(power), 1e-9)
    samples = speech * level
    if settings.snr_db is not None:
        noise = _stretch(noises[int(rng.integers(len(noises)))], len(speech), rng)
        wanted = power * level**2 * 10 ** (-settings.snr_db / 10)
        samples = samples + noise * np.sqrt(wanted / max(np.mean(noise**2), 1e-12))
    string: np.ndarray = (samples / max(np.abs(samples).max(), 1.0)).astype(np.float32)
    return string


def _joined(
    clips: Sequence[np.ndarray], rate: int, settings: Composition, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return clips one behind the other (samples,), and the mean power where there is speech."""
    before, behind = (round(rng.uniform(*settings.margin_seconds) * rate) for _ in range(2))
    starts, at = [], before
    for clip in clips:
        starts.append(max(at, 0))
        at = starts[-1] + len(clip) + round(rng.uniform(*settings.gap_seconds) * rate)
    ends = [start + len(clip) for start, clip in zip(starts, clips, strict=True)]
    string = np.zeros(max(ends) + behind)
    for start, end, clip in zip(starts, ends, clips, strict=True):
        string[start:end] += clip
    power = sum(float(np.sum(clip.astype(np.float64) ** 2)) for clip in clips)
    return string, power / sum(map(len, clips))


def _stretch(noise: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random stretch (size,) of noise, which begins again where it ends."""
    start = int(rng.integers(max(len(noise) - size, 0) + 1))
    stretch: np.ndarray = np.take(noise, np.arange(start, start + size), mode="wrap")
    return stretch.astype(np.float64)
