"""The door: who may ask at all; every answer is counted, and no error of ours leaves unseen."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from speechseq.server.hosts import is_loopback
from speechseq.server.metrics import Metrics
from speechseq.server.refusal import CLIENT_GONE, Refusal, failure

HEALTH = "/healthz"
PAGE_FILES = "/page/"
OPEN = (HEALTH, "/")
"""Paths that need no token: what watches over the server knows none, and the page asks for it."""

READ_OUT_BYTES, READ_OUT_SECONDS = 1 << 20, 1.0
"""How much of a body, in how much time, is taken in before a request is refused."""

WEBSOCKET_STATUS = {"websocket.accept": 101, "websocket.close": 403}
"""What the first message of an answer to a WebSocket amounts to."""

log = logging.getLogger(__name__)


class Body:
    """What receives a request's messages, and knows whether its body is still on its way."""

    def __init__(self, receive: Receive, headers: Headers):
        self._receive = receive
        lengths = {"content-length", "transfer-encoding"} & set(headers)
        self.is_over = not lengths
        # Of two lengths nothing is read, and what is not sent yet is not asked for.
        waits = headers.get("expect", "").lower() == "100-continue"
        self._left = 0 if len(lengths) == 2 or waits else READ_OUT_BYTES

    async def __call__(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        self.is_over = not message.get("more_body")
        self._left = READ_OUT_BYTES
        return message

    async def read_out(self) -> None:
        """Take in the rest, if it is little: a connection cut off in it may lose the answer."""
        left = self._left
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_OUT_SECONDS):
                while not self.is_over and left > 0:
                    left -= len((await self()).get("body", b""))


@dataclass(frozen=True)
class Door:
    """An ASGI application around `app`; `paths` are those that are counted by name.

    Who takes no part of an answer for `send_seconds` is given up: a connection costs memory.
    """

    app: ASGIApp
    metrics: Metrics
    token: str | None
    paths: Sequence[str]
    send_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, answer and count one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status = 0
        receive = body = Body(receive, Headers(scope=scope))

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
                await body.read_out()
                if not body.is_over:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                status = message["status"]
            else:
                status = status or WEBSOCKET_STATUS.get(message["type"], 0)
            try:
                async with asyncio.timeout(self.send_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        path = scope["path"] if scope["path"] in self.paths else "other"
        try:
            await self._answer(scope, receive, noting)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:  # the time to finish what runs is over
            body.is_over = True  # nothing is waited for any more
            if not status:
                await _refuse(_stopped(), scope, receive, noting)
        except Exception as error:
            refusal = failure(log, path, error)
            if not status:
                await _refuse(refusal, scope, receive, noting)
        finally:
            self.metrics.requests.labels(path, status or CLIENT_GONE).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Check the token; where there is none, that no foreign web page uses this machine's.

        A page's own server may have given its name this machine's address (DNS rebinding), so
        that only names which always mean this machine are answered.

        Raises:
            Refusal: the token is wrong (401), a page of another place asks (403), or proxies
                before this server may read the request in another way (400).
        """
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:  # RFC 9112, section 6.3
            message = "Content-Length: sent with Transfer-Encoding; send one of them"
            raise Refusal(400, message, code="ambiguous_length")
        if scope["path"] in OPEN or scope["path"].startswith(PAGE_FILES):
            return
        if self.token is None:
            origin, host = headers.get("origin"), headers.get("host")
            if host is not None and not _is_this_machine(host):
                message = "Host: not localhost; only a server with a token answers to other names"
                raise Refusal(403, message, code="foreign_host")
            if origin is not None and origin.partition("://")[2] != host:
                message = "Origin: another site's page; only a server with a token answers those"
                raise Refusal(403, message, code="foreign_origin")
        elif not _holds(headers.get("authorization", ""), self.token):
            message = "Authorization: wrong or no token; send 'Bearer' and the server's token"
            raise Refusal(401, message, code="invalid_api_key")


def _is_this_machine(host: str) -> bool:
    """Whether a Host header's name can mean no other machine."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _holds(header: str, token: str) -> bool:
    """Whether a header holds the token, found in a time that does not tell how much of it does."""
    scheme, _, given = header.partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    return right and scheme.lower() == "bearer"


def _stopped() -> Refusal:
    return Refusal(503, "server: stopped before it had an answer; ask again", code="stopped")


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refusal.response()(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(refusal.response())
