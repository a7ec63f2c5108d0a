"""The server: its answers, its bounds, its batches, its streams."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from served import CLIP, HERE, LEFT_RIGHT, PATH, RATE, RIGHT, encoded, recogniser, saying, wav
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from speechseq.errors import ModelError, UsageError
from speechseq.recogniser import Recogniser
from speechseq.server import limits, streams
from speechseq.server.answers import FORMATS
from speechseq.server.app import build_app
from speechseq.server.batching import Batcher, Clip, take_batch
from speechseq.server.forms import MAX_PARTS, Form, boundary_of, parse_form
from speechseq.server.gate import Gate, Store
from speechseq.server.limits import Limits, flag
from speechseq.server.refusal import Refusal
from speechseq.server.service import Service
from speechseq.server.sound import MOST_SAMPLES_A_SECOND, read_pcm, read_upload

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "samples" / "seven_zero_eight.wav"


@contextmanager
def serving(
    *recognisers: Recogniser, token: str | None = None, **limits: Any
) -> Iterator[TestClient]:
    """A client of an application, whose models are called a, b, …."""
    named = dict(zip("abc", recognisers or (LEFT_RIGHT,), strict=False))
    app = build_app(named, Limits(**limits), token=token)
    with TestClient(app, raise_server_exceptions=True, headers=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving(LEFT_RIGHT, RIGHT) as made:
        yield made


def service_of(client: TestClient) -> Service:
    app: Any = client.app
    return app.state.service


def post(client: TestClient, file: bytes = CLIP, **fields: Any) -> httpx2.Response:
    return client.post(PATH, files={"file": ("clip.wav", file)}, data=fields)


def refused(response: httpx2.Response, status: int, code: str) -> str:
    """Expect an error in OpenAI's shape, and return its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "\n" not in error["message"]
    assert str(ROOT) not in response.text
    return error["message"]


# ---- transcriptions ----

WORD_TIMES = [
    {"word": "left", "start": 0.01, "end": 0.03, "confidence": 0.9},
    {"word": "right", "start": 0.04, "end": 0.05, "confidence": 0.9},
]
SEGMENT = {
    "id": 0, "start": 0.01, "end": 0.05, "text": "left right", "seek": 0, "temperature": 0.0,
    "avg_logprob": pytest.approx(np.log(0.9), abs=1e-6), "tokens": [], "no_speech_prob": 0.0,
    "compression_ratio": pytest.approx(10 / 18, abs=1e-4),
}  # fmt: skip
VERBOSE = {
    "task": "transcribe", "language": "en", "duration": 0.5, "text": "left right",
    "usage": {"type": "duration", "seconds": 1},
}  # fmt: skip
GOLDEN: dict[str, Any] = {
    "json": {"text": "left right", "usage": {"type": "duration", "seconds": 1}},
    "text": "left right\n",
    "verbose_json": {**VERBOSE, "segments": [SEGMENT]},
    "srt": "1\n00:00:00,010 --> 00:00:00,050\nleft right\n",
    "vtt": "WEBVTT\n\n00:00:00.010 --> 00:00:00.050\nleft right\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(client: TestClient, name: str) -> None:
    response = post(client, response_format=name, language="en")
    assert response.status_code == 200
    is_json = response.headers["content-type"] == "application/json"
    assert (response.json() if is_json else response.text) == GOLDEN[name]


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (["word"], {"words"}),
        (["segment"], {"segments"}),
        (["word", "segment"], {"words", "segments"}),
    ],
)
def test_times_of_words_and_segments(client: TestClient, asked: list[str], there: set[str]) -> None:
    options: Any = {"response_format": "verbose_json", "timestamp_granularities[]": asked}
    content = post(client, **options).json()
    assert content.keys() - VERBOSE.keys() == there
    assert content.get("words", WORD_TIMES) == WORD_TIMES


def test_silence_has_a_text_and_no_segments() -> None:
    with serving(recogniser(saying(0, 0))) as client:
        assert post(client).json()["text"] == ""
        content = post(client, response_format="verbose_json").json()
        assert (content["text"], content["segments"]) == ("", [])
        assert post(client, response_format="vtt").text == "WEBVTT\n"


@pytest.mark.parametrize(
    ("model", "text"),
    [("a", "left right"), ("b", "right"), ("", "left right"), ("whisper-1", "left right")],
)
def test_a_model_is_called_by_name(client: TestClient, model: str, text: str) -> None:
    assert post(client, model=model).json()["text"] == text
    assert post(client).json()["text"] == "left right"


def test_what_is_unknown_is_named(client: TestClient) -> None:
    assert "no 'c' here; choose from a, b" in refused(
        post(client, model="c"), 404, "model_not_found"
    )
    message = refused(post(client, response_format="verbose-json"), 400, "invalid_value")
    assert "did you mean 'verbose_json'" in message
    options: Any = {"timestamp_granularities[]": "letter"}
    granularity = post(client, **options)
    assert "choose from word, segment" in refused(granularity, 400, "invalid_value")
    assert "there are /v1" in refused(client.get("/v1/nothing"), 404, "not_found")
    assert client.get(PATH).headers["allow"] == "POST"
    refused(client.get(PATH), 405, "method_not_allowed")


def test_models_are_listed(client: TestClient) -> None:
    model = {"id": "b", "object": "model", "created": 0, "owned_by": "speechseq"}
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["a", "b"]
    assert client.get("/v1/models/b").json() == model == listed["data"][1]
    refused(client.get("/v1/models/c"), 404, "model_not_found")
    refused(client.get("/v1/models/whisper-1/"), 404, "not_found")


def test_an_error_of_ours_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: np.ndarray) -> None:
        raise ModelError("/srv/secret/model.onnx: cannot be run\nagain")

    with serving(recogniser(saying(0, then=fail)), RIGHT) as client:
        response = post(client)
        assert "operator" in refused(response, 500, "internal")
        assert "secret" not in response.text
        assert caplog.messages == [
            f"{PATH}: ModelError: /srv/secret/model.onnx: cannot be run again"
        ]
        assert not caplog.records[0].exc_info, "a traceback is for those who debug"
        assert post(client, model="b").json()["text"] == "right"


# ---- health and counters ----


def test_health_is_that_of_the_batches(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    with serving() as other:
        batching = service_of(other)._batching
        assert batching
        assert other.portal
        other.portal.call(batching.cancel)
        assert other.get("/healthz").status_code == 503


def test_what_happens_is_counted() -> None:
    with serving() as client:
        assert post(client).status_code == 200
        post(client, b"no audio")
        client.get("/nothing/of/the/kind")
        page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for line in (
        f'speechseq_requests_total{{path="{PATH}",status="200"}} 1.0',
        f'speechseq_requests_total{{path="{PATH}",status="400"}} 1.0',
        'speechseq_requests_total{path="other",status="404"} 1.0',
        "speechseq_audio_seconds_total 0.5",
        "speechseq_transcription_seconds_count 1.0",
        'speechseq_batch_size_bucket{le="1.0"} 1.0',
        "speechseq_queue_length 0.0",
        "speechseq_uploads 0.0",
        "speechseq_held_bytes 0.0",
    ):
        assert f"\n{line}\n" in page.text


# ---- who may ask ----


def test_a_token_opens_the_door() -> None:
    with serving(token="word") as client:  # noqa: S106
        for given in ("", "Bearer", "Bearer wor", "Bearer wordy", "Basic word", "Bearer w\xf6rd"):
            headers = {b"Authorization": given.encode("latin-1")}
            response = client.post(PATH, headers=headers)
            refused(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
        refused(client.get("/metrics"), 401, "invalid_api_key")
        assert client.get("/healthz").status_code == 200
        for given in ("Bearer word", "bearer  word"):
            assert client.get("/v1/models", headers={"Authorization": given}).status_code == 200
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("/v1/stream"),
        ):
            pass
        refused(denied.value, 401, "invalid_api_key")


def test_without_a_token_other_sites_pages_are_refused(client: TestClient) -> None:
    for origin in ("https://example.com", "null", "http://localhost.example.com", "http://[", ""):
        response = client.get("/v1/models", headers={"Origin": origin})
        refused(response, 403, "foreign_origin")
    assert client.get("/v1/models", headers={"Origin": "http://localhost"}).status_code == 200
    with serving(token="word") as other:  # noqa: S106
        headers = {"Origin": "https://example.com", "Authorization": "Bearer word"}
        assert other.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("page.localhost", True),
        ("127.0.0.1:8000", True),
        ("127.9.9.9", True),
        ("[::1]:8000", True),
        ("evil.example:8000", False),
        ("localhost.example", False),
        ("192.168.1.10", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_without_a_token_only_this_machines_own_names_are_answered(
    host: str, answered: bool
) -> None:
    headers = {"Host": host, "Origin": f"http://{host}", "Authorization": "Bearer word"}
    for token in (None, "word"):
        with serving(token=token) as client:
            response = client.get("/v1/models", headers=headers)
            if answered or token:
                assert response.status_code == 200
            else:
                refused(response, 403, "foreign_host")


# ---- bounds ----


def test_a_body_may_be_so_large_and_no_larger() -> None:
    with serving(body_mb=0.02) as client:
        assert len(CLIP) < 20000
        assert post(client).status_code == 200
        assert "0.02 MB" in refused(post(client, wav(2)), 413, "body_too_large")
        chunks = (bytes(1000) for _ in range(30))
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        refused(client.post(PATH, content=chunks, headers=headers), 413, "body_too_large")
        assert service_of(client).store.held == 0


def test_all_bodies_may_be_so_large_together() -> None:
    with serving(total_mb=0.02, body_mb=0.02, audio_seconds=0.6) as client:
        service = service_of(client)
        assert post(client).status_code == 200
        with service.store.lease() as take:
            take(6_000)  # the body of half a second still fits, its samples do not
            response = post(client)
            refused(response, 503, "busy")
            assert response.headers["retry-after"] == "1"
            take(8_000)  # nor does the body
            refused(post(client), 503, "busy")
        assert post(client).status_code == 200
        assert service.store.held == 0


@pytest.mark.parametrize("limits", [{"body_mb": 0.9}, {"audio_seconds": 30.0}])
def test_the_largest_upload_must_fit(limits: dict[str, Any]) -> None:
    small: dict[str, Any] = {"total_mb": 0.5, "body_mb": 0.4, "audio_seconds": 10.0}
    build_app({"a": LEFT_RIGHT}, Limits(**small))
    with pytest.raises(UsageError, match=r"--total-mb 0.5: one upload may take 0.9"):
        build_app({"a": LEFT_RIGHT}, Limits(**small | limits))


def test_audio_may_be_so_long_and_no_longer() -> None:
    with serving(audio_seconds=2) as client:
        assert post(client, wav(2)).status_code == 200
        assert "2 s at most" in refused(post(client, wav(2.01)), 413, "audio_too_long")


def test_a_small_file_of_many_dense_channels_is_refused_by_its_header() -> None:
    dense = wav(2.0, rate=MOST_SAMPLES_A_SECOND, channels=2)
    assert len(read_upload(dense, RATE, 4.0)) == 2 * RATE
    with pytest.raises(Refusal, match="2 channels at 192000 Hz") as refusal:
        read_upload(dense, RATE, 3.9)
    assert refusal.value.status == 413


def test_audio_is_bounded_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a header gives no length."""
    monkeypatch.setattr("speechseq.server.sound._check_header", lambda *_: None)
    with pytest.raises(Refusal, match="longer than 1 s at most"):
        read_upload(wav(1.5), RATE, 1.0)


@pytest.mark.parametrize("limit", [limit.name for limit in fields(Limits)])
def test_every_bound_is_more_than_nothing(limit: str) -> None:
    for value in (0, -1, float("nan"), float("inf")):
        options: Any = {limit: value}
        with pytest.raises(UsageError, match=f"--{flag(limit)}: {value:g}; more than 0 goes here"):
            Limits(**options)


def test_the_gate_lets_in_one_after_the_other() -> None:
    async def scene() -> None:
        gate, order = Gate(2, 2, 9.0), []
        leave = asyncio.Event()

        async def visit(number: int) -> None:
            async with gate.place():
                order.append(number)
                await leave.wait()

        visits = [asyncio.create_task(visit(number)) for number in range(4)]
        await asyncio.sleep(0)
        assert (gate.inside, gate.waiting, order) == (2, 2, [0, 1])
        with pytest.raises(Refusal, match="too many") as refusal:
            await visit(4)
        assert refusal.value.status == 429
        leave.set()
        await asyncio.gather(*visits)
        assert (gate.inside, gate.waiting, order) == (0, 0, [0, 1, 2, 3])

    asyncio.run(scene())


def test_the_gate_lets_nobody_wait_for_ever() -> None:
    async def scene() -> None:
        gate = Gate(1, 1, 0.01)
        async with gate.place():
            with pytest.raises(Refusal, match="no place came free") as refusal:
                await gate.place().__aenter__()
        assert refusal.value.status == 503
        assert gate.waiting == 0
        async with gate.place():
            assert gate.inside == 1

    asyncio.run(scene())


def test_a_store_is_free_again_after_a_refusal() -> None:
    store = Store(10)
    with store.lease() as take, pytest.raises(Refusal), store.lease() as other:
        take(6)
        other(4)
        other(1)
    assert store.held == 0


# ---- batches ----


def clips_of(*seconds: float, of: Recogniser = LEFT_RIGHT) -> list[Clip]:
    future: Any = None
    return [Clip(of, np.zeros(round(each * RATE), np.float32), future) for each in seconds]


def test_the_oldest_clip_goes_first_with_those_most_like_it() -> None:
    waiting = clips_of(1.0, 3.0, 1.3, 0.9, 0.5, 1.05)
    taken = [len(clip.samples) / RATE for clip in take_batch(waiting, 3)]
    assert taken == [1.0, 1.05, 0.9]
    assert [len(clip.samples) / RATE for clip in waiting] == [3.0, 1.3, 0.5]


def test_clips_of_very_different_lengths_go_apart() -> None:
    waiting = clips_of(1.0, 1.4)
    assert len(take_batch(waiting, 9)) == len(take_batch(waiting, 9)) == 1
    assert take_batch(waiting, 9) == []


def test_a_batch_has_one_model_and_not_too_much_audio() -> None:
    waiting = [*clips_of(1.0), *clips_of(1.0, of=RIGHT), *clips_of(1.0)]
    assert [clip.recogniser for clip in take_batch(waiting, 9)] == [LEFT_RIGHT, LEFT_RIGHT]
    assert [clip.recogniser for clip in waiting] == [RIGHT]
    assert len(take_batch(clips_of(*[3.0] * 20), 20)) == 2


@contextmanager
def batching(**limits: Any) -> Iterator[tuple[Batcher, list[int]]]:
    sizes: list[int] = []
    made = Batcher(Limits(**limits), coming=lambda: 0, on_batch=sizes.append)
    try:
        yield made, sizes
    finally:
        made.close()


def test_what_waits_is_recognised_together() -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(_: np.ndarray) -> None:
        begun.set()
        assert go.wait(9)

    async def scene(batcher: Batcher) -> list[str]:
        slow = recogniser(saying(1, then=hold))
        running = asyncio.create_task(batcher.run())
        clip = np.zeros(RATE, np.float32)
        tasks = [asyncio.create_task(batcher.recognise(slow, clip))]
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, 9)
        tasks += [asyncio.create_task(batcher.recognise(slow, clip)) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(batcher.waiting) == 5, "the loop goes on while the network runs"
        go.set()
        found = await asyncio.gather(*tasks)
        running.cancel()
        return [each.text for each in found]

    with batching(batch=4) as (batcher, sizes):
        assert asyncio.run(scene(batcher)) == ["left"] * 6
    assert sizes == [1, 4, 1]


def test_a_clip_waits_a_moment_for_those_on_their_way() -> None:
    async def scene(coming: int) -> list[int]:
        sizes: list[int] = []
        batcher = Batcher(Limits(window_ms=50), coming=lambda: coming, on_batch=sizes.append)
        running = asyncio.create_task(batcher.run())
        clip = np.zeros(RATE, np.float32)
        first = asyncio.create_task(batcher.recognise(LEFT_RIGHT, clip))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(first, batcher.recognise(LEFT_RIGHT, clip))
        running.cancel()
        batcher.close()
        return sizes

    assert asyncio.run(scene(coming=2)) == [2]
    assert asyncio.run(scene(coming=1)) == [1, 1]


def test_one_bad_clip_does_not_spoil_a_batch() -> None:
    def fail_on_ones(samples: np.ndarray) -> None:
        if samples.any():
            raise ValueError("ones")

    async def scene(batcher: Batcher) -> list[Any]:
        picky = recogniser(saying(1, then=fail_on_ones))
        clips = [np.full(RATE, value, np.float32) for value in (0, 1, 0)]
        tasks = [asyncio.create_task(batcher.recognise(picky, clip)) for clip in clips]
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*tasks, return_exceptions=True)
        running.cancel()
        return found

    with batching() as (batcher, sizes):
        good, bad, other = asyncio.run(scene(batcher))
    assert (good.text, other.text, sizes) == ("left", "left", [3])
    assert isinstance(bad, ValueError)


def test_a_clip_nobody_waits_for_is_not_recognised() -> None:
    async def scene(batcher: Batcher) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.recognise(LEFT_RIGHT, np.zeros(RATE, np.float32))
        assert batcher.waiting == []

    with batching() as (batcher, _):
        asyncio.run(scene(batcher))


def test_an_answer_is_not_waited_for_too_long() -> None:
    go = threading.Event()
    with serving(recogniser(saying(1, then=lambda _: go.wait(9))), answer_seconds=0.05) as client:
        refused(post(client), 503, "busy")
        go.set()
        assert service_of(client).uploads.inside == 0


def test_long_audio_is_heard_in_windows(client: TestClient) -> None:
    heard: list[tuple[int, ...]] = []
    long = recogniser(saying(*[0] * 7000, then=lambda samples: heard.append(samples.shape)))
    with serving(long) as other:
        assert post(other, wav(70)).json() == {
            "text": "",
            "usage": {"type": "duration", "seconds": 70},
        }
    assert max(size for _, size in heard) < 70 * RATE


# ---- forms ----


NAMES = st.text(st.characters(categories=["L", "N", "Pd", "Ps", "Pe"]), max_size=9)


@given(st.binary(), st.dictionaries(NAMES, st.text(), max_size=4))
def test_a_form_is_read_as_it_was_written(file: bytes, texts: dict[str, str]) -> None:
    texts.pop("file", None)
    got, form = parse_form(*encoded([("file", ("a", file))], texts))
    assert got == file
    assert form.texts == {name: [text] for name, text in texts.items()}


BODY, BOUNDARY = encoded([("file", ("a", b"\r\n--xyz--\r\n"))], {"model": "m"})


@given(st.integers(0, len(BODY) - 5), st.binary(max_size=3))
def test_a_damaged_form_is_refused_or_read(cut: int, instead: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_form(BODY[:cut], BOUNDARY)
    assert refusal.value.status == 400
    try:
        parse_form(BODY[:cut] + instead + BODY[cut + len(instead) :], BOUNDARY)
    except Refusal as error:
        assert error.status == 400


def test_a_form_may_have_a_preamble_padding_and_an_epilogue() -> None:
    body = b'before\r\n--b \t\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--after'
    assert parse_form(body, b"b") == (b"x", Form({}))


def test_a_files_name_cannot_pose_as_a_field() -> None:
    trick = '; name=\\"model\\"; name='
    headers = f'Content-Disposition: form-data; filename="{trick}"; name="file"'
    assert parse_form(f"--b\r\n{headers}\r\n\r\n1\r\n--b--".encode(), b"b") == (b"1", Form({}))


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/mixed; boundary=b", "audio/wav"])
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(Refusal, match="send multipart/form-data") as refusal:
        boundary_of(kind)
    assert refusal.value.status == 415


@pytest.mark.parametrize(
    "boundary", ["", "; boundary", "; boundary=", f"; boundary={'b' * 71}", "; boundary=ü"]
)
def test_a_form_without_a_usable_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(Refusal, match="no usable boundary"):
        boundary_of(f"multipart/form-data{boundary}")


@pytest.mark.parametrize(
    "filler", [b" ", b"\r\n", b"\r\n--b", b"\r\n--bx", b"\r\n--b\r\nA: b\r\n\r\n"]
)
def test_no_body_is_walked_through_byte_by_byte(filler: bytes) -> None:
    """By the lines that are run, as a clock would depend on the machine."""
    lines = 0

    def count(*_: object) -> Any:
        nonlocal lines
        lines += 1
        assert lines < 100 * MAX_PARTS
        return count

    body = b"--b\r\nA: b\r\n\r\nx\r\n--b" + filler * (10_000_000 // len(filler))
    before = sys.gettrace()
    sys.settrace(count)
    try:
        with pytest.raises(Refusal):
            parse_form(body, b"b")
    finally:
        sys.settrace(before)
    assert lines > 10


# ---- streams ----

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


def test_interim_texts_come_once_a_second(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "INTERIM_SECONDS", 3600.0)
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
