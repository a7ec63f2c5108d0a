"""Files that are whole or not there: atomic writing, checksums, downloads, guarded extraction."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.parse import unquote, urlsplit

from speechseq.errors import DataError

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
MAX_FILES = 1_000_000
MAX_BYTES = 500_000_000_000

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many (0 where unknown)."""


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    `sha256` and `size` (bytes) are checked where they are given. Unpacking leaves the first
    `strip` levels of folders out; `into` names the folder it goes to, beside the corpus' own,
    where that is not the corpus' own.
    """

    url: str
    sha256: str = ""
    size: int = 0
    into: str = ""
    part: str = ""
    strip: int = 0
    into: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "archive"


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that gets its name only when the block ends without an error.

    Folders on the way are made.

    Raises:
        DataError: it cannot be written there, or, without `overwrite`, is there already.
    """
    path = Path(path)
    if not overwrite and path.exists():
        raise DataError(f"{path}: is there already; name another file or allow to write over it")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); make room or choose "
                        "another place") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def download(archive: Archive, folder: Path, *, progress: Progress | None = None) -> Path:
    """Fetch an archive into a folder and return its path; an interrupted transfer goes on.

    What has arrived is kept as ``.part`` and asked for no second time, where the server can
    send ranges. A file that is there and right is not fetched again.

    Raises:
        DataError: the server or the network fails, or what came is not what was published.
    """
    if urlsplit(archive.url).scheme not in ("http", "https", "file"):
        raise DataError(f"{archive.url}: not an http, https or file address; correct it")
    target = folder / archive.file_name
    if target.is_file() and _is_right(archive, target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _transfer(archive, part, progress)
    except (OSError, HTTPException, ValueError) as error:
        kept = part.stat().st_size if part.exists() else 0
        raise DataError(
            f"{archive.url}: transfer broke off ({error}); run it again to go on from {kept} bytes"
        ) from None
    if not _is_right(archive, part):
        part.unlink()
        raise DataError(f"{archive.url}: wrong size or SHA-256; what came was deleted, try again")
    part.replace(target)
    return target


def _is_right(archive: Archive, path: Path) -> bool:
    if archive.size and path.stat().st_size != archive.size:
        return False
    return not archive.sha256 or sha256(path) == archive.sha256


def _transfer(archive: Archive, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url)  # noqa: S310 (the scheme is checked)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        part.unlink(missing_ok=True)  # the part is longer than the file, or whole: start afresh
        return _transfer(archive, part, progress) if have else None
    with response:
        resumed = response.status == 206 if have else False
        length = int(response.headers.get("Content-Length") or 0)
        total = length + (have if resumed else 0)
        _receive(response, part, have if resumed else 0, total, progress)
    return None


def _receive(
    response: IO[bytes], part: Path, done: int, total: int, progress: Progress | None
) -> None:
    with part.open("ab" if done else "wb") as file:
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
    if total and done < total:
        raise ValueError(f"{done} of {total} bytes came")


def extract(
    path: Path,
    folder: Path,
    *,
    strip: int = 0,
    max_files: int = MAX_FILES,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Unpack a tar or zip archive into a folder, adding to what is there, writing over nothing.

    Only regular files and folders are taken; nothing leaves the folder; the caps count what is
    really written. It is unpacked beside the folder first, so a half is never taken for a whole.

    Raises:
        DataError: damaged, over a cap, or holding a link, a device or a name that leads out.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _unpack(path, temporary, strip, max_files, max_bytes)
        _move_in(temporary, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path}: damaged archive ({error}); download it again") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); download it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(path: Path, folder: Path, strip: int, max_files: int, max_bytes: int) -> None:
    files = written = 0
    for name, source in _members(path):
        target = _target(path, folder, name, strip)
        if target is None:
            continue
        files += 1
        if files > max_files:
            raise DataError(f"{path}: over {max_files} files; it is not what was published")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as file:
            while block := source.read(BLOCK_BYTES):
                written += len(block)
                if written > max_bytes:
                    raise DataError(f"{path}: over {max_bytes} bytes unpacked; it is not what was published")
                file.write(block)
    if not files:
        raise DataError(f"{path}: holds no file; download it again")


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the regular files of an archive, each open; folders are made as files need them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                kind = (entry.external_attr >> 16) & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise DataError(f"{path}: {entry.filename!r} is a link or device; refused")
                if not entry.is_dir():
                    yield entry.filename, archive.open(entry)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise DataError(f"{path}: {member.name!r} is a link or device; refused")
            source = tar.extractfile(member) if member.isreg() else None
            if source is not None:
                yield member.name, source


def _target(path: Path, folder: Path, name: str, strip: int) -> Path | None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    unsafe = any(part == ".." or ":" in part or "\0" in part for part in parts)
    if unsafe or name.startswith(("/", "\\")):
        raise DataError(f"{path}: {name!r} leads out of the folder; refused")
    inner = [part for part in parts if part != "."][strip:]
    return folder.joinpath(*inner) if inner else None


def _move_in(source: Path, folder: Path) -> None:
    """Give an unpacked tree its name, or add its entries to a folder that is there."""
    if not folder.exists():
        source.chmod(0o777 & ~_umask())
        source.replace(folder)
        return
    for entry in sorted(source.iterdir()):
        target = folder / entry.name
        if entry.is_dir() and target.is_dir() and not target.is_symlink():
            _move_in(entry, target)
        elif os.path.lexists(target):
            raise DataError(f"{target}: is there already; move it away first")
        else:
            entry.replace(target)


def fetch(
    archives: Sequence[Archive], parent: Path, folder: str, *, progress: Progress | None = None
) -> Path:
    """Download and unpack all archives of a corpus, and return its folder below `parent`.

    Archives are deleted once unpacked.

    Raises:
        DataError: the folder is there already, or a transfer or an archive fails.
    """
    place = parent / folder
    if place.exists():
        raise DataError(f"{place}: is there already; delete it to download it again")
    paths = [download(archive, parent, progress=progress) for archive in archives]
    for archive, path in zip(archives, paths, strict=True):
        extract(path, parent / (archive.into or folder), strip=archive.strip)
    for path in paths:
        path.unlink()
    return place
