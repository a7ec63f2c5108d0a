"""The application: its routes, and what every answer has in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from speechseq.recogniser import Recogniser
from speechseq.server.door import HEALTH, PAGE_FILES, Door
from speechseq.server.limits import Limits
from speechseq.server.metrics import CONTENT_TYPE
from speechseq.server.page_answers import (
    give_log_probs,
    list_offer,
    show_file,
    show_model_file,
    show_page,
)
from speechseq.server.refusal import Refusal
from speechseq.server.service import Service
from speechseq.server.site import MODELS
from speechseq.server.streams import stream
from speechseq.server.transcriptions import transcribe


def build_app(
    recognisers: Mapping[str, Recogniser],
    limits: Limits,
    *,
    token: str | None = None,
    model_files: Mapping[str, Path] | None = None,
) -> Starlette:
    """Return the ASGI application that serves recognisers, by their names.

    `model_files` are the ONNX files behind them that browsers may run themselves.
    """
    service = Service(recognisers, limits, model_files)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    paths = [route.path for route in ROUTES]
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(
                Door,
                metrics=service.metrics,
                token=token,
                paths=paths,
                send_seconds=limits.body_seconds,
            )
        ],
        exception_handlers={Refusal: _refused, HTTPException: _not_found},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def list_models(request: Request) -> Response:
    """List the models, in OpenAI's shape."""
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_model(name) for name in service.recognisers]})


async def show_model(request: Request) -> Response:
    """Describe one model, in OpenAI's shape."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    service.model(name)
    return JSONResponse(_model(name))


async def tell_health(request: Request) -> Response:
    """Say whether clips are being recognised."""
    well = request.app.state.service.is_well
    return JSONResponse({"status": "ok" if well else "failed"}, 200 if well else 503)


async def tell_metrics(request: Request) -> Response:
    """Return the counters, for Prometheus."""
    return Response(
        request.app.state.service.metrics.page(), headers={"Content-Type": CONTENT_TYPE}
    )


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "speechseq"}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = error.detail.lower()
    message = f"request: {what}; there are /v1/audio/transcriptions, /v1/models and /v1/stream"
    return Refusal(error.status_code, message, code=what.replace(" ", "_")).response(error.headers)


ROUTES: list[Route | WebSocketRoute] = [
    Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
    WebSocketRoute("/v1/stream", stream),
    Route("/v1/log_probs", give_log_probs, methods=["POST"]),
    Route("/v1/models", list_models),
    Route("/v1/models/{name}", show_model),
    Route(HEALTH, tell_health),
    Route("/metrics", tell_metrics),
    Route("/", show_page),
    Route(PAGE_FILES + "{place:path}", show_file),
    Route(f"/{MODELS}", list_offer),
    Route("/models/{name}.onnx", show_model_file),
]
"""What can be asked for."""
