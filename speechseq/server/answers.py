"""Recognitions in the formats of OpenAI's transcriptions."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from speechseq.errors import UsageError, choose
from speechseq.outputs import WRITERS, cues
from speechseq.recognition import Recognition, Word
from speechseq.server.forms import Form
from speechseq.server.refusal import Refusal

FORMAT_FIELD = "response_format"
GRANULARITY_FIELD = "timestamp_granularities[]"
GRANULARITIES = ("word", "segment")

Answer = Callable[[Recognition, Form], Response]


def answer_for(form: Form) -> Answer:
    """Return what writes the answer that a form asks for.

    Raises:
        Refusal: it asks for an unknown format or granularity.
    """
    _granularities(form)
    try:
        answer = choose(FORMATS, form.text(FORMAT_FIELD, "json"), FORMAT_FIELD)
    except UsageError as error:
        raise _unknown(str(error), FORMAT_FIELD) from None
    return as_events if form.text("stream").lower() in ("true", "1") else answer


def as_json(recognition: Recognition, form: Form) -> Response:
    """Return the text, and how much audio it was."""
    del form
    return JSONResponse({"text": recognition.text, "usage": _usage(recognition)})


def as_events(recognition: Recognition, form: Form) -> Response:
    """Return the text as server-sent events: whole, as it is known all at once."""
    del form
    events = (
        {"type": "transcript.text.delta", "delta": recognition.text},
        {"type": "transcript.text.done", "text": recognition.text, "usage": _usage(recognition)},
    )
    lines = (f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
    return Response("".join(lines), media_type="text/event-stream")


def as_text(recognition: Recognition, form: Form) -> Response:
    """Return the text alone."""
    return _plain("txt", recognition, form)


def as_verbose_json(recognition: Recognition, form: Form) -> Response:
    """Return text, duration and language, with words or segments and their times (seconds)."""
    granularities = _granularities(form)
    content: dict[str, Any] = {
        "task": "transcribe",
        "language": form.text("language"),  # OpenAI's client has no null here
        "duration": recognition.duration,
        "text": recognition.text,
        "usage": _usage(recognition),
    }
    if "word" in granularities:
        content["words"] = [word_times(word) for word in recognition.words]
    if "segment" in granularities:
        content["segments"] = [
            _segment(number, words, recognition) for number, words in enumerate(cues(recognition))
        ]
    return JSONResponse(content)


def as_srt(recognition: Recognition, form: Form) -> Response:
    """Return SubRip subtitles."""
    return _plain("srt", recognition, form)


def as_vtt(recognition: Recognition, form: Form) -> Response:
    """Return WebVTT subtitles."""
    return _plain("vtt", recognition, form)


def word_times(word: Word) -> dict[str, Any]:
    """Return a word as OpenAI's clients read it, and its confidence."""
    return {
        "word": word.text,
        "start": word.start,
        "end": word.end,
        "confidence": round(word.confidence, 4),
    }


def _granularities(form: Form) -> Collection[str]:
    asked = form.texts.get(GRANULARITY_FIELD) or ["segment"]
    for name in asked:
        if name not in GRANULARITIES:
            raise _unknown(
                f"{GRANULARITY_FIELD}: unknown {name[:80]!r}; choose from word, segment",
                GRANULARITY_FIELD,
            )
    return asked


def _unknown(message: str, param: str) -> Refusal:
    return Refusal(400, message, code="invalid_value", param=param)


def _plain(writer: str, recognition: Recognition, form: Form) -> Response:
    del form
    return PlainTextResponse(f"{WRITERS[writer]('', recognition)}\n")


def _usage(recognition: Recognition) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(recognition.duration)}


def _segment(number: int, words: tuple[Word, ...], recognition: Recognition) -> dict[str, Any]:
    """Return words as a segment; clients require all of whisper's fields."""
    text = " ".join(word.text for word in words)
    data = text.encode()
    return {
        "id": number,
        "start": words[0].start,
        "end": words[-1].end,
        "text": text,
        "avg_logprob": math.log(max(recognition.confidence, 1e-30)),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 4),
        "seek": 0,
        "temperature": 0.0,  # nothing is drawn at random
        "tokens": [],  # the vocabulary is not whisper's
        "no_speech_prob": 0.0,  # speech was recognised here
    }


FORMATS: Mapping[str, Answer] = {
    "json": as_json,
    "text": as_text,
    "verbose_json": as_verbose_json,
    "srt": as_srt,
    "vtt": as_vtt,
}
"""Answers by the name of their format."""
