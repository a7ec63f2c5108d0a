"""What stands in a file that libsndfile does not tell: an mp3 or an ogg beyond its header's length,
and a container that it does not read quietly.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import BinaryIO

MP3_KILOBITS = {
    # (MPEG 1, layer): by the header's index, from 1 on; 0 is "free", which cannot be walked
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = (44100, 48000, 32000)
MP3_RATE_SHIFTS = {3: 0, 2: 1, 0: 2}
"""By version (MPEG 1, 2 and 2.5): how often the rate is halved."""

MP3_SAMPLES = {(True, 1): 384, (True, 2): 1152, (True, 3): 1152}
MP3_SAMPLES |= {(False, 1): 384, (False, 2): 1152, (False, 3): 576}
"""Samples of a frame."""

COUNTED = (b"Xing", b"Info", b"VBRI")
"""What a first frame holds that tells how many follow."""

LEAST_HEAD = 4
WINDOW = 4096
"""Of so many bytes a frame's first four tell what it is; no frame and next header are longer."""

ID3, ID3_BYTES, ID3_FOOTER = b"ID3", 10, 0x10
ID3V1, ID3V1_BYTES = b"TAG", 128
APE, APE_BYTES = b"APETAGEX", 32
TAGS = (ID3, ID3V1, APE)

LONGEST_SEARCH = 1 << 16
"""So many bytes that are neither, in all, end the walk."""

SEARCH_OF_TAG = 256
"""A tag counts as so many of them: a file may not be made of tags."""

BLOCK = 1 << 20

OGG_PAGE, OGG_HEADER_BYTES, OGG_FIRST = b"OggS", 27, 0x02


@dataclass(frozen=True)
class Mp3:
    """The samples of all frames that stand in an mp3, and whether its header counts them."""

    samples: int
    is_counted: bool


@dataclass(frozen=True)
class _Frame:
    """What a frame's header says; all frames of a recording are of one `kind`."""

    kind: tuple[int, int, int]
    size: int
    samples: int


class _Ahead:
    """The next WINDOW bytes from a place on, of a file that is read in blocks as one goes on."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._start = file.tell()
        self._first = 0
        self._block = b""

    def __call__(self, place: int) -> bytes:
        at = place - self._first
        if at + WINDOW > len(self._block):
            self._first, at = place, 0
            self._file.seek(self._start + place)
            self._block = self._file.read(BLOCK)
        return self._block[at : at + WINDOW]


def walk_mp3(file: BinaryIO) -> Mp3:
    """Go from frame to frame, from where the file stands to its end.

    What looks like a frame's header is one right behind another frame of its kind, or if such a
    one, a tag or the end follows.

    Source: ISO/IEC 11172-3 and 13818-3, the header of an audio frame; id3.org, ID3v2.4;
    wiki.hydrogenaudio.org, APEv2.
    """
    ahead = _Ahead(file)
    place = samples = searched = 0
    kind: tuple[int, int, int] | None = None
    is_counted = is_next = False
    while searched < LONGEST_SEARCH and len(window := ahead(place)) >= LEAST_HEAD:
        frame = _frame(window[:3])
        is_kind = frame and frame.kind == (kind or frame.kind)
        if frame and is_kind and (is_next or _goes_on(window, frame)):
            if kind is None:
                kind = frame.kind
                is_counted = any(mark in window[: frame.size] for mark in COUNTED)
            samples += frame.samples
            place += frame.size
            is_next = True
            continue
        is_next = False
        size = _tag_bytes(window)
        searched += SEARCH_OF_TAG if size else 1
        place += size or 1
    return Mp3(samples, is_counted)


def _goes_on(window: bytes, frame: _Frame) -> bool:
    """Tell whether a frame, a tag or the end follows a frame that stands at a window's start."""
    rest = window[frame.size :]
    follows = _frame(rest[:3])
    is_like = follows is not None and follows.kind == frame.kind
    return is_like or len(rest) < LEAST_HEAD or rest.startswith(TAGS)


def _tag_bytes(head: bytes) -> int:
    """Return the length of the tag that begins here; 0 where none does."""
    if head.startswith(ID3) and len(head) >= ID3_BYTES:
        size = 0
        for byte in head[6:10]:  # of seven bits each
            size = size << 7 | byte & 0x7F
        return ID3_BYTES + size + (ID3_BYTES if head[5] & ID3_FOOTER else 0)
    if head.startswith(APE) and len(head) >= APE_BYTES:
        return APE_BYTES + int.from_bytes(head[12:16], "little")
    return ID3V1_BYTES if head.startswith(ID3V1) else 0


@functools.lru_cache(4096)
def _frame(head: bytes) -> _Frame | None:
    """Return what the first three bytes of a frame say of it; None where they are of none."""
    if len(head) < 3 or head[0] != 0xFF or head[1] >> 5 != 7:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kilobits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or kilobits in (0, 15) or rate == 3:
        return None
    of = (version == 3, layer)
    bits = 1000 * MP3_KILOBITS[of][kilobits - 1]
    slot = 4 if layer == 1 else 1
    hertz = MP3_RATES[rate] >> MP3_RATE_SHIFTS[version]
    slots = MP3_SAMPLES[of] // (8 * slot) * bits // hertz + (head[2] >> 1 & 1)
    return _Frame((version, layer, rate), slots * slot, MP3_SAMPLES[of])


def is_sample_dump(file: BinaryIO) -> bool:
    """Tell whether a file, from where it stands, is a MIDI sample dump.

    Source: MIDI 1.0, Sample Dump Standard, the dump header.
    """
    head = file.read(4)
    return head[:2] == b"\xf0\x7e" and head[3:] == b"\x01"


def is_chained(file: BinaryIO) -> bool:
    """Tell whether an ogg, from where it stands, has a first page behind pages of sound.

    Source: RFC 3533, the Ogg encapsulation format.
    """
    begun = False
    while len(head := file.read(OGG_HEADER_BYTES)) == OGG_HEADER_BYTES and head[:4] == OGG_PAGE:
        if head[5] & OGG_FIRST:
            if begun:
                return True
        else:
            begun = True
        file.seek(sum(file.read(head[26])), 1)
    return False
