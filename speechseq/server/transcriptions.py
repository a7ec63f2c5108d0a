"""POST /v1/audio/transcriptions: a form with a file to its text."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from speechseq.recogniser import Recogniser
from speechseq.server.answers import Answer, answer_for
from speechseq.server.body import check_length, read_body
from speechseq.server.forms import Form, boundary_of, parse_form
from speechseq.server.service import Service
from speechseq.server.sound import read_upload


@dataclass(frozen=True)
class Task:
    """What a form asks for: samples (samples,) to a model, its answer in a format."""

    form: Form
    answer: Answer
    recogniser: Recogniser
    samples: np.ndarray


async def transcribe(request: Request) -> Response:
    """Answer a transcription; whatever can be refused is refused before it costs anything."""
    service: Service = request.app.state.service
    began = time.monotonic()
    boundary = boundary_of(request.headers.get("content-type", ""))
    check_length(request, service.limits)
    service.uploads.check()
    with service.clip_coming(), service.store.lease() as take:
        body = await read_body(request, service.limits, take)
        # A place is for who has sent all: those who send slowly would keep the others out.
        async with service.uploads.place():
            task = await service.read(partial(_task, body, boundary, service))
            take(task.samples.nbytes - len(body))
            del body
            found = await service.recognise(task.recogniser, task.samples)
    answer = task.answer(found, task.form)
    service.metrics.audio_seconds.inc(found.duration)
    service.metrics.latency.observe(time.monotonic() - began)
    return answer


def _task(body: bytes, boundary: bytes, service: Service) -> Task:
    """Read a form and its audio; what is asked for is checked before the audio is read."""
    file, form = parse_form(body, boundary)
    answer = answer_for(form)
    recogniser = service.model(form.text("model"))
    samples = read_upload(file, recogniser.rate, service.limits.audio_seconds)
    return Task(form, answer, recogniser, samples)
