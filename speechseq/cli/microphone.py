"""The microphone, through sounddevice, as blocks of samples."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from speechseq.cli.terminal import note
from speechseq.errors import SpeechseqError, installing

if TYPE_CHECKING:
    import numpy as np

    from speechseq.streaming import Resampler

BLOCK_SECONDS = 0.05
"""Samples that come together."""

SILENT_SECONDS = 5.0
"""A microphone that gives no samples for so long, not even of silence, is not there any more."""

BEHIND_SECONDS = 2.0
"""Who has so much still to hear is told to."""


class Microphone:
    """A microphone, by its name, a part of it or its number; or the system's own.

    Raises:
        SpeechseqError: sounddevice, PortAudio or the microphone is not there.
    """

    def __init__(self, name: str | None):
        self._library = _sounddevice()
        self._device = int(name) if name and name.isdecimal() else name
        try:
            found = self._library.query_devices(self._device, "input")
        except (ValueError, self._library.PortAudioError) as error:
            there = self._names()
            hint = f"choose from {there} with --input" if there else "plug one in"
            raise SpeechseqError(
                f"microphone{f' {name}' if name else ''}: not found ({_line(error)}); "
                f"{hint}, or give a file"
            ) from None
        self.name: str = found["name"]
        self._own_rate = round(found["default_samplerate"])
        self._heard: queue.Queue[np.ndarray] = queue.Queue()
        self._resample: Resampler | None = None
        self._lost = False

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """Yield what is heard in blocks (samples,) of float32 at `rate`, for ever.

        Raises:
            SpeechseqError: the microphone cannot be opened, or gives nothing.
        """
        from speechseq.streaming import Resampler

        found = rate if self._takes(rate) else self._own_rate
        self._resample = Resampler(found, rate)
        try:
            with self._library.InputStream(
                device=self._device,
                samplerate=found,
                blocksize=round(BLOCK_SECONDS * found),
                channels=1,
                dtype="float32",
                callback=self._hear,
            ):
                yield from map(self._resample, self._taken())
        except self._library.PortAudioError as error:
            raise SpeechseqError(
                f"microphone {self.name}: cannot be opened ({_line(error)}); see that no other "
                f"program holds it, or name another with --input"
            ) from None

    def rest(self) -> Iterator[np.ndarray]:
        """Yield what came and still waits to be taken or resampled: no more is taken."""
        if self._resample:
            for _ in range(self._heard.qsize()):  # more comes until the microphone is closed
                yield self._resample(self._heard.get())
            yield self._resample.finish()

    def _hear(self, samples: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Take samples (frames, 1) from PortAudio, in its own thread: nothing here may wait."""
        self._lost = self._lost or bool(status and status.input_overflow)
        self._heard.put(samples[:, 0].copy())

    def _taken(self) -> Iterator[np.ndarray]:
        """Yield blocks as they come; say once that they come too fast, or that some are lost."""
        told = told_lost = False
        while True:
            try:
                yield self._heard.get(timeout=SILENT_SECONDS)
            except queue.Empty:
                raise SpeechseqError(
                    f"microphone {self.name}: gives nothing; see that it is plugged in"
                ) from None
            if not told and self._heard.qsize() * BLOCK_SECONDS > BEHIND_SECONDS:
                note("listen: too slow to keep up; a longer --latency takes less computing")
                told = True
            if self._lost and not told_lost:
                note("listen: the system lost sound of the microphone; end what else computes")
                told_lost = True

    def _takes(self, rate: int) -> bool:
        """Tell whether the system gives this rate: to resample here takes up to 0.15 s more."""
        try:
            self._library.check_input_settings(self._device, channels=1, samplerate=rate)
        except (ValueError, self._library.PortAudioError):
            return False
        return True

    def _names(self) -> str:
        inputs = (d for d in self._library.query_devices() if d["max_input_channels"])
        return ", ".join(repr(device["name"]) for device in inputs)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise SpeechseqError(
            f"listen: sounddevice is not installed; {installing('listen')}, or give a file"
        ) from None
    except OSError as error:  # it is there, and loads PortAudio, which its wheels hold but on Linux
        raise SpeechseqError(
            f"listen: {_line(error)}; install it (Debian and Ubuntu: libportaudio2), or give a file"
        ) from None
    return sounddevice


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
