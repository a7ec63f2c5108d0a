"""A real server on loopback, and clients that are slow, that leave, or that mean no good."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from served import (
    answer_of,
    is_open,
    live,
    metric,
    page_of,
    request_bytes,
    stoppable,
    until,
)

from speechseq.server.door import READ_OUT_SECONDS
from speechseq.server.listening import READ_BYTES, InPieces

ASK_LARGE = b"GET /models/a.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def test_slow_senders_are_cut_off() -> None:
    with live(header_seconds=0.2, body_seconds=0.2) as address:
        for sent, status in (
            (b"", 0),
            (b"POST /v1/aud", 0),
            (request_bytes()[:-100], 408),
        ):
            with socket.create_connection(address) as slow:
                slow.sendall(sent)
                found, body = answer_of(slow)
                assert found == status
                assert not status or json.loads(body)["error"]["code"] == "timeout"
        with socket.create_connection(address) as late:  # between two requests of one connection
            late.sendall(request_bytes().replace(b"Connection: close\r\n", b"") + b"GET /hea")
            assert answer_of(late)[0] == 200
        with socket.create_connection(address) as quick:
            quick.sendall(request_bytes())
            assert answer_of(quick)[0] == 200


@pytest.fixture
def given_away(tmp_path: Path) -> Path:
    """A file of 12 MB, that does not fit into what lies between."""
    path = tmp_path / "a.onnx"
    path.write_bytes(bytes(12_000_000))
    return path


def test_who_takes_an_answer_slowly_gets_all_of_it(given_away: Path) -> None:
    """It takes several times as long as a silent one may stay, closed as it will be by then.

    Of a small window the server hears often that something was taken.
    """
    with (
        live(header_seconds=0.4, body_seconds=0.4, model_files={"a": given_away}) as address,
        socket.socket() as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        slow.connect(address)
        slow.sendall(ASK_LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        taken, hurries = 0, time.monotonic() + 3
        while chunk := slow.recv(1 << 17):
            taken += len(chunk)
            if time.monotonic() < hurries:
                time.sleep(0.05)
    assert taken > given_away.stat().st_size


def test_who_takes_no_answer_is_cut_off(given_away: Path) -> None:
    """Each reader holds two descriptors."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def is_served() -> bool:
        with socket.create_connection(address) as quick:
            quick.sendall(request_bytes())
            return answer_of(quick)[0] == 200

    limits = {"header_seconds": 0.4, "body_seconds": 0.4}
    with live(**limits, model_files={"a": given_away}) as address, ExitStack() as held:
        assert is_served()
        before = descriptors()
        for _ in range(20):
            slow = held.enter_context(socket.create_connection(address))
            slow.sendall(ASK_LARGE)
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: descriptors() >= before + 40)
        until(lambda: descriptors() <= before + 20)
        assert is_served()


def test_who_sends_much_in_little_pieces_waits_as_all_do() -> None:
    """No piece is larger than READ_BYTES; what is left comes when the others had their turn."""

    class Seen(InPieces):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))

    async def scene() -> None:
        server = await asyncio.get_running_loop().create_server(Seen, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(bytes(5 * READ_BYTES))
            while sum(sizes) < 5 * READ_BYTES:
                await asyncio.sleep(0.01)
        server.close()

    sizes: list[int] = []
    asyncio.run(asyncio.wait_for(scene(), 20))
    assert max(sizes) == READ_BYTES


def test_who_takes_no_pongs_is_not_read_from() -> None:
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    with live() as address, socket.create_connection(address, timeout=2) as client:
        client.sendall(UPGRADE + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(TimeoutError):
            for _ in range(200):
                client.sendall(ping * 4096)


def test_a_body_that_is_refused_is_not_asked_for() -> None:
    head = request_bytes().partition(b"\r\n\r\n")[0]
    with live(body_mb=0.001) as address, socket.create_connection(address) as client:
        began = time.monotonic()
        client.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        status, body = answer_of(client)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert time.monotonic() - began < READ_OUT_SECONDS


def test_an_upgrade_that_is_none_is_over() -> None:
    with live() as address, socket.create_connection(address) as client:
        client.sendall(UPGRADE + b"Content-Length: 5\r\n\r\n")
        assert answer_of(client) == (0, b"")


def test_who_keeps_a_finished_stream_open_does_not_hold_the_end_up() -> None:
    start = b'{"type": "start", "rate": 8000}'
    finish = b'{"type": "finish"}'
    with (
        stoppable() as (address, stop),
        socket.create_connection(address, timeout=20) as client,
    ):
        client.sendall(UPGRADE + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        for text in (start, finish):
            client.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        heard = b""
        while b"\x88\x02\x03\xe8" not in heard:  # the server's close, which nobody answers
            heard += client.recv(4096)
        began = time.monotonic()
        stop()
        until(lambda: not is_open(address))
        while client.recv(4096):
            pass
        assert time.monotonic() - began < 5


def test_a_refusal_reaches_who_is_still_sending() -> None:
    with live(body_mb=0.1) as address, socket.create_connection(address) as client:
        client.sendall(request_bytes(bytes(500_000)))
        status, body = answer_of(client)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_a_request_of_two_lengths_is_the_last_of_its_connection() -> None:
    ask = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
    with live() as address, socket.create_connection(address) as client:
        client.sendall(
            ask
            + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            + ask
            + b"\r\n"
        )
        status, body = answer_of(client)
    assert (status, json.loads(body)["error"]["code"]) == (400, "ambiguous_length")


def test_who_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with live() as address:
        with socket.create_connection(address) as leaving:
            leaving.sendall(request_bytes()[:-100])
        until(lambda: 'status="499"' in page_of(address))
        assert metric(address, "speechseq_held_bytes") == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
