"""Archives to folders: regular files only, nothing outside the folder, whole or not there."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from speechseq.errors import DataError
from speechseq.files import (
    CHUNK_BYTES,
    Archive,
    Progress,
    beside,
    download,
    refuse_existing,
    writing,
)

_LARGEST_HEADER_BYTES = 16 << 20

_MOST_GROWTH = 20
"""Times its own size that an archive may unpack to; speech shrinks to a third at best."""

_SMALL_BYTES = 1 << 30
"""What any archive may unpack to: tables and texts of small ones shrink more than speech."""

_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    RuntimeError,  # zipfile: encrypted, or an unknown compression (NotImplementedError)
)
"""What readers of archives raise where one is damaged."""

_UNFIT_NUMBERS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""`errno` where an entry has the name of another, goes below a file, or has too long a name."""

_DAMAGE_NUMBERS = (None, errno.EINVAL)
"""`errno` where a decompressor fails, and where a damaged header leads to a place before the file;
any other says that it is the machine that fails."""


class UnusableArchive(DataError):
    """An archive is damaged, hostile or over the limits."""


def extract(
    archive_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    member: str = "",
    max_files: int = 1_000_000,
    max_bytes: int = 500_000_000_000,
) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive as the new folder `folder`.

    Only regular files and folders are made, all of them below `folder`, which appears when all
    is unpacked. `member` narrows to one folder of the archive, as in `Archive`. `max_files` and
    `max_bytes` count what is really written, whatever the headers say; a multiple of the archive's
    own size bounds it, too.

    Raises:
        UnusableArchive: it is damaged, hostile or over the limits.
        DataError: `folder` is there or cannot be written, or the archive cannot be read.
    """
    source, target = Path(archive_path), Path(folder)
    refuse_existing(target)
    staging = beside(target)
    unpacking = _Unpacking(source, target, staging, member, max_files, max_bytes)
    try:
        with writing(target):
            staging.mkdir(parents=True)
        _unpack(source, unpacking)
        if not unpacking.files:
            raise unpacking.refusal(f"holds no file below {member!r}" if member else "is empty")
        with writing(target):
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


@dataclass
class _Unpacking:
    """What has been unpacked so far, and the limits on it."""

    source: Path
    target: Path
    root: Path
    member: str
    max_files: int
    max_bytes: int
    entries: int = 0
    files: int = 0
    written: int = 0

    def place(self, name: str) -> Path | None:
        """Say where the entry `name` goes; None if it lies outside `member`."""
        self.entries += 1
        if self.entries > self.max_files:
            raise self.refusal(f"holds more than {self.max_files} entries")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not name or ".." in parts or re.search(r"^/|[\\\0]|(^|/)[A-Za-z]:", name):
            raise self.refusal(f"entry {name!r} leads outside of it")
        wanted = self.member.split("/") if self.member else []
        if len(parts) < len(wanted) or not all(map(fnmatchcase, parts, wanted)):
            return None
        return self.root.joinpath(*parts[len(wanted) :])

    def refusal(self, problem: str) -> UnusableArchive:
        """Make the error for an archive that is not unpacked."""
        return UnusableArchive(f"{self.source}: {problem}, so it is not unpacked; get another copy")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Refuse the archive where reading it fails, unless it is the machine that fails."""
        try:
            yield
        except _DAMAGES as error:
            # zipfile takes a file whose end it cannot read for no zip.
            for failed in (error, error.__context__):
                if isinstance(failed, OSError) and failed.errno not in _DAMAGE_NUMBERS:
                    raise DataError(
                        f"{self.source}: cannot be read ({failed.strerror}); "
                        f"check the path and the disk"
                    ) from None
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise self.refusal(f"is damaged or no archive ({reason})") from None

    def add(self, name: str, open_content: Callable[[], Any] | None) -> None:
        """Unpack the entry `name`, a folder where it has no content, unless outside `member`."""
        place = self.place(name)
        if place is None:
            return
        with writing(self.target):
            try:
                self.make(place, open_content)
            except OSError as error:
                if error.errno not in _UNFIT_NUMBERS:
                    raise
                raise self.refusal(f"entry {name!r} cannot be made ({error.strerror})") from None

    def make(self, place: Path, open_content: Callable[[], Any] | None) -> None:
        """Make a file of what is opened, a folder of nothing."""
        folder = place if open_content is None else place.parent
        folder.mkdir(parents=True, exist_ok=True)
        if open_content is not None:
            self.files += 1
            with open(place, "xb") as output:
                output.writelines(self.content(open_content))

    def content(self, open_content: Callable[[], Any]) -> Iterator[bytes]:
        """Read an entry, counting its bytes."""
        with self.reading(), open_content() as file:
            while chunk := file.read(CHUNK_BYTES):
                self.count(len(chunk))
                yield chunk

    def count(self, size: int) -> None:
        """Count bytes that were unpacked."""
        self.written += size
        if self.written > self.max_bytes:
            raise self.refusal(f"unpacks to more than {self.max_bytes} bytes")


def _unpack(source: Path, unpacking: _Unpacking) -> None:
    with unpacking.reading(), open(source, "rb") as file:
        most = max(_MOST_GROWTH * os.fstat(file.fileno()).st_size, _SMALL_BYTES)
        unpacking.max_bytes = min(unpacking.max_bytes, most)
        head = file.read(6)
        file.seek(0)
        unpack = _unpack_zip if head.startswith(b"PK") else _unpack_tar
        unpack(file, unpacking)


def _unpack_zip(file: BinaryIO, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # Entries made on other systems than Unix carry no file type.
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refusal(f"entry {entry.filename!r} is a link or a device")
            content = None if entry.is_dir() else partial(archive.open, entry)
            unpacking.add(entry.filename, content)


class _ShortReads:
    """A file that refuses reads longer than a header can need.

    tarfile reads an extended header whole, however long the archive says that it is.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= _LARGEST_HEADER_BYTES:
            raise tarfile.ReadError("a header too long")
        data: bytes = self._file.read(size)
        return data


_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""How to read what begins so."""


def _unpack_tar(file: BinaryIO, unpacking: _Unpacking) -> None:
    head = file.read(6)
    file.seek(0)
    opened = next((f for magic, f in _DECOMPRESSORS.items() if head.startswith(magic)), None)
    stream = _ShortReads(opened(file) if opened else file)
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        for entry in archive:
            # tarfile keeps every entry it has seen; hundreds of thousands would pile up.
            archive.members.clear()
            if not (entry.isreg() or entry.isdir()) or entry.issparse():
                raise unpacking.refusal(f"entry {entry.name!r} is a link or a device")
            content = None if entry.isdir() else partial(archive.extractfile, entry)
            unpacking.add(entry.name, content)
        # tarfile takes a missing end mark, or a damaged header, for the end.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends early, or is damaged in the middle")
        while chunk := stream.read(CHUNK_BYTES):  # to the end, where a checksum may stand
            unpacking.count(len(chunk))


def fetch(
    archives: Sequence[Archive],
    parent: str | os.PathLike[str],
    folder: str,
    *,
    progress: Progress | None = None,
) -> Path:
    """Download and unpack archives below `parent`; return ``parent/folder``, the corpus' place.

    An archive whose folder is already there is left as it is, so what was cut short goes on.
    Archives are deleted once unpacked.

    Raises:
        DataError: all of it is already there, or a download or an unpacking failed.
    """
    parent = Path(parent)
    places = {archive: parent / (archive.into or folder) for archive in archives}
    missing = [archive for archive, place in places.items() if not os.path.lexists(place)]
    if not missing:
        there = ", ".join(dict.fromkeys(map(str, places.values())))
        raise DataError(f"{there}: is already there; delete it to download it again")
    for archive in missing:
        path = download(archive, parent / ".downloads", progress=progress)
        try:
            extract(path, places[archive], member=archive.member)
        except UnusableArchive as error:
            # Kept, it would be taken for the download the next time.
            path.unlink()
            raise DataError(f"{error}: it was deleted, so run it again") from None
        path.unlink()
    return parent / folder
