"""speechseq wyoming: recognition over the Wyoming protocol, for Home Assistant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from speechseq.cli.serving import (
    SERVER_PACKAGES,
    add_bounds,
    add_models,
    in_brackets,
    limits_of,
    log_to_stderr,
    open_recognisers,
)
from speechseq.cli.terminal import need_packages, note
from speechseq.errors import ModelError, UsageError
from speechseq.server.hosts import is_loopback

if TYPE_CHECKING:
    import socket

    from speechseq.server.wyoming import Endpoint, Offer

HELP = "serve recognition over the Wyoming protocol, for Home Assistant"
PACKAGES = (*SERVER_PACKAGES, "wyoming")
DEFAULT_URI = "tcp://127.0.0.1:10300"
LIMITS = {
    "streams": "utterances at once",
    "total_mb": "megabytes of all utterances held at once",
    "stream_seconds": "seconds of audio in one utterance",
    "idle_seconds": "longest silence of a client",
    "message_kb": "kilobytes of one event",
    "answer_seconds": "longest wait for a recognition",
    "grace_seconds": "time to finish what runs, once told to stop",
    "batch": "utterances recognised together",
}
"""Limits of the server that have a meaning here, and which."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


@dataclass(frozen=True)
class Address:
    """Where to listen: a host and port (tcp), a path (unix), or standard input (stdio)."""

    scheme: str
    host: str = ""
    port: int = 0
    path: Path = Path()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_models(parser)
    add(
        "--language",
        action="append",
        metavar="CODE",
        help="language of all models, or one for each in order (default: en)",
    )
    add(
        "--uri",
        default=DEFAULT_URI,
        help=f"tcp://HOST:PORT, unix://PATH or stdio:// (default: {DEFAULT_URI})",
    )
    add(
        "--open",
        action="store_true",
        help="let other machines in, all that reach it: the protocol knows no password",
    )
    add_bounds(parser, LIMITS)


def run(arguments: argparse.Namespace) -> None:
    limits = limits_of(arguments, LIMITS)
    address = _address(arguments.uri)
    _check_host(address, arguments.open)
    languages = _languages(arguments)
    need_packages("wyoming", PACKAGES)
    recognisers = open_recognisers(arguments)
    import asyncio
    import logging

    from speechseq.server.counters import count_alone

    count_alone()  # before prometheus_client is imported
    from speechseq.server.service import Service, warm
    from speechseq.server.wyoming import Endpoint

    warm(recognisers)
    log_to_stderr(debug=arguments.debug)
    least = logging.DEBUG if arguments.debug else logging.WARNING
    logging.getLogger("speechseq").setLevel(least)
    offers = _offers(recognisers, arguments.model or [None], languages)
    endpoint = Endpoint(Service(recognisers, limits, takes_uploads=False), offers)
    asyncio.run(_serve(endpoint, address, ", ".join(recognisers)))


async def _serve(endpoint: Endpoint, address: Address, names: str) -> None:
    """Serve until a signal; an interrupt cancels this, and what runs is finished all the same."""
    import asyncio
    import signal

    from speechseq.server.wyoming import serve, serve_parent

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if address.scheme == "stdio":
        await serve_parent(endpoint, stop)
        return
    with _listener(address) as (listener, where):
        note(f"serving {names} at {where}")
        await serve(endpoint, listener, stop)


@contextmanager
def _listener(address: Address) -> Iterator[tuple[socket.socket, str]]:
    """Give a listening socket, and where it is reached."""
    from speechseq.server.listening import listen
    from speechseq.server.wyoming import listening_at

    if address.scheme == "unix":
        with listening_at(address.path) as listener:
            yield listener, f"unix://{address.path}"
        return
    with listen(address.host, address.port) as listener:
        yield listener, f"tcp://{in_brackets(address.host)}:{listener.getsockname()[1]}"


def _offers(
    recognisers: Mapping[str, Any], models: list[str | None], languages: list[str]
) -> dict[str, Offer]:
    from speechseq.server.wyoming import Offer

    return {
        name: Offer(language, _card(model))
        for name, model, language in zip(recognisers, models, languages, strict=True)
    }


def _card(model: str | None) -> Mapping[str, Any]:
    """Return a model's card; a run that is not finished has none yet."""
    from speechseq.model_file import DEFAULT_MODEL, read_model

    try:
        return read_model(DEFAULT_MODEL if model is None else model).card
    except ModelError:
        return {}


def _languages(arguments: argparse.Namespace) -> list[str]:
    """Return one language for each model.

    Raises:
        UsageError: there are not as many, or one is no language's code.
    """
    languages = arguments.language or ["en"]
    models = len(arguments.model or [None])
    for language in languages:
        if not _LANGUAGE.fullmatch(language):
            raise UsageError(f"--language {language}: no language; give a code such as en or en-GB")
    if len(languages) not in (1, models):
        raise UsageError(
            f"--language: given {len(languages)} times for {models} models; give one for each"
        )
    return languages * models if len(languages) == 1 else languages


def _address(uri: str) -> Address:
    """Read a --uri.

    Raises:
        UsageError: it is none that can be listened at.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_uri(uri) from None
    if parts.scheme == "stdio":
        return Address("stdio")
    if parts.scheme == "unix" and parts.path.startswith("/") and not host:
        return Address("unix", path=Path(uri[uri.index("/") :]))  # a file's name may hold ? and #
    if parts.scheme == "tcp" and host and port is not None:
        return Address("tcp", host=host, port=port)
    raise _bad_uri(uri)


def _bad_uri(uri: str) -> UsageError:
    return UsageError(
        f"--uri {uri}: not understood; give tcp://HOST:PORT, unix:///PATH or stdio://"
    )


def _check_host(address: Address, is_open: bool) -> None:
    """Refuse to be reached from other machines unless that is asked for.

    Raises:
        UsageError: it is not asked for.
    """
    if address.scheme == "tcp" and not is_open and not is_loopback(address.host):
        raise UsageError(
            f"--uri tcp://{address.host}: others can reach it, and the protocol knows no password; "
            f"say --open if they may"
        )
