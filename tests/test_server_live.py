"""A real server on loopback: slow clients and many, signals; and the command that starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import Fails
from served import (
    RATE,
    SAMPLE,
    Held,
    answer_of,
    finishes_what_runs,
    fresh,
    is_open,
    lacks,
    live,
    metric,
    place_of,
    recogniser,
    request_bytes,
    saying,
    stoppable,
    until,
)

from speechseq.cli import serve as command
from speechseq.cli.serving import SERVER_PACKAGES
from speechseq.cli.terminal import by_name
from speechseq.errors import ModelError, SpeechseqError
from speechseq.recogniser import load
from speechseq.server.hosts import is_loopback
from speechseq.server.listening import listen
from speechseq.server.service import warm


def test_openais_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    openai = pytest.importorskip("openai", reason="openai's client is not installed")
    monkeypatch.setenv("NO_PROXY", "*")
    digits = load("digits")
    expected = digits.transcribe(SAMPLE)
    with (
        live(digits) as (host, port),
        openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as api,
    ):
        create = api.audio.transcriptions.create
        assert [model.id for model in api.models.list()] == ["a"]
        assert api.models.retrieve("a").owned_by == "speechseq"
        for model in ("a", "whisper-1"):
            assert create(file=SAMPLE, model=model).text == expected.text
        found = create(
            file=("clip.wav", SAMPLE.read_bytes()),
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            prompt="digits",
            temperature=0.0,
        )
        assert found.duration == expected.duration
        assert [(w.word, w.start, w.end) for w in found.words] == [
            (w.text, w.start, w.end) for w in expected.words
        ]
        assert " ".join(segment.text for segment in found.segments) == expected.text
        assert create(file=SAMPLE, model="a", response_format="text").strip() == expected.text
        assert "-->" in create(file=SAMPLE, model="a", response_format="srt")
        delta, done = create(file=SAMPLE, model="a", stream=True)
        assert (delta.type, delta.delta) == ("transcript.text.delta", expected.text)
        assert (done.type, done.text) == ("transcript.text.done", expected.text)
        with pytest.raises(openai.NotFoundError, match="choose from a"):
            create(file=SAMPLE, model="other")
        with pytest.raises(openai.BadRequestError, match="not audio that can be read"):
            create(file=("a.wav", b"no audio"), model="a")


def test_two_hundred_connections_at_once() -> None:
    async def ask(host: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request_bytes())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def ask_all(host: str, port: int) -> list[bytes]:
        return await asyncio.gather(*(ask(host, port) for _ in range(200)))

    with live() as address:
        answers = asyncio.run(ask_all(*address))
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert all(b'"text":"left right"' in answer for answer in answers)


def test_a_full_server_says_come_back() -> None:
    held = Held()
    with (
        live(held.recogniser, requests=1, queue=1) as address,
        socket.create_connection(address) as inside,
        socket.create_connection(address) as waiting,
        socket.create_connection(address) as refused,
    ):
        inside.sendall(request_bytes())
        assert held.begun.wait(20)
        waiting.sendall(request_bytes())
        until(lambda: metric(address, "speechseq_waiting_uploads") == 1)
        refused.sendall(request_bytes())
        status, body = answer_of(refused)
        assert (status, json.loads(body)["error"]["code"]) == (429, "busy")
        held.go.set()
        assert answer_of(inside)[0] == answer_of(waiting)[0] == 200


def test_what_is_not_done_in_time_is_told_so() -> None:
    with (
        stoppable(grace_seconds=0.2) as (address, stop),
        socket.create_connection(address) as client,
    ):
        client.sendall(request_bytes()[:-100])
        until(lambda: metric(address, "speechseq_held_bytes") > 0)
        stop()
        status, body = answer_of(client)
    assert (status, json.loads(body)["error"]["code"]) == (503, "stopped")


def test_a_stream_that_is_over_has_its_text_before_the_server_ends() -> None:
    from websockets.sync.client import connect

    held = Held()
    with (
        stoppable(held.recogniser) as ((host, port), stop),
        connect(f"ws://{host}:{port}/v1/stream", proxy=None) as stream,
    ):
        for message in ('{"type": "start", "rate": 8000}', bytes(RATE), '{"type": "finish"}'):
            stream.send(message)
        assert held.begun.wait(20)
        stop()
        until(lambda: not is_open((host, port)))
        held.go.set()
        assert [json.loads(each)["type"] for each in stream] == ["ready", "final"]


def test_a_stream_over_a_real_socket() -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with live(message_kb=10) as (host, port):
        with connect(f"ws://{host}:{port}/v1/stream", proxy=None) as connection:
            for message in ('{"type": "start", "rate": 8000}', bytes(RATE), '{"type": "finish"}'):
                connection.send(message)
            *_, final = (json.loads(message) for message in connection)
            assert (final["type"], final["text"], final["duration"]) == ("final", "left right", 0.5)
        with connect(f"ws://{host}:{port}/v1/stream", proxy=None) as connection:
            connection.send(bytes(20_000))
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009


def test_what_is_listened_at_already_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpeechseqError, match=rf"127.0.0.1:{port}: .*in use.*another host"):
            listen("127.0.0.1", port)
    for host in ("192.0.2.1", "a" * 70, "\0"):
        with pytest.raises(SpeechseqError, match="choose another host or port"):
            listen(host, 0)


# ---- the command ----


@pytest.fixture
def refuses(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """As `fails`, of this command, without a token around."""
    monkeypatch.delenv(command.TOKEN_VARIABLE, raising=False)
    return lambda code, *words: fails(code, "serve", *words)


def test_a_server_that_others_reach_needs_a_token(
    refuses: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com", ""):  # noqa: S104
        assert "give a token in --token-file or $SPEECHSEQ_TOKEN" in refuses(2, "--host", host)
    file = tmp_path / "token"
    for text in ("", " \n", "two words", "wört", "a\nb"):
        file.write_text(text)
        assert "holds no token" in refuses(2, "--host", "::", "--token-file", file)
    assert "cannot be read (No such file" in refuses(2, "--token-file", tmp_path / "none")
    file.write_bytes(b"\xff")
    assert "cannot be read (not text)" in refuses(2, "--token-file", file)
    monkeypatch.setenv(command.TOKEN_VARIABLE, "")
    assert "$SPEECHSEQ_TOKEN: holds no token" in refuses(2)
    monkeypatch.setenv(command.TOKEN_VARIABLE, " word\n")
    assert command._token(None) == "word"
    file.write_text("other\n")
    assert command._token(file) == "other"


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
    ("page.localhost", True), ("", False),
    ("0.0.0.0", False), ("localhost.example.com", False), ("10.0.0.1", False),  # noqa: S104
])  # fmt: skip
def test_which_hosts_are_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_what_is_wrong_is_said_before_anything_is_opened(refuses: Fails) -> None:
    assert "--batch: 0; more than 0 goes here" in refuses(2, "--batch", 0)
    assert "invalid int value" in refuses(2, "--port", "http")
    assert "no such model" in refuses(1, "-m", "nothing")
    assert "a second model called 'digits'" in refuses(2, "-m", "digits", "-m", "digits")
    assert "--port 70000: 0 to 65535 goes here" in refuses(2, "--port", 70000)


@pytest.mark.parametrize("package", SERVER_PACKAGES)
def test_a_missing_package_is_one_line(
    refuses: Fails, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    lacks(monkeypatch, package)
    assert refuses(1) == (
        f"speechseq: serve: {package} is not installed; pip install '.[serve]' in the clone\n"
    )


def test_models_are_named_after_their_files(tmp_path: Path) -> None:
    assert by_name(None) == {"digits": "digits"}
    assert list(by_name(["some/where/mine.onnx"])) == ["mine"]
    assert list(by_name([str(tmp_path)])) == [tmp_path.name]


def test_a_model_that_cannot_be_run_is_found_out_at_once() -> None:
    def fail(_: np.ndarray) -> None:
        raise ModelError("m: cannot be run")

    with pytest.raises(ModelError):
        warm({"a": recogniser(saying(0, then=fail))})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_what_runs_finish(number: signal.Signals, code: int) -> None:
    with fresh("-m", "speechseq", "serve", "--port", "0") as server:
        finishes_what_runs(server, place_of(server), number, code, uploads=1)


def test_the_server_imports_no_training_and_other_commands_no_server() -> None:
    code = """
import sys, speechseq.cli
assert not {"starlette", "uvicorn", "asyncio", "prometheus_client"} & set(sys.modules)
import speechseq.server.app, speechseq.server.listening
assert not {"torch", "librosa", "scipy", "speechseq.training"} & set(sys.modules)
"""
    with fresh("-c", code) as done:
        assert done.communicate(timeout=60) == ("", "")
        assert done.returncode == 0


def test_answers_leave_at_once() -> None:
    """Asyncio sets TCP_NODELAY on connections of a listener that says its protocol."""
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.proto == socket.IPPROTO_TCP
