"""The server: its answers, its counters, and who may ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from served import PATH, RIGHT, post, recogniser, refused, saying, service_of, serving
from starlette.testclient import TestClient, WebSocketDenialResponse

from speechseq.errors import ModelError
from speechseq.server.answers import FORMATS

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
    "srt": "1\n00:00:00,010 --> 00:00:01,010\nleft right\n",
    "vtt": "WEBVTT\n\n00:00:00.010 --> 00:00:01.010\nleft right\n",
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
    assert content["language"] == "", "OpenAI's client has no null here"


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
