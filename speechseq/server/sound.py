"""Uploaded bytes and streamed samples to what a recogniser takes, within bounds."""

from __future__ import annotations

import io
import re

import numpy as np
import soundfile

from speechseq.audio import LONGEST_HEADER_SECONDS, read_blocks
from speechseq.errors import AudioError
from speechseq.server.refusal import Refusal

MOST_SAMPLES_A_SECOND = 192_000
"""Over all channels, for the longest audio allowed: a small file of silence may claim far more."""

WAV_PCM = re.compile(rb"RIFF....WAVEfmt ....\x01\0", re.DOTALL)
"""How a wav file begins that holds plain samples, none of them in less than a byte."""

STREAM_RATES = (8000, 48000)
"""Samples per second that a stream may have."""

PCM_BYTES = 2
PCM_SCALE = 1 << 15


def read_upload(data: bytes, rate: int, longest_seconds: float) -> np.ndarray:
    """Read a file's bytes: float32 (samples,) at `rate`.

    Raises:
        Refusal: it is not usable audio (400), or too long, as its header says or as it is (413).
    """
    if not _is_little(data, longest_seconds):
        _check_header(data, longest_seconds)
    blocks: list[np.ndarray] = []
    size = 0
    try:
        for block in read_blocks(data, rate):
            blocks.append(block)
            size += len(block)
            if size > longest_seconds * rate + 1:  # resampling may round up
                raise too_long(longest_seconds, "file")
    except AudioError as error:
        raise Refusal(400, str(error), code="invalid_audio", param="file") from None
    return np.concatenate(blocks)


def _is_little(data: bytes, longest_seconds: float) -> bool:
    """Tell whether a file cannot hold too much, whatever its header claims; most uploads cannot.

    To open a short clip twice is a sixth of the time it takes to read it.
    """
    return len(data) <= MOST_SAMPLES_A_SECOND * longest_seconds and bool(WAV_PCM.match(data))


def _check_header(data: bytes, longest_seconds: float) -> None:
    """Refuse what says that it is too long; what says nothing clear is left to `read_blocks`."""
    try:
        header = soundfile.info(io.BytesIO(data))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        return
    if header.format == "MP3":
        return  # its length may be a guess, and it cannot hold much more than it weighs
    seconds = header.frames / header.samplerate
    if longest_seconds < seconds < LONGEST_HEADER_SECONDS:
        raise too_long(longest_seconds, "file")
    samples = min(seconds, longest_seconds) * header.samplerate * header.channels
    if samples > MOST_SAMPLES_A_SECOND * longest_seconds:
        shape = f"{header.channels} channels at {header.samplerate} Hz"
        message = f"audio: too long for {shape}; convert it to something usual"
        raise Refusal(413, message, code="audio_too_long", param="file")


def read_pcm(data: bytes, found_rate: int, rate: int) -> np.ndarray:
    """Return 16-bit little-endian mono samples as float32 (samples,) in [-1, 1), at `rate`."""
    samples = np.frombuffer(data, "<i2").astype(np.float32) / PCM_SCALE
    if found_rate == rate or not len(samples):
        return samples
    import soxr  # as in speechseq.audio: only where it is needed

    resampled: np.ndarray = soxr.resample(samples, found_rate, rate)
    return np.clip(resampled, -1.0, 1.0)


def too_long(longest_seconds: float, param: str | None = None) -> Refusal:
    """Return the refusal of audio that is longer than allowed, in a form's field if it has one."""
    message = f"audio: longer than {longest_seconds:g} s at most; send it in parts"
    return Refusal(413, message, code="audio_too_long", param=param)
