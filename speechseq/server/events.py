"""Events of the Wyoming protocol over one connection, each within its bounds of bytes and time.

An event is a line of JSON, and as many bytes of more JSON and of payload as that line announces.
The package's own reader takes in whatever a client announces; this one does not.
Source: https://github.com/OHF-Voice/wyoming
"""

from __future__ import annotations

import asyncio
from typing import Any

from wyoming.event import Event, async_write_event

from speechseq.server.limits import Limits
from speechseq.server.refusal import Refusal, json_object

LINE_BYTES = 1 << 14
"""Longest line that begins an event."""

CLOSE_SECONDS = 1.0
"""How long a closing connection may take to hand over what was said last."""


class Line:
    """One connection's two directions."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits

    @property
    def peer(self) -> str:
        """Who is at the other end, as far as that is known."""
        address = self._writer.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "client"

    async def read(self) -> Event:
        """Return the next event.

        Raises:
            Refusal: it is too large, comes too late, is cut short or is no event.
            EOFError: the client left between two events.
        """
        await asyncio.sleep(0)  # what is there already is read at once: others must have turns
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                return await self._event(await self._header())
        except TimeoutError:
            message = "client: silent for too long; connect again"
            raise Refusal(408, message, code="timeout") from None

    async def write(self, event: Event) -> None:
        """Send an event.

        Raises:
            ConnectionError: the client left, or does not read.
        """
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                await async_write_event(event, self._writer)
        except TimeoutError:
            raise ConnectionError("client: does not read") from None

    async def read_out(self) -> None:
        """Pass over what is still sent: a socket closed with data unread loses the last answer."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                self._writer.write_eof()
                while await self._reader.read(LINE_BYTES):
                    pass
        except OSError:  # a TimeoutError is one
            return

    async def close(self) -> None:
        """Close the connection, without waiting long for a client that does not read."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()

    async def _header(self) -> dict[str, Any]:
        try:
            return _parse(await self._reader.readuntil(b"\n"))
        except asyncio.LimitOverrunError:
            raise _too_large(f"event: its first line is longer than {LINE_BYTES} bytes") from None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _cut_short() from None
            raise

    async def _event(self, header: dict[str, Any]) -> Event:
        kind, data = header.get("type"), header.get("data") or {}
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise wrong("event: a type, and data that is an object, go here")
        more = await self._bytes(header, "data_length")
        payload = await self._bytes(header, "payload_length")
        return Event(kind, data | (_parse(more) if more else {}), payload)

    async def _bytes(self, header: dict[str, Any], name: str) -> bytes:
        """Read as many bytes as a header announces, if they may be so many."""
        size = header.get(name) or 0
        if type(size) is not int or size < 0:
            raise wrong(f"{name}: a number of bytes goes here")
        if size > self._limits.message_bytes:
            raise _too_large(f"{name}: more than {self._limits.message_bytes} bytes")
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise _cut_short() from None


def wrong(message: str) -> Refusal:
    """Return the refusal of an event that is not as the protocol has it."""
    return Refusal(400, message, code="invalid_event")


def _parse(text: bytes) -> dict[str, Any]:
    return json_object(text, lambda what: wrong(f"event: {what}; speak the Wyoming protocol here"))


def _cut_short() -> Refusal:
    return wrong("event: cut short; send all that it announces")


def _too_large(message: str) -> Refusal:
    return Refusal(413, f"{message}; send less at once", code="event_too_large")
