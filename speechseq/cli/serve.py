"""speechseq serve: recognition over HTTP, as OpenAI's clients ask for it, and over WebSocket."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from speechseq.cli.serving import (
    SERVER_PACKAGES,
    add_bounds,
    add_models,
    in_brackets,
    limits_of,
    log_to_stderr,
    open_recognisers,
)
from speechseq.cli.terminal import by_name, need_packages, note
from speechseq.errors import ModelError, UsageError
from speechseq.server.hosts import is_loopback
from speechseq.server.limits import Limits

HELP = "serve recognition: a page for browsers, HTTP and WebSocket"
LIMITS = {limit.name: limit.metadata["meaning"] for limit in fields(Limits)}
MOST_PORT = 65535
MOST_PROCESSES = 64
SWITCH_SECONDS = 0.0005
"""How long the decoding thread may keep the interpreter's lock from the event loop: a tenth of
Python's default, with which 32 clients had a fifth less throughput (in turns, busy machine)."""

TOKEN_VARIABLE = "SPEECHSEQ_TOKEN"  # noqa: S105 (its name, not a token)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: a free one")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"holds the token (or ${TOKEN_VARIABLE})"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="that share the address, each with models and limits of its own (default: 1; Linux)",
    )
    add_bounds(parser, LIMITS)


def run(arguments: argparse.Namespace) -> None:
    limits = limits_of(arguments, LIMITS)
    token = _token(arguments.token_file)
    if not 0 <= arguments.port <= MOST_PORT:
        raise UsageError(f"--port {arguments.port}: 0 to {MOST_PORT} goes here")
    _check_host(arguments.host, token)
    _check_processes(arguments.processes)
    need_packages("serve", SERVER_PACKAGES)
    import asyncio
    import signal

    from speechseq.server.listening import build_server, serve
    from speechseq.server.processes import listen_together, spread

    names = by_name(arguments.model)
    listeners = listen_together(arguments.host, arguments.port, arguments.processes)
    where = f"{in_brackets(arguments.host)}:{listeners[0].getsockname()[1]}"
    place = spread(listeners, lambda: note(f"serving {', '.join(names)} at http://{where}"), note)
    if isinstance(place, int):
        sys.exit(place)
    # Counters are shared from now on; prometheus_client looks when it is imported.
    from speechseq.server.app import build_app
    from speechseq.server.service import warm

    with place.listener:
        recognisers = open_recognisers(arguments)
        warm(recognisers)
        log_to_stderr(debug=arguments.debug)
        files = _model_files(arguments.model)
        app = build_app(recognisers, limits, token=token, model_files=files)
        server = build_server(app, limits)
        sys.setswitchinterval(SWITCH_SECONDS)
        signal.signal(signal.SIGTERM, _stop)  # uvicorn raises it anew when all that ran is finished
        place.ready()
        asyncio.run(serve(server, place.listener, limits, place.watched))


def _model_files(models: Sequence[str] | None) -> dict[str, Path]:
    """Find the ONNX files of models, by name, for the page to run; a run may have none yet."""
    from speechseq.model_file import find_model

    files = {}
    for name, model in by_name(models).items():
        with suppress(ModelError):
            files[name] = find_model(model)
    return files


def _token(file: Path | None) -> str | None:
    """Return the token of a file or of the environment, if there is one.

    Raises:
        UsageError: the file cannot be read, or what is there is no token.
    """
    if file is None:
        if TOKEN_VARIABLE not in os.environ:
            return None
        where, text = f"${TOKEN_VARIABLE}", os.environ[TOKEN_VARIABLE]
    else:
        where = str(file)
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UsageError(f"{where}: cannot be read ({reason}); check --token-file") from None
    token = text.strip()
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise UsageError(f"{where}: holds no token; one word of ASCII goes there")
    return token


def _check_host(host: str, token: str | None) -> None:
    """Refuse to be reached from other machines by whoever likes.

    Raises:
        UsageError: the host is not this machine alone, and there is no token.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--host {host}: others can reach it; give a token in --token-file or ${TOKEN_VARIABLE}"
        )


def _check_processes(count: int) -> None:
    """See that so many processes can share an address here.

    Raises:
        UsageError: they cannot.
    """
    if not 1 <= count <= MOST_PROCESSES:
        raise UsageError(f"--processes {count}: 1 to {MOST_PROCESSES} goes here")
    if count > 1 and sys.platform != "linux":
        raise UsageError(
            f"--processes {count}: no system but Linux spreads connections; leave it out"
        )


def _stop(*_: object) -> None:
    sys.exit(0)
