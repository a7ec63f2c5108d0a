"""The Wyoming endpoint against clients that are wrong, hostile, silent or too many."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from typing import Any, cast

import numpy as np
import pytest
from connected import (
    FORMAT,
    START,
    STOP,
    UTTERANCE,
    Said,
    answers,
    ask,
    chunk,
    refused,
    serving,
    texts,
)
from served import RATE, recogniser, saying
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe
from wyoming.ping import Ping

from speechseq.errors import ModelError
from speechseq.server.events import LINE_BYTES, Line
from speechseq.server.limits import Limits
from speechseq.server.wyoming import CONNECTIONS

WRONG: dict[str, tuple[tuple[Said, ...], str, str]] = {
    "a chunk first": ((chunk(),), "invalid_event", "audio-chunk: sent before audio-start"),
    "a stop first": ((STOP,), "invalid_event", "audio-stop: sent before audio-start"),
    "started twice": ((START, START), "invalid_event", "audio-start: sent twice"),
    "asked late": ((START, Transcribe()), "invalid_event", "transcribe: sent while audio is"),
    "a second stop": ((*UTTERANCE, STOP), "invalid_event", "audio-stop: sent before"),
    "another rate": ((START, chunk(rate=16000)), "invalid_event", "another format"),
    "half a sample": (
        (START, AudioChunk(**FORMAT, audio=b"123"), STOP),
        "invalid_event",
        "audio-stop: 3 bytes; whole samples",
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
