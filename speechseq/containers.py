"""What an mp3 or an ogg holds beyond what its header tells: libsndfile stops where that does."""

from __future__ import annotations

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

TAG, TAG_BYTES, TAG_FOOTER = b"ID3", 10, 0x10
LONGEST_SEARCH = 1 << 16
"""So many bytes that are no frame end the walk."""

OGG_PAGE, OGG_HEADER_BYTES, OGG_FIRST = b"OggS", 27, 0x02


@dataclass(frozen=True)
class Mp3:
    """The samples of all frames that stand in an mp3, and whether its header counts them."""

    samples: int
    is_counted: bool


@dataclass(frozen=True)
class _Frame:
    size: int
    samples: int


def walk_mp3(file: BinaryIO) -> Mp3:
    """Go from frame to frame, from where the file stands to its end.

    Source: ISO/IEC 11172-3 and 13818-3, the header of an audio frame.
    """
    samples, lost, is_counted = 0, 0, None
    while lost < LONGEST_SEARCH and len(head := file.read(TAG_BYTES)) >= 4:
        at = file.tell() - len(head)
        if head[:3] == TAG and len(head) == TAG_BYTES:
            file.seek(at + _tag_bytes(head))
        elif frame := _frame(head):
            if is_counted is None:
                is_counted = any(mark in head + file.read(frame.size) for mark in COUNTED)
            samples += frame.samples
            lost = 0
            file.seek(at + frame.size)
        else:
            lost += 1
            file.seek(at + 1)
    return Mp3(samples, bool(is_counted))


def _tag_bytes(head: bytes) -> int:
    """Return the length of an ID3v2 tag, whose four bytes of size have seven bits each."""
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return TAG_BYTES + size + (TAG_BYTES if head[5] & TAG_FOOTER else 0)


def _frame(head: bytes) -> _Frame | None:
    """Return what a frame's header says of it; None where it is none."""
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kilobits, rate = head[2] >> 4, head[2] >> 2 & 3
    is_synchronous = head[0] == 0xFF and head[1] >> 5 == 7
    if not is_synchronous or version == 1 or layer == 4 or kilobits in (0, 15) or rate == 3:
        return None
    kind = (version == 3, layer)
    bits = 1000 * MP3_KILOBITS[kind][kilobits - 1]
    slot = 4 if layer == 1 else 1
    hertz = MP3_RATES[rate] >> MP3_RATE_SHIFTS[version]
    slots = MP3_SAMPLES[kind] // (8 * slot) * bits // hertz + (head[2] >> 1 & 1)
    return _Frame(slots * slot, MP3_SAMPLES[kind])


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
