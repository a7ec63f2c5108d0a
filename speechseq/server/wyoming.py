"""Recognition over the Wyoming protocol, as Home Assistant asks for it.

The client sends ``describe``, or ``transcribe`` (which may name a model or a language),
``audio-start``, ``audio-chunk`` as often as it likes, and ``audio-stop``. The server answers
``info`` or ``transcript``, or ``error``, and then it closes. Other events are passed over.

The events are the package's; its server is not used, as it cuts off what runs when it is told to
stop, and removes whatever file stands where its socket is to be.
Source: https://github.com/OHF-Voice/wyoming
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import stat
import sys
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong

from speechseq import __version__
from speechseq.errors import SpeechseqError
from speechseq.recogniser import Recogniser
from speechseq.server.events import CLOSE_SECONDS, LINE_BYTES, Line, wrong
from speechseq.server.gate import Gate
from speechseq.server.refusal import Refusal, failure
from speechseq.server.service import Service
from speechseq.server.sound import MOST_SAMPLES_A_SECOND, read_upload, too_long
from speechseq.tokens import NO_TEXT

LEAST_RATE = 4000
"""Fewest samples per second; the most are MOST_SAMPLES_A_SECOND, over all channels."""

WIDTHS = (1, 2, 3, 4)
"""Bytes of one sample: whole numbers, little-endian, unsigned where they are single bytes."""

CONNECTIONS = 8
"""So many may be connected for each one that speaks: who says nothing costs next to nothing."""

UNORDERED = {
    "transcribe": "sent while audio is; send it before audio-start",
    "audio-start": "sent twice; send audio-stop first",
    "audio-chunk": "sent before audio-start; send that first",
    "audio-stop": "sent before audio-start; send that first",
}
"""What is wrong with an event that comes when it should not."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A model as clients learn of it: the language it was trained on, and its card."""

    language: str
    card: Mapping[str, Any]

    def speaks(self, language: str) -> bool:
        """Tell whether a language is the model's, whatever its region: en-GB is en."""
        return _primary(language) == _primary(self.language)

    def as_model(self, name: str) -> AsrModel:
        """Return what ``info`` says of it."""
        corpus, licence, homepage = (
            str(self.card.get(key, "")) for key in ("corpus", "licence", "homepage")
        )
        return AsrModel(
            name=name,
            attribution=Attribution(corpus or name, homepage),
            installed=True,
            description=f"{corpus} ({licence})" if corpus and licence else name,
            version=None,
            languages=[self.language],
        )


@dataclass(frozen=True)
class Sound:
    """How samples are sent: `width` bytes each, the channels' by turns."""

    rate: int
    width: int
    channels: int

    @classmethod
    def of(cls, event: Event) -> Sound:
        """Return the format that an audio event names.

        Raises:
            Refusal: it names none, or one that cannot be heard.
        """
        rate, width, channels = (event.data.get(key) for key in ("rate", "width", "channels"))
        if type(rate) is not int or type(channels) is not int or channels < 1:
            raise wrong(f"{event.type}: rate, width and channels, whole numbers, go here")
        if width not in WIDTHS or not LEAST_RATE <= rate <= MOST_SAMPLES_A_SECOND // channels:
            raise wrong(f"{event.type}: its samples cannot be heard; convert them to 16 kHz mono")
        return cls(rate, int(width), channels)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of each channel."""
        return self.width * self.channels

    def as_wav(self, pcm: bytearray) -> bytes:
        """Return samples as a wav file, so that they are read as every file is."""
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setparams((self.channels, self.width, self.rate, 0, "NONE", ""))
            writer.writeframesraw(pcm)
        return file.getvalue()


class Endpoint:
    """Serves recognisers to those who connect; `offers` has one for each, by the same names."""

    def __init__(self, service: Service, offers: Mapping[str, Offer]) -> None:
        self.service = service
        self._offers = offers
        self._info = describe(offers).event()
        self._connections = Gate(CONNECTIONS * service.limits.streams, 0)
        self._hearing: dict[asyncio.Task[Any], bool] = {}
        self._stopping = False

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes, if there is a place for it."""
        self._enter()
        line = Line(reader, writer, self.service.limits)
        try:
            try:
                async with self._connections.place():
                    await self._guarded(line)
            except Refusal as refusal:
                await _refuse(line, refusal)
                await line.read_out()
            finally:
                await line.close()
        except asyncio.CancelledError:  # Python 3.11 takes one that leaves here for an error
            if not self._stopping:
                raise

    async def finish(self) -> None:
        """Close the connections: idle ones at once, the others once they are answered."""
        self._stopping = True
        for task, hearing in self._hearing.items():
            if not hearing:
                task.cancel()
        for seconds in (self.service.limits.grace_seconds, 2 * CLOSE_SECONDS):
            if self._hearing:
                _, late = await asyncio.wait(list(self._hearing), timeout=seconds)
                for task in late:
                    task.cancel()

    def _enter(self, *, hearing: bool = False) -> None:
        """Keep this connection's task, and whether an utterance is under way, until it ends."""
        task = asyncio.current_task()
        assert task
        if task not in self._hearing:
            task.add_done_callback(self._hearing.pop)
        self._hearing[task] = hearing

    async def _guarded(self, line: Line) -> None:
        """Hold the conversation; say what went wrong with it."""
        try:
            await self._converse(line)
        except (EOFError, OSError):  # the client left
            return
        except Refusal as refusal:
            await _refuse(line, refusal)
        except Exception as error:
            await _tell(line, failure(log, line.peer, error))
        await line.read_out()

    async def _converse(self, line: Line) -> None:
        """Answer utterance after utterance, each in its time, which pings do not lengthen."""
        while not self._stopping:
            try:
                async with asyncio.timeout(self.service.limits.stream_lifetime):
                    await self._exchange(line)
            except TimeoutError:
                message = "connection: open for too long without an utterance; start another"
                raise Refusal(408, message, code="timeout") from None

    async def _exchange(self, line: Line) -> None:
        """Answer what comes, to the end of an utterance; what it was asked for is for it alone."""
        name = self._name({})
        while not self._stopping:
            event = await line.read()
            if event.type == "transcribe":
                name = self._name(event.data)
            elif event.type == "audio-start":
                async with self.service.streams.place():
                    self._enter(hearing=True)
                    await self._hear(line, Sound.of(event), name)
                    self._enter(hearing=False)
                return
            else:
                await self._aside(line, event)

    async def _hear(self, line: Line, sound: Sound, name: str) -> None:
        """Hear an utterance to its end, and answer with its text."""
        heard = bytearray()
        with self.service.store.lease() as take:
            while (event := await line.read()).type != "audio-stop":
                if event.type == "audio-chunk":
                    pcm = self._chunk(event, sound, len(heard))
                    take(len(pcm))
                    heard += pcm
                else:
                    await self._aside(line, event)
            text = await self._text(heard, sound, self.service.recognisers[name], take)
        await line.write(Transcript(text, language=self._offers[name].language).event())

    def _chunk(self, event: Event, sound: Sound, held: int) -> bytes:
        """Return a chunk's bytes, if they are what was announced and not too many.

        A chunk may end within a sample: Home Assistant sends on what comes in pieces of any size.
        """
        pcm = event.payload or b""
        if Sound.of(event) != sound:
            raise wrong("audio-chunk: another format than audio-start's; send one throughout")
        seconds = self.service.limits.stream_seconds
        if held + len(pcm) > seconds * sound.rate * sound.frame_bytes:
            raise too_long(seconds)
        return pcm

    async def _text(
        self, heard: bytearray, sound: Sound, recogniser: Recogniser, take: Callable[[int], None]
    ) -> str:
        if not heard:
            return ""
        if len(heard) % sound.frame_bytes:
            raise wrong(f"audio-stop: {len(heard)} bytes; whole samples of all channels go here")
        seconds = self.service.limits.stream_seconds
        samples = await self.service.read(
            lambda: read_upload(sound.as_wav(heard), recogniser.rate, seconds)
        )
        take(samples.nbytes)
        found = await self.service.recognise(recogniser, samples)
        self.service.metrics.audio_seconds.inc(found.duration)
        return "" if found.text in NO_TEXT else found.text

    async def _aside(self, line: Line, event: Event) -> None:
        """Answer what may come at any time, and pass over what is not known."""
        if event.type in UNORDERED:
            raise wrong(f"{event.type}: {UNORDERED[event.type]}")
        if event.type == "describe":
            await line.write(self._info)
        elif event.type == "ping":
            text = event.data.get("text")
            await line.write(Pong(text if isinstance(text, str) else None).event())

    def _name(self, asked: Mapping[str, Any]) -> str:
        """Return the model that is asked for: by name, else by language, else the first one.

        Raises:
            Refusal: there is none such (404).
        """
        name, language = asked.get("name") or "", asked.get("language") or ""
        if not isinstance(name, str) or not isinstance(language, str):
            raise wrong("transcribe: a name and a language are texts")
        if name:
            return self.service.name_of(name)
        for key, offer in self._offers.items():
            if not language or offer.speaks(language):
                return key
        known = ", ".join(dict.fromkeys(offer.language for offer in self._offers.values()))
        message = f"language: no {language[:80]!r} here; choose from {known}"
        raise Refusal(404, message, code="language_not_found")


def describe(offers: Mapping[str, Offer]) -> Info:
    """Return what clients are told of: one program with all models."""
    program = AsrProgram(
        name="speechseq",
        attribution=Attribution("speechseq", ""),
        installed=True,
        description="small speech recognisers",
        version=__version__,
        models=[offer.as_model(name) for name, offer in offers.items()],
        # Training hears sound as it was recorded.
        prefers_auto_gain_enabled=False,
        prefers_noise_reduction_enabled=False,
    )
    return Info(asr=[program])


async def serve(endpoint: Endpoint, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve who connects to a listening socket until told to stop; what runs is finished first."""
    async with endpoint.service.running():
        server = await asyncio.start_server(endpoint.meet, sock=listener, limit=LINE_BYTES)
        try:
            await stop.wait()
        finally:
            server.close()
            await endpoint.finish()


async def serve_parent(endpoint: Endpoint, stop: asyncio.Event) -> None:
    """Serve who started this process, over its standard input and output, until they are closed.

    Raises:
        SpeechseqError: these are no pipes.
    """
    reader, writer = await _pipes()
    async with endpoint.service.running():
        tasks = [
            asyncio.create_task(endpoint.meet(reader, writer)),
            asyncio.create_task(stop.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks[1].cancel()
            await endpoint.finish()


async def _pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not all(_is_pipe(file.fileno()) for file in (sys.stdin, sys.stdout)):
        raise SpeechseqError("stdio://: no pipes there; start this from a program, or use tcp://")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LINE_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, sys.stdin)
    writing = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport, _ = await loop.connect_write_pipe(lambda: writing, sys.stdout)
    return reader, asyncio.StreamWriter(transport, writing, None, loop)


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    """Listen at a socket in the file system; one that nobody listens at any more is replaced.

    Raises:
        SpeechseqError: it cannot be listened at: something else stands there, say.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            if path.is_socket() and not _is_listened_at(path):
                path.unlink()
            listener.bind(str(path))
            own = path.stat()
            listener.listen()
        except OSError as error:
            reason = error.strerror or error
            raise SpeechseqError(
                f"unix://{path}: cannot be listened at ({reason}); choose another --uri"
            ) from None
        try:
            yield listener
        finally:
            # Another server may have taken the place, once this one stopped to listen.
            with suppress(OSError):
                if os.path.samestat(path.stat(), own):
                    path.unlink()


def _is_listened_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


async def _refuse(line: Line, refusal: Refusal) -> None:
    """Note what a client did wrong, and tell it."""
    log.warning("%s: %s", line.peer, refusal)
    await _tell(line, refusal)


async def _tell(line: Line, refusal: Refusal) -> None:
    try:
        await line.write(Error(str(refusal), refusal.code).event())
    except OSError:  # it is gone already
        return


def _primary(language: str) -> str:
    return language.replace("_", "-").lower().partition("-")[0]
