"""Archives are unpacked whole, and trusted in nothing."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_files import GOOD, Entries, make_tar, names

from speechseq import archives
from speechseq.archives import extract, fetch
from speechseq.errors import DataError
from speechseq.files import CHUNK_BYTES, Archive


def make_zip(entries: Entries, *extra: zipfile.ZipInfo) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        for entry in extra:
            archive.writestr(entry, b"/etc/passwd")
    return buffer.getvalue()


MAKERS: dict[str, Callable[[Entries], bytes]] = {
    "tar": make_tar,
    "tar.gz": lambda entries: gzip.compress(make_tar(entries)),
    "tar.bz2": lambda entries: bz2.compress(make_tar(entries)),
    "tar.xz": lambda entries: lzma.compress(make_tar(entries)),
    "zip": make_zip,
}


def unpack(content: bytes, folder: Path, **limits: Any) -> Path:
    """Extract an archive in `folder` to `folder/out`."""
    (folder / "archive").write_bytes(content)
    return extract(folder / "archive", folder / "out", **limits)


def refuse(content: bytes, folder: Path, message: str, **limits: Any) -> None:
    """Check that an archive is refused in one line, and leaves nothing behind."""
    with pytest.raises(DataError, match=message) as caught:
        unpack(content, folder, **limits)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    assert names(folder) == {"archive"}


@pytest.mark.parametrize("kind", MAKERS)
def test_good_archives(kind: str, tmp_path: Path) -> None:
    out = unpack(MAKERS[kind](GOOD), tmp_path)
    assert {name: (out / name).read_bytes() for name in GOOD} == GOOD
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "out"}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("member", ["top", "t*"])
def test_a_member_alone(kind: str, member: str, tmp_path: Path) -> None:
    out = unpack(MAKERS[kind](GOOD), tmp_path, member=member)
    assert names(out) == {"a.txt", "b", "b/c.txt"}
    (tmp_path / "other").mkdir()
    refuse(
        MAKERS[kind](GOOD), tmp_path / "other", "holds no file below 'nothing'", member="nothing"
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_existing_folder_is_left_alone(kind: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: is already there"):
        unpack(MAKERS[kind](GOOD), tmp_path)
    assert names(tmp_path) == {"archive", "out"}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "name",
    ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "a/C:/out.txt", "..\\out.txt"],
)
def test_names_that_lead_outside(kind: str, name: str, tmp_path: Path) -> None:
    refuse(MAKERS[kind]({"ok": b"1", name: b"2"}), tmp_path, "leads outside")


@pytest.mark.parametrize("kind", MAKERS)
def test_caps(kind: str, tmp_path: Path) -> None:
    refuse(MAKERS[kind](GOOD), tmp_path, "holds more than 2 entries", max_files=2)
    refuse(MAKERS[kind](GOOD), tmp_path, "unpacks to more than 2000 bytes", max_bytes=2000)
    assert unpack(MAKERS[kind](GOOD), tmp_path, max_files=3)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_an_archive_grows_to_so_many_times_its_size(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = MAKERS[kind]({"zeros": bytes(500_000), "noise": os.urandom(10_000)})
    (tmp_path / "small").mkdir()
    assert unpack(zeros, tmp_path / "small")
    monkeypatch.setattr(archives, "_SMALL_BYTES", 10_000)
    (tmp_path / "bomb").mkdir()
    refuse(zeros, tmp_path / "bomb", f"unpacks to more than {20 * len(zeros)} bytes")
    (tmp_path / "speech").mkdir()
    speech = MAKERS[kind]({"zeros": bytes(500_000), "noise": os.urandom(100_000)})
    assert unpack(speech, tmp_path / "speech")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_tar_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.linkname = kind, "a.txt"
    refuse(make_tar({"a.txt": b"1"}, entry), tmp_path, "'x' is a link or a device")


def test_zip_link(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("x")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    refuse(make_zip({"a.txt": b"1"}, entry), tmp_path, "'x' is a link or a device")


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("listed", "wrong"),
    [
        (["a", "a/b"], "a/b"),
        (["a/b/c", "a/b"], "a/b"),
        (["a", "a/"], "a/"),
        (["x" * 300], "x" * 300),
        (["a/b.wav", "a/./b.wav"], "a/./b.wav"),
    ],
)
def test_entries_that_do_not_fit_are_named(
    kind: str, listed: list[str], wrong: str, tmp_path: Path
) -> None:
    content = MAKERS[kind](dict.fromkeys(listed, b""))
    refuse(content, tmp_path, f"archive: entry '{wrong}' cannot be made")
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match="it was deleted, so run it again"):
        fetch([Archive((tmp_path / "a.bin").as_uri())], tmp_path / "to", "c")
    assert names(tmp_path / "to") == {".downloads"}


def test_forged_zip_size_is_not_believed(tmp_path: Path) -> None:
    content = make_zip({"a": bytes(100_000)})
    forged = content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert forged != content
    refuse(forged, tmp_path, "damaged", max_bytes=1000)


def test_huge_extended_header(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 40
    refuse(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024), tmp_path, "a header too long")


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.95])
def test_truncated(kind: str, keep: float, tmp_path: Path) -> None:
    content = MAKERS[kind]({**GOOD, "noise": os.urandom(20_000)})
    if kind == "tar":
        content = content.rstrip(b"\0")
    refuse(content[: int(keep * len(content))], tmp_path, "damaged or no archive|is empty")


def test_tar_cut_between_two_entries(tmp_path: Path) -> None:
    content = make_tar({"a": bytes(512), "b": bytes(512)})
    refuse(content[:1024], tmp_path, "it ends early")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_damaged_in_the_middle(kind: str, tmp_path: Path) -> None:
    content = bytearray(MAKERS[kind]({"noise": os.urandom(20_000)}))
    content[10_000] ^= 0xFF
    refuse(bytes(content), tmp_path, "damaged or no archive")


def test_no_archive(tmp_path: Path) -> None:
    refuse(b"<html>Please log in</html>" * 100, tmp_path, "damaged or no archive")
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file"):
        extract(tmp_path / "nowhere", tmp_path / "out")


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("size", [3, 3 * CHUNK_BYTES])
def test_a_full_disk_is_no_damage_of_the_archive(
    kind: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is small is written as late as its file is closed."""
    content = MAKERS[kind]({"a.wav": bytes(size)})
    (tmp_path / "a.bin").write_bytes(content)

    def opened(path: Path, mode: str) -> Any:
        return open(FULL, "wb") if mode == "xb" else open(path, mode)

    monkeypatch.setattr(archives, "open", opened, raising=False)
    with pytest.raises(DataError, match=r"to.c: cannot be written \(No space left"):
        fetch([Archive((tmp_path / "a.bin").as_uri())], tmp_path / "to", "c")
    assert names(tmp_path / "to") == {".downloads", ".downloads/a.bin"}
    monkeypatch.undo()
    (tmp_path / "a.bin").unlink()
    assert fetch([Archive((tmp_path / "a.bin").as_uri())], tmp_path / "to", "c").is_dir()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_read_is_no_damage_of_the_archive(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 100:
                raise OSError(number, os.strerror(number))
            return super().read(size)

        def readinto(self, into: Any) -> int:
            data = self.read(len(into))
            into[: len(data)] = data
            return len(data)

    (tmp_path / "a.bin").write_bytes(MAKERS[kind]({"a.wav": os.urandom(3 * CHUNK_BYTES)}))
    monkeypatch.setattr(archives, "open", lambda path, mode: Failing(path, mode), raising=False)
    with pytest.raises(DataError, match=rf"a\.bin: cannot be read \({os.strerror(number)}\)"):
        fetch([Archive((tmp_path / "a.bin").as_uri())], tmp_path / "to", "c")
    assert names(tmp_path / "to") == {".downloads", ".downloads/a.bin"}


PARTS = st.sampled_from(["a", "b", "..", ".", "", "C:", "x\\y", "é"])


NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@settings(deadline=None)
@given(listed=st.lists(NAMES, max_size=4), zipped=st.booleans())
def test_nothing_leaves_the_folder(
    listed: list[str], zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("deep")
    inner = folder / "one" / "two"
    inner.mkdir(parents=True)
    entries = {name: b"x" for name in listed if name}
    try:
        unpack((make_zip if zipped else make_tar)(entries), inner)
    except DataError as error:
        assert "\n" not in str(error) and not (inner / "out").exists()
    assert {path.name for path in folder.iterdir()} == {"one"}
    assert {path.name for path in (folder / "one").iterdir()} == {"two"}
    assert {path.name for path in inner.iterdir()} <= {"archive", "out"}
