"""The Wyoming endpoint, asked by the package's own client; hostile bytes; the command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import warnings
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import pytest
import soundfile
import soxr
from conftest import Fails
from served import LEFT_RIGHT, RATE, RIGHT, Held, recogniser, saying

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # of audioop, which the package has imported
    pytest.importorskip("wyoming.audio", reason="the package wyoming is not installed")

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event, read_event, write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from speechseq.audio import read_audio
from speechseq.cli import wyoming as command
from speechseq.errors import ModelError, SpeechseqError
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser, load
from speechseq.server.events import LINE_BYTES, Line
from speechseq.server.limits import Limits
from speechseq.server.listening import listen
from speechseq.server.service import Service
from speechseq.server.wyoming import CONNECTIONS, Endpoint, Offer, Sound, listening_at, serve
from speechseq.tokens import SILENCE, UNKNOWN, Vocabulary

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "samples" / "seven_zero_eight.wav"
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


# ---- what is asked for ----


def test_what_is_there_is_described() -> None:
    async def scene() -> None:
        async with serving() as live:
            (event,) = await ask(live.uri, Describe(), most=1)
        (program,) = Info.from_event(event).asr
        assert program.installed
        assert (program.name, [model.name for model in program.models]) == ("speechseq", ["a", "b"])
        first = program.models[0]
        assert first.languages == ["en"]
        assert program.models[1].languages == ["ar"]
        assert first.attribution.name == CARD["corpus"]
        assert first.attribution.url == CARD["homepage"]
        assert "CC0" in (first.description or "")

    asyncio.run(scene())


def test_a_sample_has_the_text_that_the_recogniser_gives_it() -> None:
    digits = load("digits")

    async def scene() -> None:
        async with serving(digits) as live:
            (event,) = await ask(live.uri, Transcribe(language="en"), *in_chunks(SAMPLE), most=1)
        transcript = Transcript.from_event(event)
        assert transcript.text == digits.transcribe(SAMPLE).text == "seven zero eight"
        assert transcript.language == "en"

    asyncio.run(scene())


def test_fast_stereo_in_small_chunks_over_a_socket_in_the_file_system(tmp_path: Path) -> None:
    digits = load("digits")
    samples, rate = soundfile.read(SAMPLE)
    fast = tmp_path / "fast.wav"
    left = soxr.resample(samples, rate, 48000)
    soundfile.write(fast, np.stack([left, 0.5 * left], axis=1), 48000, subtype="PCM_16")

    async def scene() -> None:
        with listening_at(tmp_path / "s") as listener:
            async with serving(digits, listener=listener) as live:
                assert live.uri == f"unix://{tmp_path}/s"
                found = await texts(live.uri, *in_chunks(fast, 317))
        assert found == [digits.transcribe(fast).text] == ["seven zero eight"]

    asyncio.run(scene())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_samples_of_every_width_are_those_of_a_file(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    noise = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    soundfile.write(path, noise, 44100, subtype=subtype)
    with wave.open(str(path), "rb") as file:
        width, pcm = file.getsampwidth(), file.readframes(500)
    written = Sound(44100, width, 2).as_wav(bytearray(pcm))
    np.testing.assert_array_equal(read_audio(written, 16000), read_audio(path, 16000))


def test_two_clients_at_once_have_each_its_own_text() -> None:
    async def scene() -> None:
        async with serving() as live:
            async with AsyncClient.from_uri(live.uri) as one, AsyncClient.from_uri(live.uri) as two:
                for client, name in ((one, "a"), (two, "b")):
                    await client.write_event(Transcribe(name=name).event())
                for each in UTTERANCE:
                    for client in (one, two):
                        await client.write_event(each.event())
                found = [await answers(client, 1) for client in (two, one)]
            assert [heard[0].data["text"] for heard in found] == ["right", "left right"]

    asyncio.run(scene())


def test_models_are_chosen_by_name_or_language_or_first() -> None:
    async def scene() -> None:
        async with serving() as live:
            said: list[Said] = [
                *UTTERANCE,
                *(Transcribe(name="b"), *UTTERANCE),
                *UTTERANCE,  # what was asked for held once
                *(Transcribe(language="ar_EG"), *UTTERANCE),
                *(Transcribe(name="a", language="ar"), *UTTERANCE),
                *(Transcribe(language="EN-us"), *UTTERANCE),
            ]
            assert await texts(live.uri, *said, most=6) == [
                "left right", "right", "left right", "right", "left right", "left right"
            ]  # fmt: skip
            refused(
                await ask(live.uri, Transcribe(name="c")), "model_not_found", "choose from a, b"
            )
            refused(
                await ask(live.uri, Transcribe(language="de")),
                "language_not_found",
                "language: no 'de' here; choose from en, ar",
            )

    asyncio.run(scene())


def test_what_is_no_text_is_empty_and_a_class_is_its_name() -> None:
    classes = Vocabulary("classes", (UNKNOWN, SILENCE, "yes"))
    made = recipe_from_dict(
        {"features": {"rate": RATE}, "data": {"tokens": "classes"}, "model": {"head": "classify"}},
        "test",
    )

    async def scene() -> None:
        for number, text in enumerate(("", "", "yes")):
            async with serving(Recogniser(saying(number), classes, made)) as live:
                assert await texts(live.uri, *UTTERANCE) == [text]

    asyncio.run(scene())


def test_silence_without_samples_is_an_empty_text() -> None:
    async def scene() -> None:
        async with serving() as live:
            said = (START, STOP, START, chunk(0), STOP)
            assert await texts(live.uri, *said, most=2) == ["", ""]

    asyncio.run(scene())


def test_pings_are_answered_and_the_unknown_is_passed_over() -> None:
    class Unknown:
        def event(self) -> Event:
            return Event("select-program", {"name": "x"}, b"payload")

    async def scene() -> None:
        async with serving() as live:
            said = (Ping("a"), Unknown(), START, Ping("b"), Describe(), Unknown(), *UTTERANCE[1:])
            heard = await ask(live.uri, *said, most=4)
            assert [event.type for event in heard] == ["pong", "pong", "info", "transcript"]
            assert [Pong.from_event(event).text for event in heard[:2]] == ["a", "b"]

    asyncio.run(scene())


# ---- what is refused ----

WRONG: dict[str, tuple[tuple[Said, ...], str, str]] = {
    "a chunk first": ((chunk(),), "invalid_event", "audio-chunk: sent before audio-start"),
    "a stop first": ((STOP,), "invalid_event", "audio-stop: sent before audio-start"),
    "started twice": ((START, START), "invalid_event", "audio-start: sent twice"),
    "asked late": ((START, Transcribe()), "invalid_event", "transcribe: sent while audio is"),
    "a second stop": ((*UTTERANCE, STOP), "invalid_event", "audio-stop: sent before"),
    "another rate": ((START, chunk(rate=16000)), "invalid_event", "another format"),
    "half a sample": (
        (START, AudioChunk(**FORMAT, audio=b"123")),
        "invalid_event",
        "audio-chunk: 3 bytes; whole samples",
    ),
    "no rate": ((AudioStart(0, 2, 1),), "invalid_event", "cannot be heard"),
    "a rate below": ((AudioStart(-8000, 2, 1),), "invalid_event", "cannot be heard"),
    "a rate too high": ((AudioStart(10**9, 2, 1),), "invalid_event", "cannot be heard"),
    "a rate with a point": ((AudioStart(8e3, 2, 1),), "invalid_event", "whole numbers"),  # type: ignore[arg-type]
    "a rate in words": ((AudioStart("8000", 2, 1),), "invalid_event", "whole numbers"),  # type: ignore[arg-type]
    "wide samples": ((AudioStart(8000, 8, 1),), "invalid_event", "cannot be heard"),
    "no channels": ((AudioStart(8000, 2, 0),), "invalid_event", "whole numbers"),
    "many channels": ((AudioStart(8000, 2, 10**9),), "invalid_event", "cannot be heard"),
    "a name of lists": ((Transcribe(name=[[]]),), "invalid_event", "are texts"),  # type: ignore[arg-type]
    "a language of 1": ((Transcribe(language=1),), "invalid_event", "are texts"),  # type: ignore[arg-type]
    "too long": ((START, *[chunk()] * 5), "audio_too_long", "longer than 1 s at most"),
    "less than a sample": (
        (AudioStart(192_000, 2, 1), chunk(1 / 192_000, rate=192_000), STOP),
        "invalid_audio",
        "shorter than a sample",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_and_noted_and_closed(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, code, words = WRONG[case]

    async def scene() -> None:
        async with serving(stream_seconds=1) as live:
            refused(await ask(live.uri, *said), code, words)
            assert await texts(live.uri, *UTTERANCE) == ["left right"]

    asyncio.run(scene())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert words in record.getMessage()
    assert record.getMessage().startswith("127.0.0.1:")


def header(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


HOSTILE: dict[str, bytes] = {
    "no JSON": b"hello\n",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "no text": b"\xff\xfe\x00\n",
    "an empty line": b"\n",
    "a list": b"[]\n",
    "a number": b"1\n",
    "null": b"null\n",
    "deep JSON": b"[" * 10_000 + b"\n",
    "a number of many digits": b'{"type": ' + b"1" * 9_000 + b"}\n",
    "no type": header(data={}),
    "a type of lists": header(type=[]),
    "data that is a list": header(type="describe", data=[1]),
    "a line that does not end": b" " * 3 * LINE_BYTES,
    "a long line": b" " * LINE_BYTES + header(type="describe"),
    "much data": header(type="describe", data_length=10**12),
    "a huge payload": header(type="audio-chunk", payload_length=2**63),
    "a negative length": header(type="describe", payload_length=-1),
    "negative data": header(type="describe", data_length=-(10**30)),
    "a length of true": header(type="describe", data_length=True),
    "a length with a point": header(type="describe", data_length=1.5),
    "a length in words": header(type="describe", data_length="10"),
    "an endless length": b'{"type": "describe", "data_length": Infinity}\n',
    "data that is no JSON": header(type="describe", data_length=4) + b"nope",
    "data that is no object": header(type="describe", data_length=2) + b"[]",
    "a payload out of order": header(type="audio-chunk", payload_length=4) + b"1234",
}
CUT = {
    "cut in the line": b'{"type": "descr',
    "cut in the data": header(type="describe", data_length=9) + b"{",
    "cut in the payload": header(type="audio-chunk", payload_length=1000) + b"12",
    "cut before the payload": header(type="audio-chunk", payload_length=1000),
}


async def closed_after(uri: str, data: bytes, *, cut: bool) -> bytes:
    """Send bytes, and return what comes until the server closes."""
    host, _, port = uri.removeprefix("tcp://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    if cut:
        writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("case", [*HOSTILE, *CUT])
def test_hostile_bytes_close_their_connection_alone(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving() as live, AsyncClient.from_uri(live.uri) as other:
            await other.write_event(START.event())
            answer = await closed_after(live.uri, (HOSTILE | CUT)[case], cut=case in CUT)
            assert json.loads(answer.split(b"\n")[0])["type"] == "error"
            for each in UTTERANCE[1:]:
                await other.write_event(each.event())
            assert (await answers(other, 1))[0].data["text"] == "left right"

    asyncio.run(scene())
    assert len(caplog.records) == 1, caplog.messages
    assert caplog.records[0].exc_info is None
    assert "\n" not in caplog.messages[0]


def test_no_more_is_read_than_may_be_sent() -> None:
    """The server takes no megabytes that it will refuse, and keeps none."""

    async def scene() -> None:
        async with serving(message_kb=1) as live:
            await closed_after(
                live.uri, header(type="x", payload_length=1000) + bytes(1000), cut=True
            )
            refused(
                await ask(live.uri, START, AudioChunk(**FORMAT, audio=bytes(1002))),
                "event_too_large",
                "payload_length: more than 1000 bytes",
            )

    asyncio.run(scene())


def test_memory_is_shared_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with serving() as live, AsyncClient.from_uri(live.uri) as first:
            # Enough for what the first one sends, and for the samples that become of it.
            monkeypatch.setattr(live.endpoint.service.store, "_total", 4000 + 4 * RATE // 4)
            await first.write_event(START.event())
            await first.write_event(chunk().event())
            await first.write_event(Ping().event())
            assert (await answers(first, 1))[0].type == "pong"
            assert live.endpoint.service.store.held == len(chunk().audio) == 4000
            too_much = chunk(0.6)
            refused(await ask(live.uri, START, too_much), "busy", "memory for uploads is full")
            await first.write_event(STOP.event())
            assert (await answers(first, 1))[0].data["text"] == "left right"

    asyncio.run(scene())


def test_who_is_silent_or_stalls_is_cut_off() -> None:
    async def scene() -> None:
        async with serving(idle_seconds=0.05) as live:
            for said in ((), (START,), (START, chunk())):
                refused(await ask(live.uri, *said), "timeout", "silent for too long")
            answer = await closed_after(live.uri, b'{"type"', cut=False)
            assert b"timeout" in answer

    asyncio.run(scene())


def test_pings_do_not_keep_a_place_for_ever() -> None:
    async def scene() -> None:
        limits = {"stream_seconds": 0.1, "answer_seconds": 0.2, "idle_seconds": 5.0}
        async with serving(**limits) as live, AsyncClient.from_uri(live.uri) as client:
            async with asyncio.timeout(20):
                while True:
                    await client.write_event(Ping().event())
                    event = await client.read_event()
                    if event and event.type == "error":
                        break
                    await asyncio.sleep(0.05)
            assert Error.from_event(event).code == "timeout"
            assert "open for too long" in Error.from_event(event).text

    asyncio.run(scene())


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechseq.server.events.CLOSE_SECONDS", 0.05)

    async def scene() -> None:
        async with serving(idle_seconds=0.1) as live:
            host, _, port = live.uri.removeprefix("tcp://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1)
            line = header(type="describe")
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(20):
                    while True:
                        writer.write(line * 1000)
                        await writer.drain()
            writer.close()
            del reader

    asyncio.run(scene())


def test_there_are_so_many_utterances_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving(streams=1) as live, AsyncClient.from_uri(live.uri) as first:
            for each in (START, Ping()):
                await first.write_event(each.event())
            assert (await answers(first, 1))[0].type == "pong"
            # Who sends much before it reads has the answer, too.
            for said in ((START,), (START, *[chunk()] * 40)):
                refused(await ask(live.uri, *said), "busy", "too many requests at once")
            for each in UTTERANCE[1:]:
                await first.write_event(each.event())
            assert (await answers(first, 1))[0].type == "transcript"

    asyncio.run(scene())
    assert len(caplog.records) == 2


def test_many_events_at_once_leave_others_their_turn() -> None:
    async def scene() -> None:
        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turns = 0
        reader = asyncio.StreamReader(LINE_BYTES)
        reader.feed_data(b'{"type": "x"}\n' * 500)
        line = Line(reader, cast(asyncio.StreamWriter, None), Limits())
        beside = asyncio.create_task(others())
        for _ in range(500):
            await line.read()
        beside.cancel()
        assert turns >= 500

    asyncio.run(scene())


def test_those_who_say_nothing_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving(streams=1) as live, AsyncExitStack() as idle:
            for _ in range(CONNECTIONS - 1):
                await idle.enter_async_context(AsyncClient.from_uri(live.uri))
            assert await texts(live.uri, *UTTERANCE) == ["left right"]
            last = await idle.enter_async_context(AsyncClient.from_uri(live.uri))
            await last.write_event(Ping().event())
            assert (await answers(last, 1))[0].type == "pong"
            refused(await ask(live.uri), "busy", "too many requests at once")

    asyncio.run(scene())
    assert len(caplog.records) == 1


def test_who_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving() as live:
            for said in ((), (Describe(),), (START,), (START, chunk()), UTTERANCE):
                assert await ask(live.uri, *said, most=0) == []
            assert await texts(live.uri, *UTTERANCE) == ["left right"]

    asyncio.run(scene())
    assert not caplog.records


def test_a_recogniser_that_fails_is_told_of_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: np.ndarray) -> None:
        raise ModelError("/srv/secret/model.onnx: cannot be run")

    async def scene() -> None:
        async with serving(recogniser(saying(0, then=fail))) as live:
            heard = await ask(live.uri, *UTTERANCE)
            refused(heard, "internal")
            assert "secret" not in str(heard)

    asyncio.run(scene())
    assert len(caplog.records) == 1
    assert "secret" in caplog.text


def test_what_runs_is_finished_and_what_is_idle_is_closed() -> None:
    held = Held()

    async def scene() -> None:
        async with (
            serving(held.recogniser) as live,
            AsyncClient.from_uri(live.uri) as idle,
            AsyncClient.from_uri(live.uri) as speaking,
            AsyncClient.from_uri(live.uri) as waiting,
        ):
            await idle.write_event(Ping().event())
            await answers(idle, 1)
            await speaking.write_event(START.event())
            await speaking.write_event(Ping().event())
            await answers(speaking, 1)
            for each in UTTERANCE:
                await waiting.write_event(each.event())
            assert await asyncio.to_thread(held.begun.wait, 20)
            live.stop.set()
            assert await answers(idle, 99) == []
            with pytest.raises(ConnectionError):
                await ask(live.uri)
            held.go.set()
            for each in UTTERANCE[1:]:
                await speaking.write_event(each.event())
            for client in (speaking, waiting):
                assert [event.data for event in await answers(client, 99)] == [
                    {"text": "left", "language": "en"}
                ]

    asyncio.run(scene())


def test_what_does_not_finish_in_time_is_cut_off() -> None:
    async def scene() -> None:
        async with serving(grace_seconds=0.05) as live, AsyncClient.from_uri(live.uri) as client:
            await client.write_event(START.event())
            await client.write_event(Ping().event())
            await answers(client, 1)
            live.stop.set()
            assert await answers(client, 99) == []

    asyncio.run(scene())


def test_only_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with listening_at(path):
        with (
            pytest.raises(SpeechseqError, match=r"in use.*choose another --uri"),
            listening_at(path),
        ):
            pass
        assert path.is_socket()
    assert not path.exists()
    with listening_at(path), socket.socket(socket.AF_UNIX) as successor:
        path.unlink()
        successor.bind(str(path))
    assert path.is_socket(), "a successor's socket stays"
    path.unlink()
    path.write_text("mine")
    for place in (path, tmp_path / "no" / "folder", tmp_path / ("long" * 50)):
        with pytest.raises(SpeechseqError, match="cannot be listened at"), listening_at(place):
            pass
    assert path.read_text() == "mine"


# ---- the command ----


@pytest.fixture
def refuses(fails: Fails) -> Fails:
    """As `fails`, of this command."""
    return lambda code, *words: fails(code, "wyoming", *words)


def test_others_are_let_in_only_when_that_is_said(refuses: Fails) -> None:
    for host in ("0.0.0.0", "[::]", "192.0.2.1", "example.com"):  # noqa: S104
        assert "no password; say --open" in refuses(2, "--uri", f"tcp://{host}:10300")
    command._check_host(command._address("tcp://0.0.0.0:1"), is_open=True)
    for uri in ("tcp://127.0.0.1:0", "tcp://[::1]:1", "tcp://localhost:1", "unix:///s", "stdio://"):
        command._check_host(command._address(uri), is_open=False)


@pytest.mark.parametrize(
    "uri",
    ["", "tcp://", "tcp://h", "tcp://h:port", "tcp://h:70000", "tcp://:1", "unix://", "unix://a/b",
     "http://h:1", "10300", "tcp://[::1:1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(refuses: Fails, uri: str) -> None:
    assert "not understood; give tcp://HOST:PORT" in refuses(2, "--uri", uri)


def test_what_is_wrong_is_one_line(refuses: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--streams: 0; more than 0 goes here" in refuses(2, "--streams", 0)
    assert "no such model" in refuses(1, "-m", "nothing")
    assert "--language e: no language" in refuses(2, "--language", "e")
    assert "given 2 times for 1 models" in refuses(2, "--language", "en", "--language", "ar")
    assert "cannot be listened at" in refuses(1, "--uri", "unix:///no/such/folder/s")
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert "no pipes there" in refuses(1, "--uri", "stdio://")


@pytest.mark.parametrize("package", command.PACKAGES)
def test_a_missing_package_is_one_line(
    refuses: Fails, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(
        "speechseq.cli.terminal.find_spec", lambda name: None if name == package else "there"
    )
    assert refuses(1) == (
        f"speechseq: wyoming: {package} is not installed; pip install '.[wyoming]' in the clone\n"
    )


def test_limits_are_those_of_the_server() -> None:
    assert set(command.LIMITS) <= set(Limits.__dataclass_fields__)


def fresh(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "speechseq", "wyoming", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_what_runs_finish(number: signal.Signals, code: int) -> None:
    async def scene(uri: str) -> None:
        start, *rest = in_chunks(SAMPLE)
        async with AsyncClient.from_uri(uri) as client:
            for each in (Describe(), Transcribe(name="commands-ar", language="en"), start, Ping()):
                await client.write_event(each.event())
            info, pong = await answers(client, 2)
            assert pong.type == "pong"
            models = Info.from_event(info).asr[0].models
            assert [model.languages for model in models] == [["en"], ["ar"]]
            assert "Arabic Speech Commands" in models[1].attribution.name
            server.send_signal(number)
            for each in rest:
                await client.write_event(each.event())
            (event,) = await answers(client, 99)
            assert event.data["language"] == "ar"

    models = ("-m", "digits", "-m", "commands-ar", "--language", "en", "--language", "ar")
    with fresh("--uri", "tcp://127.0.0.1:0", *models) as server:
        assert server.stderr
        line = server.stderr.readline().decode()
        assert line.startswith("serving digits, commands-ar at tcp://127.0.0.1:")
        asyncio.run(scene(line.split()[-1]))
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out) == (code, b"")
    assert err.decode() == ("speechseq: interrupted\n" if code else "")


def test_a_program_may_start_its_own() -> None:
    with fresh("--uri", "stdio://") as server:
        for each in (Describe(), *in_chunks(SAMPLE)):
            write_event(each.event(), cast(BinaryIO, server.stdin))
        info, transcript = (read_event(cast(BinaryIO, server.stdout)) for _ in range(2))
        assert info and info.type == "info"
        assert transcript and transcript.data["text"] == "seven zero eight"
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, b"", b"")
