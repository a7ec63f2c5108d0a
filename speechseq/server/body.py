"""A request's body, within its bounds: so many bytes, in so much time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from speechseq.server.limits import Limits
from speechseq.server.refusal import Refusal


async def read_body(request: Request, limits: Limits, take: Callable[[int], None]) -> bytes:
    """Read a whole body; `take` is asked for the room of each part of it.

    Raises:
        Refusal: it is too large (413) or comes too slowly (408), or there is no room (503).
    """
    check_length(request, limits)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise _too_large(limits.body_mb)
                take(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        message = "body: sent too slowly; send it again, or less at once"
        raise Refusal(408, message, code="timeout") from None
    return b"".join(chunks)


def check_length(request: Request, limits: Limits) -> None:
    """Refuse a body that says that it is too large before any of it is read.

    Raises:
        Refusal: it says so (413).
    """
    claimed = request.headers.get("content-length", "0")
    if claimed.isdecimal() and int(claimed[:20]) > limits.body_bytes:
        raise _too_large(limits.body_mb)


def _too_large(most_mb: float) -> Refusal:
    message = f"body: larger than {most_mb:g} MB; send the audio in parts or compressed"
    return Refusal(413, message, code="body_too_large")
