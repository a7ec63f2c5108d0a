"""Uploads that mean no good: each is refused with an error in JSON, and the next one is served."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from served import HERE, PATH, wav
from starlette.testclient import TestClient

from speechseq.recogniser import load
from speechseq.server.app import build_app
from speechseq.server.limits import Limits
from speechseq.server.refusal import Refusal
from speechseq.server.sound import read_upload

ROOT = Path(__file__).parents[1]
SAMPLE = (ROOT / "data" / "samples" / "seven.wav").read_bytes()
KIND = "multipart/form-data; boundary=bound"
SECONDS = 20.0


def part(data: bytes, disposition: str = 'form-data; name="file"; filename="a.wav"') -> bytes:
    return b"--bound\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--bound--\r\n"


def field(name: str, value: bytes) -> bytes:
    return part(value, f'form-data; name="{name}"')


def written(samples: np.ndarray, rate: int = 8000, kind: str = "WAV", **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **how)
    return file.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def wav_header(rate: int = 8000, channels: int = 1, bits: int = 16, size: int = 100) -> bytes:
    """A wav header that may say anything, and 100 bytes of sound."""
    frame = channels * bits // 8 & 0xFFFF
    sound = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 & 0xFFFFFFFF, frame, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + sound + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + chunks + bytes(100)


def flac_claiming(frames: int) -> bytes:
    """A second of silence in flac whose header claims so many frames."""
    data = written(np.zeros(8000, np.int16), kind="FLAC")
    word = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return patched(data, 18, word.to_bytes(8, "big"))


def silence(seconds: float) -> bytes:
    """A few kilobytes that are hours of silence."""
    return written(np.zeros(round(seconds * 8000), np.int16), kind="FLAC")


NAN = written(np.full(8000, np.nan, np.float32), subtype="FLOAT")
INFINITE = written(np.full(8000, np.inf, np.float32), subtype="FLOAT")
OGG = written(np.zeros(8000, np.float32), kind="OGG", subtype="VORBIS")
MP3 = written(np.zeros(8000, np.float32), kind="MP3")
NESTED = part(SAMPLE).replace(b"bound", b"inner") + b"--inner--"

FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"R",
    "RIFF alone": lambda: SAMPLE[:4],
    "a cut header": lambda: SAMPLE[:20],
    "a header alone": lambda: SAMPLE[:44],
    "cut in two": lambda: SAMPLE[: len(SAMPLE) // 2],
    "wrong magic": lambda: b"JUNK" + SAMPLE[4:],
    "zeros": lambda: bytes(100_000),
    "ones": lambda: b"\xff" * 100_000,
    "text": lambda: b"seven" * 1000,
    "a web page": lambda: b"<!DOCTYPE html><script>alert(1)</script>",
    "a zip": lambda: b"PK\x03\x04" + bytes(1000),
    "a gzip": lambda: b"\x1f\x8b\x08" + bytes(1000),
    "a program": lambda: b"\x7fELF" + bytes(1000),
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a playlist": lambda: b"#EXTM3U\nfile:///etc/passwd\n",
    "a path": lambda: b"/etc/passwd",
    "NaN": lambda: NAN,
    "infinite": lambda: INFINITE,
    "no samples": lambda: written(np.zeros(0)),
    "no channels": lambda: wav_header(channels=0),
    "65535 channels": lambda: wav_header(channels=65535),
    "no rate": lambda: wav_header(rate=0),
    "a rate of 1": lambda: wav_header(rate=1),
    "a rate of 4 billion": lambda: wav_header(rate=0xFFFFFFFF),
    "no bits": lambda: wav_header(bits=0),
    "65535 bits": lambda: wav_header(bits=65535),
    "more than is there": lambda: wav_header(size=50_000),
    "2 GB that are not there": lambda: wav_header(size=0x7FFEFFFF),
    "flac of more than is there": lambda: flac_claiming(9000),
    "flac of days": lambda: flac_claiming(8000 * 86400),
    "flac of years": lambda: flac_claiming((1 << 36) - 1),
    "flac cut": lambda: flac_claiming(8000)[:60],
    "flac of an hour of silence": lambda: silence(3600),
    "a little too long": lambda: silence(SECONDS + 1),
    "dense silence": lambda: written(
        np.zeros((8 * 655_350, 8), np.int16), rate=655_350, kind="FLAC"
    ),
    "ogg cut": lambda: OGG[: len(OGG) // 2],
    "ogg's first page": lambda: OGG[:58],
    "ogg damaged": lambda: patched(OGG, 60, b"\xff" * 1000),
    "mp3 cut to its header": lambda: MP3[:10],
    "aiff that is wav": lambda: b"FORM" + SAMPLE[4:],
}
"""Files by what is wrong with them."""

BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "only an end": lambda: b"--bound--\r\n",
    "no end": lambda: part(SAMPLE),
    "cut in its file": lambda: form(part(SAMPLE))[:5000],
    "another boundary": lambda: form(part(SAMPLE)).replace(b"bound", b"other"),
    "no file": lambda: form(field("model", b"digits")),
    "two files": lambda: form(part(SAMPLE), part(SAMPLE)),
    "file under another name": lambda: form(part(SAMPLE, 'form-data; name="audio"; filename="a"')),
    "no name": lambda: form(part(SAMPLE, 'form-data; filename="a.wav"')),
    "no disposition": lambda: b"--bound\r\nX: y\r\n\r\n" + SAMPLE + b"\r\n--bound--",
    "an attachment": lambda: form(part(SAMPLE, 'attachment; name="file"')),
    "a huge name": lambda: form(field("x" * 100_000, b""), part(SAMPLE)),
    "a huge header": lambda: part(SAMPLE, "x" * 1_000_000),
    "a huge field": lambda: form(field("prompt", b"x" * 100_000), part(SAMPLE)),
    "a thousand fields": lambda: form(*[field(f"f{n}", b"") for n in range(1000)], part(SAMPLE)),
    "a thousand boundaries": lambda: b"--bound\r\n" * 1000,
    "a boundary and blanks": lambda: b"--bound" + b" " * 1_000_000,
    "only line ends": lambda: b"\r\n" * 100_000,
    "text that is not UTF-8": lambda: form(field("model", b"\xff\xfe"), part(SAMPLE)),
    "a name that is not UTF-8": lambda: form(part(SAMPLE)).replace(b'"file"', b'"f\xffle"'),
    "a form in the file": lambda: form(part(NESTED)),
    "a form for a file": lambda: form(part(form(part(SAMPLE)))),
    "a path for a model": lambda: form(field("model", b"../../etc/passwd"), part(SAMPLE)),
    "a model's file": lambda: form(field("model", b"models/digits.onnx"), part(SAMPLE)),
    "a model of nulls": lambda: form(field("model", b"\0" * 10), part(SAMPLE)),
    "a long model": lambda: form(field("model", b"m" * 60_000), part(SAMPLE)),
    "an unknown format": lambda: form(field("response_format", b"exe"), part(SAMPLE)),
    "a format of lines": lambda: form(
        field("response_format", b"a\r\nSet-Cookie: b"), part(SAMPLE)
    ),
    "a granularity": lambda: form(field("timestamp_granularities[]", b"\n"), part(SAMPLE)),
    "JSON": lambda: b'{"file": "seven.wav", "model": "digits"}',
}
"""Bodies by what is wrong with them."""

KINDS = {
    "none": "",
    "sound": "audio/wav",
    "JSON": "application/json",
    "a link's form": "application/x-www-form-urlencoded",
    "mixed": "multipart/mixed; boundary=bound",
    "no boundary": "multipart/form-data",
    "an empty boundary": "multipart/form-data; boundary=",
    "a long boundary": f"multipart/form-data; boundary={'b' * 1000}",
    "a quoted half": 'multipart/form-data; boundary="bound',
    "binary": "multipart/form-data; boundary=\xff\xfe",
}
"""Content types by what is wrong with them."""

FINE: dict[str, bytes] = {
    "a path for a name": part(SAMPLE, 'form-data; name="file"; filename="../../../etc/passwd"'),
    "a null in its name": part(SAMPLE, 'form-data; name="file"; filename="a\0.wav"'),
    "a name of quotes": part(SAMPLE, 'form-data; name="file"; filename="\\"; name=\\"x\\".wav"'),
    "no file name": part(SAMPLE, 'form-data; name="file"'),
    "an extended name": part(SAMPLE, "form-data; name=file; filename*=UTF-8''%2e%2e%2fa"),
    "another type": part(SAMPLE, 'form-data; name="file"\r\nContent-Type: text/html'),
}
"""Parts that look odd, and are an honest file."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(
        build_app({"digits": load("digits")}, Limits(audio_seconds=SECONDS)), headers=HERE
    ) as made:
        yield made


def send(client: TestClient, body: bytes, kind: str = KIND) -> tuple[int, str]:
    """The status and text of an answer; every error is one of OpenAI's shape, and without paths."""
    response = client.post(PATH, content=body, headers={b"Content-Type": kind.encode("latin-1")})
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"].isprintable()
        assert 10 < len(error["message"]) < 300
        assert "set-cookie" not in response.headers
    for path in (str(ROOT), "site-packages", "Traceback", "/tmp"):  # noqa: S108
        assert path not in response.text
    return response.status_code, response.text


def is_served(client: TestClient) -> bool:
    return send(client, form(part(SAMPLE)))[1].startswith('{"text":"seven"')


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file(client: TestClient, case: str) -> None:
    status, text = send(client, form(part(FILES[case]())))
    assert status in (400, 413), text
    assert '"param":"file"' in text
    assert is_served(client)


@pytest.mark.parametrize("case", BODIES)
def test_a_hostile_body(client: TestClient, case: str) -> None:
    status, text = send(client, BODIES[case]())
    assert status in (400, 404), text
    assert is_served(client)


@pytest.mark.parametrize("case", KINDS)
def test_a_hostile_type(client: TestClient, case: str) -> None:
    status, text = send(client, form(part(SAMPLE)), KINDS[case])
    assert status in (400, 415), text
    assert is_served(client)


@pytest.mark.parametrize("case", FINE)
def test_an_odd_but_honest_file(client: TestClient, case: str) -> None:
    status, text = send(client, form(FINE[case]))
    assert (status, text[:15]) == (200, '{"text":"seven"'), text


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(FILES) + len(BODIES) + len(KINDS) >= 60


@given(st.integers(0, 100), st.binary(min_size=1, max_size=40))
def test_any_damage_to_a_header_is_an_answer(client: TestClient, at: int, instead: bytes) -> None:
    status, text = send(client, form(part(patched(SAMPLE, at, instead))))
    assert status in (200, 400, 413), text


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer(client: TestClient, data: bytes) -> None:
    assert send(client, data)[0] == 400
    assert send(client, form(part(data)))[0] == 400


@pytest.mark.parametrize("seconds", [1 / 8000, 2 / 8000, 0.01])
def test_a_sample_or_two_are_an_answer(client: TestClient, seconds: float) -> None:
    status, text = send(client, form(part(wav(seconds))))
    assert (status, text[:9]) == (200, '{"text":"')


CODINGS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610")


def test_only_what_may_hold_much_is_opened_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[io.BytesIO] = []

    def info(file: io.BytesIO) -> Any:
        opened.append(file)
        return found(file)

    found = soundfile.info
    monkeypatch.setattr(soundfile, "info", info)
    sound = np.zeros(8000, np.float32)
    twice = {coding: written(sound, subtype=coding) for coding in CODINGS} | {
        kind: written(sound, kind=kind) for kind in ("FLAC", "AIFF", "MP3")
    }
    for name, data in twice.items():
        read_upload(data, 8000, 1.1)
        plain = name.startswith("PCM")
        assert (name, len(opened)) == (name, 0 if plain else 1)
        opened.clear()
    large = written(np.zeros(100_000, np.int16))
    with pytest.raises(Refusal, match="longer than 1 s"):
        read_upload(large, 8000, 1.0)
    assert len(opened) == 1


def test_a_plain_file_that_is_too_long_is_refused_as_it_is_read() -> None:
    for data in (written(np.zeros(9000, np.int16)), wav_header(rate=100, size=100)):
        with pytest.raises(Refusal, match="longer than") as refusal:
            read_upload(data, 8000, 0.4)
        assert refusal.value.status == 413
