"""Sound through the standard input, as it comes: a wav file whose end nobody knows yet."""

from __future__ import annotations

import io
import sys
import wave
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from speechseq.cli.microphone import BLOCK_SECONDS
from speechseq.errors import AudioError, UsageError

if TYPE_CHECKING:
    import numpy as np

STDIN = "-"
"""The name of the standard input, in place of a file's."""

SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
"""soundfile's names of samples of so many bytes in a wav file."""


def standard_input() -> BinaryIO:
    """Return the standard input's bytes.

    Raises:
        UsageError: it is closed.
    """
    if sys.stdin is None:
        raise UsageError(f"{STDIN}: the standard input is closed; give a file")
    return sys.stdin.buffer


def piped_blocks(stream: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """Yield mono samples (samples,) of a wav file at `rate`, as they come.

    Whole numbers of 1 to 4 bytes; of more than 16 bits or two channels only where the header is
    a plain one, as Python 3.11 knows no extensible ones. What it says of the length, which who
    sends it as it comes cannot know, is not minded.

    Raises:
        AudioError: it is no such file.
    """
    import soundfile

    from speechseq.audio import mono
    from speechseq.sound_files import check_shape
    from speechseq.streaming import Resampler

    with _wav(stream) as wav:
        channels, found = wav.getnchannels(), wav.getframerate()
        check_shape(channels, found, STDIN)
        if not (subtype := SUBTYPES.get(wav.getsampwidth())):
            raise AudioError(f"{STDIN}: samples of {wav.getsampwidth()} bytes; send 16 bits")
        resample = Resampler(found, rate)
        empty = True
        while pcm := wav.readframes(max(round(BLOCK_SECONDS * found), 1)):
            samples, _ = soundfile.read(
                io.BytesIO(pcm),
                samplerate=found,
                channels=channels,
                format="RAW",
                subtype=subtype,
                endian="LITTLE",
                dtype="float32",
                always_2d=True,
            )
            empty = False
            yield resample(mono(samples, STDIN))
        if empty:
            raise AudioError(f"{STDIN}: holds no samples; send longer audio")
        yield resample.finish()


def _wav(stream: BinaryIO) -> wave.Wave_read:
    try:
        return wave.open(stream)
    except (wave.Error, EOFError) as error:
        reason = str(error) or "it ends at once"
        raise AudioError(
            f"{STDIN}: not plain wav ({reason}); send 16 bits, one channel or two, as "
            f"`arecord -f S16_LE` or `ffmpeg -f wav -c:a pcm_s16le -`"
        ) from None
