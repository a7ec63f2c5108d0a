"""The door: who may ask at all; every answer is counted, and no error of ours leaves unseen."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence
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

WEBSOCKET_STATUS = {"websocket.accept": 101, "websocket.close": 403}
"""What the first message of an answer to a WebSocket amounts to."""

log = logging.getLogger(__name__)


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

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
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
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            log.error("%s: %s", path, what, exc_info=log.isEnabledFor(logging.DEBUG))
            if not status:
                await _refuse(failure(), scope, receive, noting)
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
            Refusal: the token is wrong (401), or a page of another place asks (403).
        """
        headers = Headers(scope=scope)
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


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refusal.response()(scope, receive, send)
    else:
        await WebSocket(scope, receive, send).send_denial_response(refusal.response())
