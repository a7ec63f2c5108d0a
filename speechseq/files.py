"""Files that are whole or not there: atomic writes and checked downloads."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from speechseq.errors import DataError

Progress = Callable[[int, int], object]
"""Called with the bytes done and the bytes there are in all (0: unknown)."""

CHUNK_BYTES = 1 << 20
"""Bytes read or written at a time."""

CACHE_VARIABLE = "SPEECHSEQ_CACHE"
"""Names the folder of what can be made again."""

_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")
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
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing into one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); "
            f"check the folder, its permissions and the room on the disk"
        ) from None


def refuse_existing(path: Path) -> None:
    """Raise a DataError where something, a dangling link included, has this name."""
    if os.path.lexists(path):
        raise DataError(f"{path}: is already there; delete it or give another name")


def cache_folder() -> Path:
    """Return where what can be made again is kept: $SPEECHSEQ_CACHE, else the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(home) / "speechseq"


def beside(path: Path) -> Path:
    """Name a hidden file or folder beside `path` that nobody else uses."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Delete what `atomic_write` left in a folder when it was killed."""
    for path in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


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
        refuse_existing(target)
    partial = beside(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(partial, "xb")  # noqa: SIM115 (closed below, before the rename)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not overwrite:
            refuse_existing(target)
        with writing(target):
            partial.replace(target)
            _settle(target.parent)
    except OSError as error:
        # Writing names no file; an error that names one is about another file of the caller's.
        if error.filename is not None:
            raise
        with writing(target):
            raise
    finally:
        partial.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Make a rename in a folder outlast a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
    with writing(target):
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
        if done and (start, total) == (done, done):
            return  # it was whole; what the answer holds is a page about that
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
        for chunk in _received(response, archive):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if done < total:
        raise _cut(archive, f"{done} of {total} bytes came")


def _received(response: Any, archive: Archive) -> Iterator[bytes]:
    """Yield what comes; that it stops is another error than that it cannot be written."""
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _cut(archive, error) from None


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
