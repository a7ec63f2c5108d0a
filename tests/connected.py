"""What the tests of the Wyoming endpoint share: a live one, and the package's own client."""

from __future__ import annotations

import asyncio
import socket
import warnings
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from served import LEFT_RIGHT, RATE, RIGHT

# Without the package, tests that import this are skipped; they import the package behind it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of audioop, which the package imports
    pytest.importorskip("wyoming.audio", reason="the package wyoming is not installed")

from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event

from speechseq.recogniser import Recogniser
from speechseq.server.limits import Limits
from speechseq.server.listening import listen
from speechseq.server.service import Service
from speechseq.server.wyoming import Endpoint, Offer, serve

CARD = {"corpus": "Words of ours", "licence": "CC0", "homepage": "https://example.org/words"}
FORMAT = {"rate": RATE, "width": 2, "channels": 1}
START = AudioStart(**FORMAT)
STOP = AudioStop()


class Said(Protocol):
    """What can be said: the package's classes, and those written here."""

    def event(self) -> Event: ...


def chunk(seconds: float = 0.25, **other: int) -> AudioChunk:
    """Silence, in START's format or another one."""
    sound = FORMAT | other
    size = round(seconds * sound["rate"]) * sound["width"] * sound["channels"]
    return AudioChunk(**sound, audio=bytes(size))


UTTERANCE = (START, chunk(), chunk(), STOP)


class Live:
    """A server, as its tests see it."""

    def __init__(self, endpoint: Endpoint, uri: str, stop: asyncio.Event) -> None:
        self.endpoint = endpoint
        self.uri = uri
        self.stop = stop


@asynccontextmanager
async def serving(
    *recognisers: Recogniser, listener: socket.socket | None = None, **limits: Any
) -> AsyncIterator[Live]:
    """Serve recognisers a (en), b (ar) on loopback; LEFT_RIGHT and RIGHT by default."""
    named = dict(zip("ab", recognisers or (LEFT_RIGHT, RIGHT), strict=False))
    offers = {
        name: Offer(language, CARD) for name, language in zip(named, ("en", "ar"), strict=False)
    }
    endpoint = Endpoint(Service(named, Limits(**limits)), offers)
    opened = listener or listen("127.0.0.1", 0)
    stop = asyncio.Event()
    where = opened.getsockname()
    uri = f"unix://{where}" if isinstance(where, str) else f"tcp://{where[0]}:{where[1]}"
    running = asyncio.create_task(serve(endpoint, opened, stop))
    try:
        yield Live(endpoint, uri, stop)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await running
        assert endpoint.service.streams.inside == endpoint.service.store.held == 0


async def answers(client: AsyncClient, most: int) -> list[Event]:
    """What comes, until it is so much or the server closes."""
    heard: list[Event] = []
    async with asyncio.timeout(20):
        while len(heard) < most and (event := await client.read_event()):
            heard.append(event)
    return heard


async def ask(uri: str, *said: Said, most: int = 99) -> list[Event]:
    """Say this, and return the answers."""
    async with AsyncClient.from_uri(uri) as client:
        for each in said:
            await client.write_event(each.event())
        return await answers(client, most)


async def texts(uri: str, *said: Said, most: int = 1) -> list[str]:
    return [Transcript.from_event(event).text for event in await ask(uri, *said, most=most)]


def refused(heard: Sequence[Event], code: str, words: str = "") -> None:
    """Check that the last thing heard is an error."""
    error = Error.from_event(heard[-1])
    assert heard[-1].type == "error"
    assert error.code == code
    assert words in error.text
    assert "\n" not in error.text


def in_chunks(path: Path, samples: int = 1000) -> list[Said]:
    """A wav file as the package's own function sends it."""
    with wave.open(str(path), "rb") as file:
        return list(wav_to_chunks(file, samples, start_event=True, stop_event=True))
