"""What the server's tests share: recognisers that are written out, forms, and a real server."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from speechseq.cli.serve import TOKEN_VARIABLE
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser
from speechseq.server.app import build_app
from speechseq.server.forms import boundary_of
from speechseq.server.limits import Limits
from speechseq.server.listening import build_server, listen, serve
from speechseq.server.service import Service
from speechseq.tokens import BLANK_TOKEN, Vocabulary

RATE = 8000
WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right"))
HERE = {"Host": "localhost"}
"""What a browser or client on the same machine says whom it asks."""

PATH = "/v1/audio/transcriptions"
Network = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def saying(*best: int, then: Callable[[np.ndarray], object] = lambda _: None) -> Network:
    """A network that says these tokens, whatever it hears, after doing something with it."""
    probs = np.full((len(best), 3), 0.05)
    probs[np.arange(len(best)), best] = 0.9

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        then(samples)
        log_probs = np.log(np.stack([probs] * len(samples))).astype(np.float32)
        return log_probs, np.full(len(samples), len(best))

    return run


def recogniser(network: Network) -> Recogniser:
    recipe = recipe_from_dict({"features": {"rate": RATE}, "data": {"tokens": "words"}}, "test")
    return Recogniser(network, WORDS, recipe)


class Held:
    """A recogniser that says left, and waits in its work until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.recogniser = recogniser(saying(1, then=self._hold))

    def _hold(self, _: np.ndarray) -> None:
        self.begun.set()
        assert self.go.wait(20)


LEFT_RIGHT = recogniser(saying(0, 1, 1, 0, 2, 0))
RIGHT = recogniser(saying(2, 0))


def wav(seconds: float = 0.5, rate: int = RATE, channels: int = 1, kind: str = "WAV") -> bytes:
    """A file of quiet noise."""
    noise = np.random.default_rng(0).normal(0, 0.01, (round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format=kind)
    return file.getvalue()


CLIP = wav()


def encoded(files: list[tuple[str, Any]], data: dict[str, Any]) -> tuple[bytes, bytes]:
    """A form as a client writes it: its body and boundary."""
    request = httpx2.Request("POST", "http://h/", files=files, data=data)
    return request.read(), boundary_of(request.headers["Content-Type"])


@contextmanager
def live(
    *recognisers: Recogniser, model_files: Mapping[str, Path] | None = None, **limits: Any
) -> Iterator[tuple[str, int]]:
    """A server on loopback, in a thread; its address."""
    with stoppable(*recognisers, model_files=model_files, **limits) as (address, _):
        yield address


@contextmanager
def stoppable(
    *recognisers: Recogniser, model_files: Mapping[str, Path] | None = None, **limits: Any
) -> Iterator[tuple[tuple[str, int], Callable[[], None]]]:
    """The address of a live server, and what tells it to stop."""
    settings = Limits(**limits)
    named = dict(zip("abc", recognisers or (LEFT_RIGHT,), strict=False))
    app = build_app(named, settings, model_files=model_files)
    server, listener = build_server(app, settings), listen("127.0.0.1", 0)
    address = listener.getsockname()
    thread = threading.Thread(target=lambda: asyncio.run(serve(server, listener, settings)))
    thread.start()

    def stop() -> None:
        server.should_exit = True

    try:
        yield address, stop
    finally:
        stop()
        thread.join(20)
        assert not thread.is_alive()


ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "samples" / "seven_zero_eight.wav"


def fresh(*words: str) -> subprocess.Popen[str]:
    """Python in a process of its own, without a token around."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(TOKEN_VARIABLE, None)
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def place_of(server: subprocess.Popen[str]) -> tuple[str, int]:
    """Where the command says that it serves."""
    assert server.stderr
    line = server.stderr.readline()
    address = re.fullmatch(r"serving digits at http://(127\.0\.0\.1):(\d+)\n", line)
    assert address, line
    return address[1], int(address[2])


def finishes_what_runs(
    server: subprocess.Popen[str], place: tuple[str, int], number: int, code: int, uploads: int
) -> None:
    """Expect that a server which gets a signal amid so many uploads answers them, and ends."""
    whole = request_bytes(SAMPLE.read_bytes())
    running = [socket.create_connection(place) for _ in range(uploads)]
    for each in running:
        each.sendall(whole[:-100])
    until(lambda: metric(place, "speechseq_held_bytes") == uploads * (body_size(whole) - 100))
    os.kill(server.pid, number)
    until(lambda: not is_open(place))
    for each in running:
        with each:
            each.sendall(whole[-100:])
            status, body = answer_of(each)
        assert (status, json.loads(body)["text"]) == (200, "seven zero eight")
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out) == (code, "")
    assert err == ("speechseq: interrupted\n" if code else "")


@contextmanager
def serving(
    *recognisers: Recogniser, token: str | None = None, **limits: Any
) -> Iterator[TestClient]:
    """A client of an application, whose models are called a, b, …."""
    named = dict(zip("abc", recognisers or (LEFT_RIGHT,), strict=False))
    app = build_app(named, Limits(**limits), token=token)
    with TestClient(app, raise_server_exceptions=True, headers=HERE) as client:
        yield client


def service_of(client: TestClient) -> Service:
    app: Any = client.app
    return app.state.service


def post(client: TestClient, file: bytes = CLIP, **fields: Any) -> httpx2.Response:
    return client.post(PATH, files={"file": ("clip.wav", file)}, data=fields)


def refused(response: httpx2.Response, status: int, code: str) -> str:
    """Expect an error in OpenAI's shape, and return its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "\n" not in error["message"]
    assert str(ROOT) not in response.text
    return error["message"]


def request_bytes(file: bytes = CLIP) -> bytes:
    """A whole request, as it goes over the wire."""
    body, boundary = encoded([("file", ("clip.wav", file))], {})
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary.decode()}\r\n\r\n"
    )
    return head.encode() + body


def body_size(request: bytes) -> int:
    """How many bytes follow a request's headers."""
    return len(request.partition(b"\r\n\r\n")[2])


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """What comes until the server closes: the status, 0 for nothing, and the body."""
    connection.settimeout(20)
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def page_of(address: tuple[str, int]) -> str:
    """The page of counters."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return page


def metric(address: tuple[str, int], name: str) -> float:
    found = re.search(rf"^{name} (.*)$", page_of(address), re.MULTILINE)
    assert found
    return float(found[1])


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so; fail after 20 s."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_open(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def lacks(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let a command find every package but one."""
    monkeypatch.setattr(
        "speechseq.cli.terminal.find_spec", lambda name: None if name == package else "there"
    )
