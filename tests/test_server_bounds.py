"""The server's bounds: sizes, lengths, who waits, and what is recognised together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from served import (
    CLIP,
    LEFT_RIGHT,
    PATH,
    RATE,
    RIGHT,
    Held,
    post,
    recogniser,
    refused,
    saying,
    service_of,
    serving,
    wav,
)
from starlette.testclient import TestClient

from speechseq.errors import UsageError
from speechseq.recogniser import Recogniser
from speechseq.server.app import build_app
from speechseq.server.batching import Batcher, Clip, take_batch
from speechseq.server.gate import Gate, Store
from speechseq.server.limits import Limits, flag
from speechseq.server.refusal import Refusal
from speechseq.server.sound import MOST_SAMPLES_A_SECOND, read_upload

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
    with serving(total_mb=0.02, body_mb=0.02, audio_seconds=0.6, stream_seconds=0.1) as client:
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


@pytest.mark.parametrize(
    ("what", "limits"),
    [
        ("upload", {"body_mb": 0.9}),
        ("upload", {"audio_seconds": 30.0}),
        ("stream", {"stream_seconds": 8.0}),
    ],
)
def test_the_largest_of_all_must_fit(what: str, limits: dict[str, Any]) -> None:
    small: dict[str, Any] = {"total_mb": 0.5, "body_mb": 0.4, "audio_seconds": 10.0}
    small |= {"stream_seconds": 3.0}
    build_app({"a": LEFT_RIGHT}, Limits(**small))
    with pytest.raises(UsageError, match=rf"--total-mb 0.5: one {what} may take [01].\d+; raise"):
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
    held = Held()

    async def scene(batcher: Batcher) -> list[str]:
        slow = held.recogniser
        running = asyncio.create_task(batcher.run())
        clip = np.zeros(RATE, np.float32)
        tasks = [asyncio.create_task(batcher.recognise(slow, clip))]
        await asyncio.get_running_loop().run_in_executor(None, held.begun.wait, 9)
        tasks += [asyncio.create_task(batcher.recognise(slow, clip)) for _ in range(5)]
        await asyncio.sleep(0)
        assert batcher.waiting == 5, "the loop goes on while the network runs"
        held.go.set()
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


def test_a_short_clip_does_not_wait_for_a_long_one() -> None:
    go = threading.Event()

    def hold_long(samples: np.ndarray) -> None:
        assert samples.shape[1] <= RATE or go.wait(9)

    async def scene(batcher: Batcher) -> list[str]:
        slow = recogniser(saying(1, then=hold_long))
        running = asyncio.create_task(batcher.run())
        long = asyncio.create_task(batcher.recognise(slow, np.zeros(9 * RATE, np.float32)))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            short = await batcher.recognise(slow, np.zeros(RATE, np.float32))
        go.set()
        found = [short.text, (await long).text]
        running.cancel()
        return found

    with batching() as (batcher, sizes):
        assert asyncio.run(scene(batcher)) == ["left", "left"]
    assert sizes == [1, 1]


@pytest.mark.parametrize("seconds", [1, 9])
def test_a_clip_nobody_waits_for_is_not_recognised(seconds: int) -> None:
    begun, go, heard = threading.Event(), threading.Event(), []

    def hold(samples: np.ndarray) -> None:
        heard.append(float(samples[0, 0]))
        begun.set()
        assert go.wait(9)

    async def scene(batcher: Batcher) -> None:
        slow = recogniser(saying(1, then=hold))
        running = asyncio.create_task(batcher.run())
        clips = [np.full(seconds * RATE, value, np.float32) for value in (0.1, 0.2)]
        first = asyncio.create_task(batcher.recognise(slow, clips[0]))
        assert await asyncio.to_thread(begun.wait, 9)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.recognise(slow, clips[1])
        go.set()
        await first
        running.cancel()
        assert heard == pytest.approx([0.1])
        assert batcher.waiting == 0

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
