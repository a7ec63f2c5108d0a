"""Nothing is under its name before it is whole; no archive reaches outside its folder."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import io
import lzma
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechseq.archives import extract, fetch
from speechseq.errors import DataError
from speechseq.files import Archive, atomic_write, beside, download, remove_leftovers, sha256

CONTENT = bytes(range(256)) * 40_000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


def names(folder: Path) -> set[str]:
    """Name everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- atomic_write ----------------------------------------------------------------------------


def test_a_written_file_is_whole(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b.txt") as file:
        file.write(b"one")
        assert not (tmp_path / "a" / "b.txt").exists()
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"one"
    assert names(tmp_path) == {"a", "a/b.txt"}
    assert stat.S_IMODE((tmp_path / "a" / "b.txt").stat().st_mode) & 0o444


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(tmp_path) == {"a.txt"}


def test_overwriting_is_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"one", b"two"):
        with atomic_write(path) as file:
            file.write(content)
    assert path.read_bytes() == b"two"
    with (
        pytest.raises(DataError, match=r"a\.txt: is already there"),
        atomic_write(path, overwrite=False),
    ):
        pytest.fail("the block must not run")


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with (
        pytest.raises(DataError, match="is already there"),
        atomic_write(path, overwrite=False) as file,
    ):
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and names(tmp_path) == {"a.txt"}


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as one, atomic_write(path) as two:
        one.write(b"one" * 1000)
        two.write(b"two")
    assert path.read_bytes() == b"one" * 1000 and names(tmp_path) == {"a.txt"}


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"x"


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(DataError, match=f"{place}: cannot be written") as caught,
        atomic_write(tmp_path / place) as file,
    ):
        file.write(b"x")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"file", "folder"}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No space left"), atomic_write(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_the_callers_own_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "nowhere").read_bytes()
    assert not names(tmp_path)


# --- sha256, Archive -------------------------------------------------------------------------


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert sha256(tmp_path / "a") == CHECKSUM
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        sha256(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.org/a/b.tar.gz", "b.tar.gz"),
        ("https://x.org/a%20b.zip?download=1#top", "a b.zip"),
        ("https://x.org/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://x.org/", ""),
    ],
)
def test_archive_file_name(url: str, name: str) -> None:
    assert Archive(url).file_name == name


# --- download --------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT` as its server's `ways` say; notes what was asked for."""

    def do_GET(self) -> None:
        ways: SimpleNamespace = self.server.ways  # type: ignore[attr-defined]
        asked = self.headers.get("Range", "")
        ways.asked.append(asked)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        if self.path != "/a.bin":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if ways.ranges else 0
        if start >= len(ways.content) and start:
            self.send_response(416)
            page = b"<html>there is no more of it</html>"
            self.send_header("Content-Range", f"bytes */{len(ways.content)}")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        self.send_response(206 if start else 200)
        if start:
            total, first = len(ways.content), start + ways.shift
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        if ways.length:
            self.send_header("Content-Length", str(len(ways.content) - start))
        self.end_headers()
        stop = ways.cuts.pop(0) if ways.cuts else len(ways.content)
        self.wfile.write(ways.content[start:stop])

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.ways = ways = SimpleNamespace(  # type: ignore[attr-defined]
            content=CONTENT, ranges=True, length=True, cuts=[], asked=[], shift=0
        )
        ways.address = f"http://127.0.0.1:{running.server_port}"
        ways.archive = Archive(f"{ways.address}/a.bin", sha256=CHECKSUM, size=len(CONTENT))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield ways
        running.shutdown()
        thread.join()


def test_download_checks_and_reports(server: SimpleNamespace, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download(server.archive, tmp_path, progress=lambda *now: seen.append(now))
    assert path == tmp_path / "a.bin" and path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert names(tmp_path) == {"a.bin"}
    download(server.archive, tmp_path)
    assert server.asked == [""]  # the second time nothing was asked for


def test_cut_transfer_is_resumed(server: SimpleNamespace, tmp_path: Path) -> None:
    server.cuts = [3_000_000]
    with pytest.raises(DataError, match=r"cut \(3000000 of 10240000 bytes came\); run it again"):
        download(server.archive, tmp_path)
    assert names(tmp_path) == {"a.bin.part"}
    seen: list[int] = []
    path = download(server.archive, tmp_path, progress=lambda done, total: seen.append(done))
    assert path.read_bytes() == CONTENT and names(tmp_path) == {"a.bin"}
    assert server.asked == ["", "bytes=3000000-"] and seen[0] > 3_000_000


def test_ignored_range_begins_again(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 3_000_000)
    server.ranges = False
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_another_range_begins_again(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:3_000_000])
    server.shift = 1
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=3000000-", ""]


def test_part_too_long_begins_again(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"x")
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("known", [True, False])
def test_whole_part_is_not_fetched_again(
    known: bool, server: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    archive = server.archive if known else Archive(server.archive.url)
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ([] if known else [f"bytes={len(CONTENT)}-"])


def test_unknown_length_is_taken(server: SimpleNamespace, tmp_path: Path) -> None:
    server.length = False
    assert download(Archive(server.archive.url), tmp_path).read_bytes() == CONTENT
    server.cuts = [1_000_000]
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DataError, match="1000000 of 10240000 bytes came"):
        download(server.archive, tmp_path)  # the published size tells that it was cut


@pytest.mark.parametrize("archive", [{"sha256": "0" * 64}, {"size": len(CONTENT) - 1}])
def test_wrong_content_is_deleted(
    archive: dict[str, Any], server: SimpleNamespace, tmp_path: Path
) -> None:
    wrong = Archive(server.archive.url, **archive)
    with pytest.raises(DataError, match="so it was deleted") as caught:
        download(wrong, tmp_path)
    assert "\n" not in str(caught.value) and not names(tmp_path)


def test_damaged_file_under_its_name_is_found_out(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"a\.bin: its SHA-256 is .* so it was deleted"):
        download(server.archive, tmp_path)
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_server_errors_are_named(server: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b.bin: the server answered 404 Not Found"):  # noqa: RUF043
        download(Archive(server.address + "/b.bin"), tmp_path)
    with pytest.raises(DataError, match="cannot be reached"):
        download(Archive("http://127.0.0.1:9/a.bin"), tmp_path)


@pytest.mark.parametrize(
    ("goal", "message"),
    [("file:///etc/hostname", "is not allowed"), ("ftp://127.0.0.1/a", "unknown url type: ftp")],
)
def test_redirection_stays_within_http(
    goal: str, message: str, server: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        download(Archive(f"{server.address}/to?{goal}"), tmp_path)
    assert download(Archive(f"{server.address}/to?/a.bin"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["ftp://x.org/a", "data:text/plain,a", "a.bin", "https://x.org/"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be fetched; use http, https, file"):
        download(Archive(url), tmp_path)


def test_file_addresses(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    archive = Archive((tmp_path / "a.bin").as_uri(), sha256=CHECKSUM)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a.bin.part").write_bytes(b"left over")
    assert download(archive, tmp_path / "to").read_bytes() == CONTENT
    with pytest.raises(DataError, match="nowhere: cannot be reached"):
        download(Archive((tmp_path / "nowhere").as_uri()), tmp_path)


def test_folder_that_cannot_be_made_is_named(server: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/a\.bin: cannot be written"):
        download(server.archive, tmp_path / "file")


# --- extract ---------------------------------------------------------------------------------

Entries = dict[str, bytes]
GOOD: Entries = {"top/a.txt": b"one", "top/b/c.txt": b"two" * 1000, "LICENSE": b"free"}


def make_tar(entries: Entries, *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in extra:
            archive.addfile(entry)
    return buffer.getvalue()


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


def test_file_on_top_of_a_file(tmp_path: Path) -> None:
    refuse(make_tar({"a": b"1", "a/b": b"2"}), tmp_path, "cannot be written")


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
    with pytest.raises(DataError, match="nowhere: is damaged or no archive"):
        extract(tmp_path / "nowhere", tmp_path / "out")


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


# --- fetch -----------------------------------------------------------------------------------


def test_fetch_keeps_what_is_there(server: SimpleNamespace, tmp_path: Path) -> None:
    server.content = gzip.compress(make_tar(GOOD))
    url = server.archive.url
    archives = [Archive(url, member="top"), Archive(url, into="beside")]
    assert fetch(archives, tmp_path, "corpus") == tmp_path / "corpus"
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == b"one"
    assert (tmp_path / "beside" / "top" / "a.txt").is_file()
    (tmp_path / "corpus" / "a.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"corpus, .*beside: is already there"):
        fetch(archives, tmp_path, "corpus")
    (tmp_path / "beside").rename(tmp_path / "moved")
    fetch(archives, tmp_path, "corpus")
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == b"mine"
    assert (tmp_path / "beside").is_dir() and len(server.asked) == 3


def test_a_damaged_archive_is_not_taken_again(server: SimpleNamespace, tmp_path: Path) -> None:
    """Nothing tells such a page, come with status 200, from the archive before it is unpacked."""
    server.content = b"<html>please log in</html>"
    archives = [Archive(server.archive.url)]
    with pytest.raises(DataError, match=r"is damaged or no archive .*: it was deleted, so run it"):
        fetch(archives, tmp_path, "corpus")
    server.content = gzip.compress(make_tar(GOOD))
    assert (fetch(archives, tmp_path, "corpus") / "top" / "a.txt").is_file()


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    left = beside(tmp_path / "model.onnx")
    left.write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"not ours")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]
