"""Streams over a WebSocket: texts as they come, and what is refused."""

from __future__ import annotations

import gc
import json
import re
import threading
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from served import RATE, SAMPLE, recogniser, refused, saying, service_of, serving
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from test_server import WORD_TIMES

from speechseq.errors import ModelError
from speechseq.server import limits, streams
from speechseq.server.sound import read_pcm

START = {"type": "start", "rate": RATE}
FINISH = {"type": "finish"}
FINAL = {
    "type": "final", "text": "left right", "words": WORD_TIMES, "confidence": 0.9, "duration": 0.5
}  # fmt: skip
PCM = np.zeros(RATE // 2, "<i2").tobytes()


def stream_of(client: TestClient, *messages: Any) -> tuple[list[dict[str, Any]], int]:
    """Say all this, and return what is answered until the server closes, and its closing code."""
    heard = []
    with client.websocket_connect("/v1/stream") as connection:
        for message in messages:
            if isinstance(message, bytes):
                connection.send_bytes(message)
            else:
                connection.send_text(message if isinstance(message, str) else json.dumps(message))
        while True:
            try:
                heard.append(connection.receive_json())
            except WebSocketDisconnect as closed:
                return heard, closed.code


def test_a_stream_is_recognised_when_it_ends(client: TestClient) -> None:
    half = len(PCM) // 2
    heard, code = stream_of(client, START, PCM[:half], PCM[half:], FINISH)
    assert heard == [{"type": "ready", "rate": RATE}, FINAL]
    assert code == 1000
    heard, _ = stream_of(client, {**START, "model": "b", "rate": 16000}, PCM, PCM, FINISH)
    assert (heard[-1]["text"], heard[-1]["duration"]) == ("right", 0.5)


def test_a_stream_without_samples_is_an_empty_text(client: TestClient) -> None:
    heard, code = stream_of(client, START, FINISH)
    assert (heard[-1]["type"], heard[-1]["text"], heard[-1]["duration"]) == ("final", "", 0.0)
    assert code == 1000


def heard_by(client: TestClient) -> float:
    """The seconds of audio that the server has counted."""
    found = re.search(r"^speechseq_audio_seconds_total (.*)$", client.get("/metrics").text, re.M)
    assert found
    return float(found[1])


def test_interim_texts_come_once_a_second(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "INTERIM_SECONDS", 3600.0)
    before = heard_by(client)
    with client.websocket_connect("/v1/stream") as connection:
        connection.send_json({**START, "interim": True})
        assert connection.receive_json()["type"] == "ready"
        connection.send_bytes(PCM)
        assert connection.receive_json() == {**FINAL, "type": "interim"}
        for _ in range(3):
            connection.send_bytes(PCM)
        connection.send_json(FINISH)
        assert connection.receive_json() == {**FINAL, "duration": 2.0}
    monkeypatch.setattr(streams, "INTERIM_SECONDS", 0.0)
    with client.websocket_connect("/v1/stream") as connection:
        connection.send_json({**START, "interim": True})
        connection.receive_json()
        for count in (1, 2):
            connection.send_bytes(PCM)
            assert connection.receive_json()["duration"] == count / 2
    # What is only for now is not counted.
    assert heard_by(client) == before + 2


def test_streams_are_held_in_the_memory_for_all() -> None:
    with serving(total_mb=0.03, body_mb=0.02, audio_seconds=0.6, stream_seconds=0.18) as client:
        store = service_of(client).store
        with store.lease() as take:
            take(29_000)
            heard, code = stream_of(client, START, PCM[:2000])
            assert (heard[-1]["error"]["code"], code) == ("busy", 1013)
        assert stream_of(client, START, PCM[:2000], FINISH)[0][-1]["text"] == FINAL["text"]
        assert store.held == 0


def test_an_interim_text_that_fails_is_no_noise(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "INTERIM_SECONDS", 0.0)
    slow = recogniser(saying(1, then=lambda _: time.sleep(0.2)))
    with serving(slow, answer_seconds=0.01) as client:
        heard, _ = stream_of(client, {**START, "interim": True}, *[PCM] * 4, FINISH)
    gc.collect()
    assert heard[-1]["error"]["code"] == "busy"
    assert capfd.readouterr().err == ""


def test_an_interim_text_that_is_late_is_left_out() -> None:
    begun, final, go = threading.Event(), threading.Event(), threading.Event()

    def hold(_: np.ndarray) -> None:
        (final if begun.is_set() else begun).set()
        assert go.wait(9)

    with (
        serving(recogniser(saying(1, then=hold))) as client,
        client.websocket_connect("/v1/stream") as connection,
    ):
        connection.send_json({**START, "interim": True})
        connection.send_bytes(PCM)
        assert begun.wait(9)
        connection.send_json(FINISH)
        assert final.wait(9)
        go.set()
        assert [connection.receive_json()["type"] for _ in range(2)] == ["ready", "final"]


BAD_STREAMS: dict[str, tuple[list[Any], int, str]] = {
    "samples first": ([PCM], 1008, "invalid_message"),
    "no JSON": (["{"], 1008, "invalid_message"),
    "deep JSON": (["[" * 100_000], 1008, "invalid_message"),
    "a list": (["[]"], 1008, "invalid_message"),
    "an empty message": ([""], 1008, "invalid_message"),
    "another type": ([{"type": "begin", "rate": RATE}], 1008, "invalid_message"),
    "no rate": ([{"type": "start"}], 1008, "invalid_message"),
    "a rate of 0": ([{"type": "start", "rate": 0}], 1008, "invalid_message"),
    "a rate too high": ([{"type": "start", "rate": 10**9}], 1008, "invalid_message"),
    "a rate in words": ([{"type": "start", "rate": "8000"}], 1008, "invalid_message"),
    "a rate of true": ([{"type": "start", "rate": True}], 1008, "invalid_message"),
    "a model of lists": ([{**START, "model": [[]]}], 1008, "invalid_message"),
    "a model of nothing": ([{**START, "model": []}], 1008, "invalid_message"),
    "half a letter": ([json.dumps({**START, "model": chr(0xD800)})], 1008, "invalid_message"),
    "another model": ([{**START, "model": "c"}], 1008, "model_not_found"),
    "half a sample": ([START, b"\0\0\0"], 1008, "invalid_message"),
    "started twice": ([START, START], 1008, "invalid_message"),
    "too long": ([START, PCM, PCM, PCM], 1009, "audio_too_long"),
    "too large": ([START, bytes(200_000)], 1009, "message_too_large"),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_a_wrong_stream_is_told_and_closed(case: str) -> None:
    messages, code, why = BAD_STREAMS[case]
    with serving(message_kb=150, stream_seconds=1.2) as client:
        heard, closed = stream_of(client, *messages)
        assert (heard[-1]["type"], heard[-1]["error"]["code"], closed) == ("error", why, code)
        assert service_of(client).streams.inside == 0
        assert stream_of(client, START, PCM, FINISH)[0][-1] == FINAL


def test_a_silent_stream_is_cut_off() -> None:
    with serving(idle_seconds=0.05) as client:
        heard, code = stream_of(client)
        assert ("silent for too long" in heard[-1]["error"]["message"], code) == (True, 1008)
        assert service_of(client).streams.inside == 0


def test_a_stream_cannot_be_drawn_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOWEST", 0.0)
    with serving(answer_seconds=0.05) as client:
        heard, code = stream_of(client, START)
        assert ("open for too long" in heard[-1]["error"]["message"], code) == (True, 1008)


def test_there_are_so_many_streams_at_once() -> None:
    with serving(streams=1) as client, client.websocket_connect("/v1/stream") as first:
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("/v1/stream"),
        ):
            pass
        refused(denied.value, 429, "busy")
        assert denied.value.headers["retry-after"] == "1"
        first.send_json(START)
        assert first.receive_json()["type"] == "ready"


def test_a_stream_whose_recogniser_fails_is_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: np.ndarray) -> None:
        raise ModelError("/srv/secret/model.onnx: cannot be run")

    with serving(recogniser(saying(0, then=fail))) as client:
        heard, code = stream_of(client, START, PCM, FINISH)
        assert (heard[-1]["error"]["code"], code) == ("internal", 1011)
    assert "secret" not in json.dumps(heard)
    assert "secret" in caplog.text


def test_a_stream_may_be_left_at_any_time(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    for messages in ((), (START,), (START, PCM)):
        with client.websocket_connect("/v1/stream") as connection:
            for message in messages:
                connection.send(
                    {"type": "websocket.receive", "bytes": message}
                    if isinstance(message, bytes)
                    else {"type": "websocket.receive", "text": json.dumps(message)}
                )
    assert service_of(client).streams.inside == 0
    assert not caplog.messages


def test_samples_of_a_stream_are_those_of_a_file() -> None:
    samples, rate = soundfile.read(SAMPLE, dtype="int16")
    pcm = samples.astype("<i2").tobytes()
    np.testing.assert_array_equal(read_pcm(pcm, rate, rate), samples / np.float32(32768))
    halved = read_pcm(pcm, rate, rate // 2)
    assert halved.dtype == np.float32
    assert len(halved) == pytest.approx(len(samples) / 2, abs=1)
    assert read_pcm(b"", rate, rate // 2).shape == (0,)
