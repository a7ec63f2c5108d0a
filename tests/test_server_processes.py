"""Several processes at one address: who answers, what they count together, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Fails
from served import (
    SAMPLE,
    answer_of,
    body_size,
    finishes_what_runs,
    fresh,
    is_open,
    metric,
    page_of,
    place_of,
    request_bytes,
    until,
)

from speechseq.errors import SpeechseqError
from speechseq.server.counters import FOLDER, share_counters
from speechseq.server.listening import listen
from speechseq.server.processes import listen_together

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections")

COUNT = 2
Place = tuple[str, int]


def command(before: str = "", count: int = COUNT) -> subprocess.Popen[str]:
    """The command with so many processes, after other lines of Python."""
    program = f"from speechseq.cli import run, serve\nimport os, signal\n{before}\nrun()"
    return fresh("-c", program, "serve", "--port", "0", "--processes", str(count))


@contextmanager
def together(before: str = "", count: int = COUNT) -> Iterator[tuple[subprocess.Popen[str], Place]]:
    """The command, and where it serves."""
    with command(before, count) as server:
        try:
            yield server, place_of(server)
        finally:
            server.kill()


def children_of(number: int) -> list[int]:
    """The processes that one has started and that still run."""
    listed = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return [child for child in map(int, listed) if is_running(child)]


def is_running(number: int) -> bool:
    """Whether a process is there, and no mere entry of one that has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def counters_of(number: int) -> Path:
    """The folder of a process' counters, as its memory shows."""
    for line in Path(f"/proc/{number}/maps").read_text().splitlines():
        if found := re.search(r"/\S*speechseq-[^/]+(?=/\w+\.db)", line):
            return Path(found[0])
    raise AssertionError("no counters are mapped")


def ask(place: Place) -> str:
    with socket.create_connection(place) as connection:
        connection.sendall(request_bytes(SAMPLE.read_bytes()))
        status, body = answer_of(connection)
    assert status == 200
    return json.loads(body)["text"]


def answers(place: Place) -> float:
    found = re.search(
        r'^speechseq_requests_total\{path="/v1/audio/transcriptions",status="200"\} (.*)$',
        page_of(place),
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


LISTENING, CONNECTED = "0A", "01"
"""States of a socket, in the kernel's table."""


def sockets_of(number: int, state: str) -> int:
    """How many sockets of a process are in a state."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in table if row[3] == state}
    links = [str(file.readlink()) for file in Path(f"/proc/{number}/fd").iterdir()]
    return sum(link[8:-1] in inodes for link in links if link.startswith("socket:["))


def test_all_answer_and_each_tells_of_all() -> None:
    with together() as (server, place):
        children = children_of(server.pid)
        assert len(children) == COUNT
        assert [sockets_of(child, LISTENING) for child in children] == [1] * COUNT
        open_ones = [socket.create_connection(place) for _ in range(24)]
        until(lambda: sum(sockets_of(child, CONNECTED) for child in children) == 24)
        assert all(sockets_of(child, CONNECTED) for child in children)
        for each in open_ones:
            each.close()
        assert {ask(place) for _ in range(12)} == {"seven zero eight"}
        assert [answers(place) for _ in range(6)] == [12.0] * 6
        assert metric(place, "speechseq_transcription_seconds_count") == 12
        assert page_of(place).count("\nspeechseq_uploads ") == 1
        counters = counters_of(children[0])
        assert counters == counters_of(children[1])
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=30) == ("", "")
        assert server.returncode == 0
        assert not any(map(is_running, children))
        assert not counters.exists()


def test_what_another_process_holds_is_told_too() -> None:
    whole = request_bytes(SAMPLE.read_bytes())
    with together() as (_, place), socket.create_connection(place) as slow:
        slow.sendall(whole[:-100])
        for _ in range(6):  # whichever of them is asked
            until(lambda: metric(place, "speechseq_held_bytes") == body_size(whole) - 100)
        slow.sendall(whole[-100:])
        assert answer_of(slow)[0] == 200
        until(lambda: metric(place, "speechseq_held_bytes") == 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_all_finish_what_runs(number: signal.Signals, code: int) -> None:
    with together() as (server, place):
        finishes_what_runs(server, place, number, code, uploads=8)


def test_who_is_interrupted_twice_waits_for_nobody() -> None:
    whole = request_bytes(SAMPLE.read_bytes())
    with together() as (server, place), socket.create_connection(place) as running:
        running.sendall(whole[:-100])
        until(lambda: metric(place, "speechseq_held_bytes") > 0)
        server.send_signal(signal.SIGINT)
        until(lambda: not is_open(place))
        began = time.monotonic()
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=30) == ("", "speechseq: interrupted\n")
        assert server.returncode == 130
        assert time.monotonic() - began < 20  # a body is waited for for 30 s


def test_one_that_ends_is_followed_by_another() -> None:
    with together() as (server, place):
        ask(place)
        first, second = children_of(server.pid)
        os.kill(first, signal.SIGKILL)
        assert server.stderr
        line = server.stderr.readline()
        assert line == "a process has ended (signal 9); starting another\n"
        until(lambda: len(children_of(server.pid)) == COUNT)
        assert {ask(place) for _ in range(12)} == {"seven zero eight"}
        assert second in children_of(server.pid)
        assert answers(place) == 13.0
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=30) == ("", "")
        assert server.returncode == 0


def test_the_end_of_a_process_that_is_not_its_own_is_nothing_to_it() -> None:
    """So do orphans end in a container, whose first process it may be."""
    with together("os.fork() or signal.pause()") as (server, place):
        other, *own = children_of(server.pid)
        assert len(own) == COUNT
        os.kill(other, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{other}").exists())
        assert ask(place) == "seven zero eight"
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=30) == ("", "")
        assert server.returncode == 0


TOLD_LATE = """
def told_late(how, which, mask=signal.pthread_sigmask):
    if how == signal.SIG_BLOCK:
        os.kill(os.getpid(), signal.SIGTERM)
    return mask(how, which)
signal.pthread_sigmask = told_late
"""
"""Told to stop at the last moment before one is started."""


def test_who_is_told_to_stop_starts_none() -> None:
    with command(TOLD_LATE) as server:
        assert server.communicate(timeout=60) == ("", "")
        assert server.returncode == 0


def test_it_hears_of_ends_whoever_started_it() -> None:
    with together("signal.signal(signal.SIGCHLD, signal.SIG_IGN)") as (server, _):
        first, second = children_of(server.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: len({*children_of(server.pid)} - {first, second}) == 1)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def test_where_nobody_watches_all_finish_and_end() -> None:
    whole = request_bytes(SAMPLE.read_bytes())
    with together() as (server, place), socket.create_connection(place) as running:
        children = children_of(server.pid)
        counters = counters_of(children[0])
        running.sendall(whole[:-100])
        until(lambda: metric(place, "speechseq_held_bytes") > 0)
        server.kill()
        until(lambda: not is_open(place))
        running.sendall(whole[-100:])
        assert answer_of(running)[0] == 200
        until(lambda: not any(map(is_running, children)))
        assert not counters.exists()


def test_what_is_wrong_is_said_once(fails: Fails, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        words = ("serve", "--port", port, "--processes", COUNT)
        assert f"127.0.0.1:{port}: cannot be listened at" in fails(1, *words)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with fresh("-m", "speechseq", "serve", "-m", str(bad), "--port", "0", "--processes", "4") as it:
        out, err = it.communicate(timeout=60)
    assert (it.returncode, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "bad.onnx" in err


def test_one_that_is_ended_as_it_starts_is_told_of() -> None:
    with command("serve.open_recognisers = lambda _: os.kill(os.getpid(), 9)") as server:
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out) == (1, "")
    assert "--processes: one ended as it started (signal 9); see that there is memory" in err


def test_a_port_that_others_share_is_taken() -> None:
    listeners = listen_together("127.0.0.1", 0, COUNT)
    port = listeners[0].getsockname()[1]
    assert [each.getsockname()[1] for each in listeners] == [port] * COUNT
    for count in (1, COUNT):
        with pytest.raises(SpeechseqError, match="in use"):
            listen_together("127.0.0.1", port, count)
    for each in listeners:
        each.close()


def test_nobody_takes_the_port_while_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def contested(host: str, port: int, *, shared: bool = False) -> socket.socket:
        if shared:
            with pytest.raises(SpeechseqError, match="in use"):
                listen(host, port)
        return listen(host, port, shared=shared)

    monkeypatch.setattr("speechseq.server.processes.listen", contested)
    for each in listen_together("127.0.0.1", 0, COUNT):
        each.close()


@pytest.mark.parametrize("count", [1, COUNT])
def test_counters_of_another_service_are_left_to_it(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with together(count=count) as (_, place):
        ask(place)
        assert answers(place) == 1.0
        assert not list(tmp_path.iterdir())


def test_counters_need_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(SpeechseqError, match=r"no place for their counters \(No usable .*TMPDIR"):
        share_counters()


def test_how_many_can_be_asked_for(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, -1, 65):
        message = f"--processes {count}: 1 to 64 goes here"
        assert message in fails(2, "serve", f"--processes={count}")
    monkeypatch.setattr(sys, "platform", "darwin")
    message = "--processes 2: no system but Linux spreads connections; leave it out"
    assert message in fails(2, "serve", "--processes", 2)
