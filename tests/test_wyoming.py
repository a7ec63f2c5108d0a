"""The Wyoming endpoint, asked by the package's own client, to its end."""

from __future__ import annotations

import asyncio
import socket
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from connected import (
    CARD,
    START,
    STOP,
    UTTERANCE,
    Said,
    answers,
    ask,
    chunk,
    in_chunks,
    refused,
    serving,
    texts,
)
from served import RATE, SAMPLE, Held, saying
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from speechseq.audio import read_audio
from speechseq.errors import SpeechseqError
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser, load
from speechseq.server.wyoming import Sound, listening_at
from speechseq.tokens import SILENCE, UNKNOWN, Vocabulary

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


def test_chunks_may_end_within_a_sample() -> None:
    digits = load("digits")
    with wave.open(str(SAMPLE), "rb") as file:
        pcm = file.readframes(file.getnframes())
    sound = {"rate": 16000, "width": 2, "channels": 1}
    pieces = [AudioChunk(**sound, audio=pcm[at : at + 333]) for at in range(0, len(pcm), 333)]

    async def scene() -> None:
        async with serving(digits) as live:
            said = (AudioStart(**sound), *pieces, STOP)
            assert await texts(live.uri, *said) == ["seven zero eight"]

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


# ---- how it ends ----


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
