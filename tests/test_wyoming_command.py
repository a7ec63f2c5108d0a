"""speechseq wyoming: what it refuses, signals, and standard input."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from conftest import Fails
from connected import answers, in_chunks
from served import ROOT, SAMPLE, lacks
from wyoming.asr import Transcribe
from wyoming.client import AsyncClient
from wyoming.event import read_event, write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from speechseq.cli import wyoming as command
from speechseq.server.counters import FOLDER
from speechseq.server.limits import Limits
from speechseq.server.listening import listen


@pytest.fixture
def refuses(fails: Fails) -> Fails:
    """As `fails`, of this command."""
    return lambda code, *words: fails(code, "wyoming", *words)


def test_others_are_let_in_only_when_that_is_said(refuses: Fails) -> None:
    for host in ("0.0.0.0", "[::]", "192.0.2.1", "example.com"):  # noqa: S104
        assert "no password; say --open" in refuses(2, "--uri", f"tcp://{host}:10300")
    command._check_host(command._address("tcp://0.0.0.0:1"), is_open=True)
    for uri in ("tcp://127.0.0.1:0", "tcp://[::1]:1", "tcp://localhost:1", "unix:///s", "stdio://"):
        command._check_host(command._address(uri), is_open=False)


@pytest.mark.parametrize(
    "uri",
    ["", "tcp://", "tcp://h", "tcp://h:port", "tcp://h:70000", "tcp://:1", "unix://", "unix://a/b",
     "http://h:1", "10300", "tcp://[::1:1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(refuses: Fails, uri: str) -> None:
    assert "not understood; give tcp://HOST:PORT" in refuses(2, "--uri", uri)


@pytest.mark.parametrize("path", ["/run/s", "/run/a#b?c d%20"])
def test_a_sockets_path_is_as_it_was_typed(path: str) -> None:
    assert command._address(f"unix://{path}") == command.Address("unix", path=Path(path))


def test_a_place_that_is_taken_is_told_in_this_commands_words(refuses: Fails) -> None:
    with listen("127.0.0.1", 0) as taken:
        uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = refuses(1, "--uri", uri)
    assert "cannot be listened at (Address already in use" in said
    assert "choose another host or port" in said
    assert "--host" not in said  # a flag of serve


def test_what_is_wrong_is_one_line(refuses: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--streams: 0; more than 0 goes here" in refuses(2, "--streams", 0)
    assert "no such model" in refuses(1, "-m", "nothing")
    assert "--language e: no language" in refuses(2, "--language", "e")
    assert "given 2 times for 1 models" in refuses(2, "--language", "en", "--language", "ar")
    assert "cannot be listened at" in refuses(1, "--uri", "unix:///no/such/folder/s")
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert "no pipes there" in refuses(1, "--uri", "stdio://")


@pytest.mark.parametrize("package", command.PACKAGES)
def test_a_missing_package_is_one_line(
    refuses: Fails, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    lacks(monkeypatch, package)
    assert refuses(1) == (
        f"speechseq: wyoming: {package} is not installed; pip install '.[wyoming]' in the clone\n"
    )


def test_limits_are_those_of_the_server() -> None:
    assert set(command.LIMITS) <= set(Limits.__dataclass_fields__)


def fresh(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "speechseq", "wyoming", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_what_runs_finish(number: signal.Signals, code: int) -> None:
    async def scene(uri: str) -> None:
        start, *rest = in_chunks(SAMPLE)
        async with AsyncClient.from_uri(uri) as client:
            for each in (Describe(), Transcribe(name="commands-ar", language="en"), start, Ping()):
                await client.write_event(each.event())
            info, pong = await answers(client, 2)
            assert pong.type == "pong"
            models = Info.from_event(info).asr[0].models
            assert [model.languages for model in models] == [["en"], ["ar"]]
            assert "Arabic Speech Commands" in models[1].attribution.name
            server.send_signal(number)
            for each in rest:
                await client.write_event(each.event())
            (event,) = await answers(client, 99)
            assert event.data["language"] == "ar"

    models = ("-m", "digits", "-m", "commands-ar", "--language", "en", "--language", "ar")
    with fresh("--uri", "tcp://127.0.0.1:0", *models) as server:
        assert server.stderr
        line = server.stderr.readline().decode()
        assert line.startswith("serving digits, commands-ar at tcp://127.0.0.1:")
        asyncio.run(scene(line.split()[-1]))
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out) == (code, b"")
    assert err.decode() == ("speechseq: interrupted\n" if code else "")


def test_a_program_may_start_its_own() -> None:
    with fresh("--uri", "stdio://") as server:
        for each in (Describe(), *in_chunks(SAMPLE)):
            write_event(each.event(), cast(BinaryIO, server.stdin))
        info, transcript = (read_event(cast(BinaryIO, server.stdout)) for _ in range(2))
        assert info and info.type == "info"
        assert transcript and transcript.data["text"] == "seven zero eight"
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, b"", b"")


def test_the_counters_of_another_service_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "/nowhere")
    with fresh("--uri", "stdio://") as server:
        assert server.communicate(timeout=30) == (b"", b"")
    assert server.returncode == 0
