"""The command line as a process: pipes, closed streams, terminals, full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def process(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "speechseq", *map(str, words)], input=stdin, capture_output=True
    )


def test_a_process_transcribes_its_stdin(run: Path, clips: Path) -> None:
    data = (clips / "a.wav").read_bytes()
    done = process("transcribe", "-", "-m", run, stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == process("transcribe", clips / "a.wav", "-m", run).stdout


def test_standard_input_may_stand_behind_flags(run: Path, clips: Path) -> None:
    data = (clips / "a.wav").read_bytes()
    done = process(
        "transcribe", "-m", run, "-f", "txt", clips / "a.wav", "-f", "json", "-", stdin=data
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_closed_streams_are_no_trouble(closed: str, run: Path, clips: Path) -> None:
    command = f"{sys.executable} -m speechseq transcribe {clips / 'a.wav'} -m {run} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0 and done.stderr == b""
    assert bool(done.stdout) == (closed == "2>&-")


def test_a_terminal_that_is_not_unicode_gets_what_it_can_show(
    run: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "é.wav").write_bytes((clips / "a.wav").read_bytes())
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = process("transcribe", clips / "é.wav", clips / "a.wav", "-m", run)
    assert done.returncode == 0 and b"u00e9.wav" in done.stdout
    done = process("transcribe", clips / "é.wav", "-m", run, "-f", "json")
    assert json.loads(done.stdout)["file"] == str(clips / "é.wav")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(run: Path, clips: Path) -> None:
    command = f"{sys.executable} -m speechseq transcribe {clips / 'a.wav'} -m {run} > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 1
    assert done.stderr == b"speechseq: standard output: its disk is full; free some of it\n"


def test_a_process_exits_with_the_code(tmp_path: Path) -> None:
    done = process("transcribe", tmp_path / "nothing.wav", "-m", "nothing")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    debug = process("transcribe", tmp_path / "nothing.wav", "-m", "nothing", "--debug")
    assert debug.returncode == 1
    assert b"Traceback" in debug.stderr


@pytest.mark.parametrize("words", [["data", "list"], ["--help"], ["transcribe", "{clips}"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str], run: Path, clips: Path) -> None:
    words = [word.format(clips=clips) for word in words]
    if words[0] == "transcribe":
        words += ["-m", str(run)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "speechseq", *words], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0
