"""WebSocket /v1/stream: samples as they are spoken, interim texts, and the final one.

The client sends ``{"type": "start", "rate": 16000}`` (and ``"model"``, ``"interim": true``), then
binary messages of 16-bit little-endian mono samples, then ``{"type": "finish"}``. The server
answers ``ready``, ``interim`` at most once a second, and ``final`` or ``error``; then it closes.

Interim texts come of a stream, which goes on from where it was, so that they cost the same at any
length. The final text is that of the whole, as of a file: what follows a word tells what it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechseq.recogniser import Recogniser
from speechseq.recognition import Listener, Recognition
from speechseq.server.answers import word_times
from speechseq.server.limits import Limits
from speechseq.server.listening import ANSWERING
from speechseq.server.refusal import Refusal, failure, json_object
from speechseq.server.service import Service
from speechseq.server.sound import PCM_BYTES, STREAM_RATES, read_pcm, too_long
from speechseq.streaming import Resampler

INTERIM_SECONDS = 1.0
"""Least time from one interim text to the next."""

CLOSE_CODES = {408: 1008, 413: 1009, 429: 1013, 500: 1011, 503: 1013}
"""WebSocket's close codes by HTTP's statuses; 1008 stands for all others."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What the first message asks for."""

    recogniser: Recogniser
    rate: int
    interim: bool


class Utterance:
    """Hears an utterance, and says what it is, so far and in the end.

    A model that cannot stream recognises all of it anew each time it is asked. `take` is asked for
    the room of all that is heard.
    """

    def __init__(self, service: Service, start: Start, take: Callable[[int], None]):
        self._service = service
        self._start = start
        self._take = take
        self._heard = bytearray()
        self._most = round(service.limits.stream_seconds * start.rate) * PCM_BYTES
        streams = start.interim and start.recogniser.streams
        self._stream = start.recogniser.stream() if streams else None
        self._resample = Resampler(start.rate, start.recogniser.rate)
        self._streamed = 0  # bytes

    def hear(self, pcm: bytes) -> None:
        """Take the next samples.

        Raises:
            Refusal: they are not whole samples (400), too many (413), or there is no room (503).
        """
        if len(pcm) % PCM_BYTES:
            raise _wrong(f"audio: {len(pcm)} bytes; whole 16-bit samples go here")
        if len(self._heard) + len(pcm) > self._most:
            raise too_long(self._service.limits.stream_seconds)
        self._take(len(pcm))
        self._heard += pcm

    async def so_far(self) -> Recognition:
        """Recognise what was heard so far; the text may change yet.

        Raises:
            Refusal: the server is too busy (503).
        """
        if self._stream is None:
            return await self.recognise()
        stream, new = self._stream, bytes(self._heard[self._streamed :])
        self._streamed += len(new)
        return await self._service.read(lambda: self._go_on(stream, new))

    async def recognise(self) -> Recognition:
        """Recognise all that was heard, as a whole.

        Raises:
            Refusal: the server is too busy (503).
        """
        heard, recogniser = bytes(self._heard), self._start.recogniser
        samples = await self._service.read(
            lambda: read_pcm(heard, self._start.rate, recogniser.rate)
        )
        if not len(samples):
            return Recognition("", (), 1.0, 0.0)
        with self._service.store.lease() as take:
            take(samples.nbytes)
            return await self._service.recognise(recogniser, samples)

    def _go_on(self, stream: Listener, pcm: bytes) -> Recognition:
        stream.hear(self._resample(read_pcm(pcm, self._start.rate, self._start.rate)))
        return stream.so_far()


class Interims:
    """Sends interim texts while more is heard, one at a time."""

    def __init__(self, socket: WebSocket, utterance: Utterance):
        self._socket = socket
        self._utterance = utterance
        self._task: asyncio.Task[None] | None = None
        self._next = 0.0

    def offer(self) -> None:
        """Begin with the next text, if it is time for one and the last one is out."""
        now = asyncio.get_running_loop().time()
        if now >= self._next and (self._task is None or self._task.done()):
            self._next = now + INTERIM_SECONDS
            self._task = asyncio.create_task(self._send())
            self._task.add_done_callback(_look_at)

    async def stop(self) -> None:
        """Send no more; what went wrong with an interim text is left to the final one to tell."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        await _say(self._socket, "interim", await self._utterance.so_far())


def _look_at(task: asyncio.Task[None]) -> None:
    """Ask what went wrong with a task, as asyncio tells of what nobody asked for."""
    if not task.cancelled():
        task.exception()


async def stream(socket: WebSocket) -> None:
    """Serve one stream, if there is a place for it."""
    service: Service = socket.app.state.service
    try:
        async with service.streams.place():
            await socket.accept()
            await _guarded(socket, service)
    except Refusal as refusal:
        await socket.send_denial_response(refusal.response())


async def _guarded(socket: WebSocket, service: Service) -> None:
    """Hold the conversation within its time; say what went wrong with it, and close."""
    try:
        try:
            async with asyncio.timeout(service.limits.stream_lifetime):
                await _converse(socket, service)
                await socket.close()
        except TimeoutError:
            raise Refusal(408, "stream: open for too long; start another", code="timeout") from None
    except (WebSocketDisconnect, ClientDisconnect):
        return
    except Refusal as refusal:
        await _give_up(socket, refusal)
    except Exception as error:
        await _give_up(socket, failure(log, socket.url.path, error))


async def _give_up(socket: WebSocket, refusal: Refusal) -> None:
    try:
        await socket.send_json({"type": "error", **refusal.body()})
        await socket.close(CLOSE_CODES.get(refusal.status, 1008))
    except (WebSocketDisconnect, ClientDisconnect, RuntimeError):  # it is gone already
        return


async def _converse(socket: WebSocket, service: Service) -> None:
    """Hear until the client says finish, then say what it was."""
    start = _read_start(await _receive(socket, service.limits), service)
    with service.store.lease() as take:
        await _hear(socket, service, start, Utterance(service, start, take))


async def _hear(socket: WebSocket, service: Service, start: Start, utterance: Utterance) -> None:
    interims = Interims(socket, utterance)
    await socket.send_json({"type": "ready", "rate": start.rate})
    try:
        while isinstance(message := await _receive(socket, service.limits), bytes):
            utterance.hear(message)
            if start.interim:
                interims.offer()
    finally:
        await interims.stop()
    if message.get("type") != "finish":
        raise _wrong('message: unknown; send samples, or {"type": "finish"}')
    socket.scope["state"][ANSWERING] = True
    found = await utterance.recognise()
    service.metrics.audio_seconds.inc(found.duration)
    await _say(socket, "final", found)


async def _receive(socket: WebSocket, limits: Limits) -> bytes | dict[str, Any]:
    """Return the next message: samples, or a JSON object; many empty ones let others have turns.

    Raises:
        Refusal: it came too late, is too large or no JSON object.
        WebSocketDisconnect: the client left.
    """
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(limits.idle_seconds):
            message = await socket.receive()
    except TimeoutError:
        raise Refusal(408, "stream: silent for too long; start another", code="timeout") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    content: bytes | str = message.get("bytes") or message.get("text") or b""
    if len(content) > limits.message_bytes:
        raise Refusal(413, "message: too large; send smaller ones", code="message_too_large")
    if isinstance(content, bytes):
        return content
    return json_object(content, lambda what: _wrong(f"message: {what}; send one with a type"))


def _read_start(message: bytes | dict[str, Any], service: Service) -> Start:
    if isinstance(message, bytes) or message.get("type") != "start":
        raise _wrong('message: the first one is {"type": "start", "rate": …}; send that')
    rate, model = message.get("rate"), message.get("model", "")
    if type(rate) is not int or not STREAM_RATES[0] <= rate <= STREAM_RATES[1]:
        raise _wrong(
            f"rate: samples per second, {STREAM_RATES[0]} to {STREAM_RATES[1]}, go here", "rate"
        )
    if not isinstance(model, str | None):
        raise _wrong("model: a name goes here", "model")
    return Start(service.model(model or ""), rate, message.get("interim") is True)


def _wrong(text: str, param: str | None = None) -> Refusal:
    return Refusal(400, text, code="invalid_message", param=param)


async def _say(socket: WebSocket, kind: str, found: Recognition) -> None:
    await socket.send_json(
        {
            "type": kind,
            "text": found.text,
            "words": [word_times(word) for word in found.words],
            "confidence": round(found.confidence, 4),
            "duration": found.duration,
        }
    )
