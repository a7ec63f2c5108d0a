"""Nothing is under its name before it is whole; no archive reaches outside its folder."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speechseq import files
from speechseq.archives import fetch
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_no_cut_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_: Path, mode: str) -> Any:
        return open("/dev/full", mode)

    (tmp_path / "a.bin").write_bytes(CONTENT)
    monkeypatch.setattr(files, "open", opened, raising=False)
    with pytest.raises(
        DataError, match=r"to/a\.bin: cannot be written \(No space left on device\)"
    ):
        download(Archive((tmp_path / "a.bin").as_uri()), tmp_path / "to")


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
