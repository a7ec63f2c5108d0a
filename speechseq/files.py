"""Files that are whole or not there: atomic writes, checked downloads, guarded extraction."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import lzma
import os
import re
import secrets
import shutil
import stat
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from speechseq.errors import DataError

Progress = Callable[[int, int], object]
"""Called with the bytes done and the bytes there are in all (0: unknown)."""

_CHUNK_BYTES = 1 << 20
_LARGEST_HEADER_BYTES = 16 << 20
_TIMEOUT_SECONDS = 60.0
_SCHEMES = ("http", "https", "file")


@dataclass(frozen=True)
class Archive:
    """One published archive: where it is, how to know it, and what of it goes where.

    `sha256` is lower-case hexadecimal, empty where none is published; `size` is bytes, 0 where
    unknown. `member` is the folder inside the archive whose contents are unpacked (each part of
    it may be a pattern such as ``name-*``); all is unpacked where it is empty. `into` is the
    folder that receives them, below the folder of corpora; empty stands for the corpus' own.
    """

    url: str
    sha256: str = ""
    size: int = 0
    member: str = ""
    into: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file that the URL ends in."""
        return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)).name


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing into one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"check the folder, its permissions and the room on the disk"
        ) from None


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise DataError(f"{path}: is already there; delete it or give another name")


def _beside(path: Path) -> Path:
    """Name a hidden file or folder beside `path` that nobody else uses."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path` only when it is written to its end.

    It is written beside `path`, flushed to the disk, then renamed; on any error `path` stays as
    it was. Missing parent folders are made. A symbolic link stays one: its target is written.

    Raises:
        DataError: `path` cannot be written, or is there and `overwrite` is false.
    """
    target = Path(os.path.realpath(path))
    if not overwrite:
        _refuse_existing(target)
    partial = _beside(target)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(partial, "xb")  # noqa: SIM115 (closed below, before the rename)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not overwrite:
            _refuse_existing(target)
        with _writing(target):
            partial.replace(target)
    except OSError as error:
        # Writing names no file; an error that names one is about another file of the caller's.
        if error.filename is not None:
            raise
        with _writing(target):
            raise
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """Compute a file's SHA-256 in lower-case hexadecimal, without holding it whole.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def download(
    archive: Archive, folder: str | os.PathLike[str], *, progress: Progress | None = None
) -> Path:
    """Download an archive into `folder`; an earlier transfer that was cut is resumed.

    The bytes gather in a ``.part`` file, which gets its name when size and SHA-256 are right. A
    file that is already there is checked and used.

    Raises:
        DataError: it cannot be fetched, the transfer was cut, or size or checksum are wrong.
    """
    if urllib.parse.urlsplit(archive.url).scheme not in _SCHEMES or not archive.file_name:
        raise DataError(f"{archive.url}: cannot be fetched; use {', '.join(_SCHEMES)} and a file")
    target = Path(folder) / archive.file_name
    part = target.with_name(target.name + ".part")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _verify(archive, target)
            return target
        _transfer(archive, part, progress or _silent)
        _verify(archive, part)
        part.replace(target)
    return target


def _silent(_done: int, _total: int) -> None:
    """Report nothing."""


def _verify(archive: Archive, path: Path) -> None:
    """Compare a file with what is published; a wrong one is deleted."""
    size = path.stat().st_size
    found = sha256(path) if archive.sha256 else ""
    if archive.size and size != archive.size:
        problem = f"{size} bytes came where {archive.size} are published"
    elif found != archive.sha256:
        problem = f"its SHA-256 is {found} where {archive.sha256} is published"
    else:
        return
    path.unlink()
    raise DataError(f"{path}: {problem}, so it was deleted; run it again to download it anew")


def _transfer(archive: Archive, part: Path, progress: Progress) -> None:
    """Bring `part` to its full length, from where it ends if the server can."""
    done = part.stat().st_size if part.exists() else 0
    if done and done == archive.size:
        return
    with _request(archive, done) as response:
        start, total = _extent(response, done)
        if start in (0, done):
            _copy(response, part, start, total, archive, progress)
            return
    # The part does not fit the file the server has: begin again.
    part.unlink()
    _transfer(archive, part, progress)


def _copy(
    response: Any, part: Path, start: int, total: int, archive: Archive, progress: Progress
) -> None:
    """Write the response at byte `start` of `part`, up to its end."""
    done, total = start, total or archive.size
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        try:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
        except (OSError, http.client.HTTPException) as error:
            raise _cut(archive, error) from None
    if done < total:
        raise _cut(archive, f"{done} of {total} bytes came")


def _cut(archive: Archive, reason: object) -> DataError:
    return DataError(f"{archive.url}: the transfer was cut ({reason}); run it again and it resumes")


_HANDLERS: tuple[Callable[[], urllib.request.BaseHandler], ...] = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.FileHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)
"""urllib's own without FTP: `_SCHEMES` alone, also when a server redirects."""


def _request(archive: Archive, start: int) -> Any:
    """Ask for the file from byte `start` on."""
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    request = urllib.request.Request(archive.url, headers={"User-Agent": "speechseq"})  # noqa: S310
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return opener.open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return error
        error.close()
        raise DataError(
            f"{archive.url}: the server answered {error.code} {error.reason}; "
            f"check the address, or try again later"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise DataError(
            f"{archive.url}: cannot be reached ({reason}); check the connection and run it again"
        ) from None


def _extent(response: Any, asked: int) -> tuple[int, int]:
    """Return (first byte the answer holds, -1 for none; bytes of the file, 0: unknown)."""
    stated = response.headers.get("Content-Range") or ""
    if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # A part that is whole already has nothing to follow; any other is no part of this file.
        return (asked, asked) if stated == f"bytes */{asked}" else (-1, 0)
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-\d+/(\d*)", stated)
        return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)
    length = response.headers.get("Content-Length") or ""
    return 0, int(length) if length.isdecimal() else 0


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
    `max_bytes` count what is really written, whatever the headers say.

    Raises:
        DataError: `folder` is there, or the archive is damaged, hostile or over the limits.
    """
    source, target = Path(archive_path), Path(folder)
    _refuse_existing(target)
    staging = _beside(target)
    unpacking = _Unpacking(source, staging, member, max_files, max_bytes)
    try:
        with _writing(target):
            staging.mkdir(parents=True)
        _unpack(source, unpacking)
        if not unpacking.files:
            raise unpacking.refusal(f"holds no file below {member!r}" if member else "is empty")
        with _writing(target):
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


@dataclass
class _Unpacking:
    """What has been unpacked so far, and the limits on it."""

    source: Path
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
        if not name or ".." in parts or re.search(r"^/|[\\\0]|^[A-Za-z]:", name):
            raise self.refusal(f"entry {name!r} leads outside of it")
        wanted = self.member.split("/") if self.member else []
        if len(parts) < len(wanted) or not all(map(fnmatchcase, parts, wanted)):
            return None
        return self.root.joinpath(*parts[len(wanted) :])

    def refusal(self, problem: str) -> DataError:
        """Make the error for an archive that is not unpacked."""
        return DataError(f"{self.source}: {problem}, so it is not unpacked; get another copy")

    def make_folder(self, place: Path) -> None:
        """Make a folder and those above it."""
        with _writing(place):
            place.mkdir(parents=True, exist_ok=True)

    def copy(self, file: IO[bytes], place: Path) -> None:
        """Write one file, counting its bytes."""
        self.make_folder(place.parent)
        self.files += 1
        with _writing(place):
            output = open(place, "xb")  # noqa: SIM115 (closed below)
        with output:
            while chunk := file.read(_CHUNK_BYTES):
                self.count(len(chunk))
                with _writing(place):
                    output.write(chunk)

    def count(self, size: int) -> None:
        """Count bytes that were unpacked."""
        self.written += size
        if self.written > self.max_bytes:
            raise self.refusal(f"unpacks to more than {self.max_bytes} bytes")


def _unpack(source: Path, unpacking: _Unpacking) -> None:
    try:
        with open(source, "rb") as file:
            head = file.read(6)
            file.seek(0)
            unpack = _unpack_zip if head.startswith(b"PK") else _unpack_tar
            unpack(file, unpacking)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        OverflowError,
        ValueError,
        RuntimeError,  # zipfile: encrypted, or an unknown compression (NotImplementedError)
    ) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise unpacking.refusal(f"is damaged or no archive ({reason})") from None


def _unpack_zip(file: BinaryIO, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # Entries made on other systems than Unix carry no file type.
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refusal(f"entry {entry.filename!r} is a link or a device")
            place = unpacking.place(entry.filename)
            if place is not None and entry.is_dir():
                unpacking.make_folder(place)
            elif place is not None:
                with archive.open(entry) as content:
                    unpacking.copy(content, place)


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
    content = _ShortReads(opened(file) if opened else file)
    with tarfile.open(fileobj=content, mode="r:") as archive:  # type: ignore[call-overload]
        for entry in archive:
            # tarfile keeps every entry it has seen; hundreds of thousands would pile up.
            archive.members.clear()
            if not (entry.isreg() or entry.isdir()) or entry.issparse():
                raise unpacking.refusal(f"entry {entry.name!r} is a link or a device")
            place = unpacking.place(entry.name)
            if place is not None and entry.isdir():
                unpacking.make_folder(place)
            elif place is not None:
                unpacking.copy(archive.extractfile(entry), place)
        # tarfile takes a missing end mark, or a damaged header, for the end.
        content.seek(archive.offset)
        if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends early, or is damaged in the middle")
        while chunk := content.read(_CHUNK_BYTES):  # to the end, where a checksum may stand
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
        raise DataError(f"{parent / folder}: is already there; delete it to download it again")
    for archive in missing:
        path = download(archive, parent / ".downloads", progress=progress)
        extract(path, places[archive], member=archive.member)
        path.unlink()
    return parent / folder
