"""From a socket to the application: uvicorn, and a watch over connections that say nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from speechseq.errors import SpeechseqError
from speechseq.server.limits import Limits

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent

BACKLOG = 512
"""Connections that the system keeps until they are taken up."""


SEND_BYTES = 1 << 18
"""What the system may hold of an answer: of more it would be heard too late who takes it."""

READ_BYTES = 1 << 14
"""What is taken of a connection at once: chunks and frames of a byte keep the others waiting."""

LEAST_TAKEN_BYTES = 4096
"""Who takes less of an answer in `header_seconds` takes none."""

ANSWERING = "answering"
"""Key of a WebSocket's state, under which it says that nothing but its last answer is to come."""

UNKNOWN = object()
State = tuple[Any, bool, int]

log = logging.getLogger(__name__)


class InPieces(asyncio.BufferedProtocol):
    """A protocol that takes READ_BYTES at once, and then lets the others have their turn.

    Left to itself, asyncio hands over a quarter of a megabyte.
    """

    _piece: bytearray | None = None

    def data_received(self, data: bytes) -> None:
        """Take in what came; a protocol's own."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> bytearray:
        """Give asyncio where to put what comes."""
        self._piece = self._piece or bytearray(READ_BYTES)
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what was put there."""
        self.data_received(bytes(memoryview(self._piece or b"")[:nbytes]))


class Http(H11Protocol, InPieces):
    """A connection of HTTP requests."""


class Socket(WebSocketsSansIOProtocol, InPieces):
    """A WebSocket. Who does not take its pongs is not read from."""

    def pause_writing(self) -> None:
        """Stop to read, too: every ping that is read is answered."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Return what was read; that goes on only if what was sent was taken."""
        message = await super().receive()
        if not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def data_received(self, data: bytes) -> None:
        """Take in what came; a request that is no WebSocket's is not waited for any more."""
        super().data_received(data)
        if self.conn.handshake_exc is not None:
            self.transport.close()

    def shutdown(self) -> None:
        """Close, but for a stream whose final text is being found: that closes by itself."""
        if not self.handshake_initiated or self.transport.is_closing():
            self.transport.close()
        elif self.close_sent or not self.scope["state"].get(ANSWERING):
            super().shutdown()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Open a listening socket; port 0 takes a free one. Shared ones may be several at one port.

    Raises:
        SpeechseqError: it cannot be opened.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        opened = socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=shared)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpeechseqError(
            f"{host}:{port}: cannot be listened at ({reason}); choose another host or port"
        ) from None
    # asyncio lets small answers leave at once (TCP_NODELAY) only where the protocol is said:
    # without it a lone client waits 40 ms for each.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, opened.detach())


def build_server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return uvicorn with what it bounds: headers' size, messages' size, time to finish."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Http,  # h11 bounds the size of headers; httptools does not
            ws=Socket,
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,  # samples hardly shrink
            lifespan="on",
            backlog=BACKLOG,  # asyncio listens anew
            log_config=None,
            # What clients do wrong is no error of ours, and ours the door tells in one line.
            log_level="error" if log.isEnabledFor(logging.DEBUG) else "critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(limits.grace_seconds),
        )
    )


async def serve(
    server: uvicorn.Server, listener: socket.socket, limits: Limits, watched: int | None = None
) -> None:
    """Serve until a signal, `server.should_exit`, or the end of `watched`, a pipe.

    What runs is finished first.
    """
    connections = server.server_state.connections
    watch = asyncio.create_task(drop_silent(connections, limits.header_seconds))
    if watched is not None:
        stop_at_end(server, watched)
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()


def stop_at_end(server: uvicorn.Server, watched: int) -> None:
    """Let a server stop when a pipe ends: nobody holds its other end any more."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(watched)
        server.should_exit = True

    loop.add_reader(watched, stop)


async def drop_silent(connections: Collection[Any], header_seconds: float) -> None:
    """Close connections that send no whole request header for so long; uvicorn waits for ever.

    What is closed, but for a rest of an answer that nobody takes, is cut off after as long; who
    takes it, some kilobytes in that time at least, gets all of it.
    """
    since: dict[Any, tuple[State, float]] = {}
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(header_seconds / 4)
        states = {each: _waits_in(each) for each in connections}
        waiting = {each: state for each, state in states.items() if state}
        for connection, state in waiting.items():
            last, began = since.get(connection, (None, 0.0))
            since[connection] = (state, began if state == last else clock())
            if clock() - since[connection][1] >= header_seconds:
                transport = connection.transport
                transport.abort() if transport.is_closing() else transport.close()
        since = {each: since[each] for each in waiting}


def _waits_in(connection: Any) -> State | None:
    """Return the state in which a connection waits for its client; None while it does not.

    It changes with what was asked, with the end, and with what is still to be taken of an answer.
    WebSockets have no cycle, and bounds of their own.
    """
    transport = connection.transport
    cycle: Any = getattr(connection, "cycle", UNKNOWN)
    if not transport:
        return None
    is_silent = cycle is None or (cycle is not UNKNOWN and cycle.response_complete)
    if not is_silent and not transport.is_closing():
        return None
    return cycle, transport.is_closing(), transport.get_write_buffer_size() // LEAST_TAKEN_BYTES
