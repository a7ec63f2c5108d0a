"""The page over HTTP: its files to everybody, models and what they hear to those who may ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from speechseq.long_audio import LONG_SECONDS
from speechseq.server.body import read_body
from speechseq.server.refusal import Refusal
from speechseq.server.service import Service
from speechseq.server.site import INDEX, MEDIA_TYPES, MODEL_TYPE, POLICY, offer, page_files
from speechseq.server.sound import too_long

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""What browsers may do with the page: keep it while it stays the same, and show it nowhere else."""

SAMPLE = np.dtype("<f4")


async def show_page(request: Request) -> Response:
    """Return the page itself."""
    return _file(request, page_files()[INDEX])


async def show_file(request: Request) -> Response:
    """Return a file of the page's."""
    path = page_files().get(request.path_params["place"])
    if path is None:
        raise Refusal(404, "page: no such file; open / in a browser", code="not_found")
    return _file(request, path)


async def list_offer(request: Request) -> Response:
    """Tell the page of the models."""
    service: Service = request.app.state.service
    told = offer(
        service.recognisers,
        service.model_files,
        server=True,
        audio_seconds=service.limits.audio_seconds,
    )
    return JSONResponse(told, headers=HEADERS)


async def show_model_file(request: Request) -> Response:
    """Return a model's ONNX file."""
    service: Service = request.app.state.service
    return _file(request, service.model_file(request.path_params["name"]))


async def give_log_probs(request: Request) -> Response:
    """Answer float32 samples (samples,) at the model's rate with log-probabilities, row after row.

    Both are little-endian, and nothing but numbers: the page knows the model's rate and tokens.
    Recordings of more than LONG_SECONDS are not heard as a whole.
    """
    service: Service = request.app.state.service
    recogniser = service.model(request.query_params.get("model", ""))
    service.uploads.check()
    with service.store.lease() as take:
        body = await read_body(request, service.limits, take)
        longest = min(LONG_SECONDS, service.limits.audio_seconds)
        async with service.uploads.place():
            samples = _samples(body, recogniser.rate, longest)
            take(samples.nbytes - len(body))
            del body
            log_probs = await service.log_probs(recogniser, samples)
    service.metrics.audio_seconds.inc(len(samples) / recogniser.rate)
    content = log_probs.astype(SAMPLE).tobytes()
    return Response(content, media_type="application/octet-stream", headers=HEADERS)


def _samples(body: bytes, rate: int, longest_seconds: float) -> np.ndarray:
    """Return the samples (samples,) of a body.

    Raises:
        Refusal: they are none, too many (413) or not numbers.
    """
    if not body or len(body) % SAMPLE.itemsize:
        raise _wrong(f"{len(body)} bytes; 32-bit floats, one or more, go here")
    samples = np.frombuffer(body, SAMPLE)
    if len(samples) > longest_seconds * rate:
        raise too_long(longest_seconds)
    if not np.isfinite(samples).all():
        raise _wrong("holds NaN or infinite samples; convert it again")
    return np.clip(samples, -1.0, 1.0)


def _wrong(what: str) -> Refusal:
    return Refusal(400, f"audio: {what}", code="invalid_audio")


def _file(request: Request, path: Path) -> Response:
    """Return a file, or that the browser has it already."""
    response = FileResponse(
        path,
        media_type=MEDIA_TYPES.get(path.suffix, MODEL_TYPE),
        headers=HEADERS,
        stat_result=path.stat(),
    )
    if request.headers.get("if-none-match") == response.headers["etag"]:
        return Response(status_code=304, headers={**HEADERS, "ETag": response.headers["etag"]})
    return response
