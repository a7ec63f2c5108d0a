"""What the commands share that serve: models by name, limits, a log on stderr."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from speechseq.cli.terminal import add_decoder, add_device, by_name, open_recogniser
from speechseq.server.limits import Limits, flag

if TYPE_CHECKING:
    from speechseq.recogniser import Recogniser

SERVER_PACKAGES = ("starlette", "uvicorn", "websockets", "prometheus_client")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add --model, which may be repeated."""
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        help="bundled name, model file or run; may be repeated (default: digits)",
    )


def add_bounds(parser: argparse.ArgumentParser, meanings: Mapping[str, str]) -> None:
    """Add how models decode and where they run, and a flag for each limit that has a meaning."""
    add_decoder(parser)
    add_device(parser)
    bounds = parser.add_argument_group("limits")
    defaults = {limit.name: limit.default for limit in fields(Limits)}
    for name, meaning in meanings.items():
        bounds.add_argument(
            f"--{flag(name)}",
            type=type(defaults[name]),
            default=defaults[name],
            metavar="N",
            help=f"{meaning} (default: {defaults[name]:g})",
        )


def limits_of(arguments: argparse.Namespace, meanings: Mapping[str, str]) -> Limits:
    """Return the limits that were given.

    Raises:
        UsageError: one is not more than 0.
    """
    return Limits(**{name: getattr(arguments, name) for name in meanings})


def open_recognisers(arguments: argparse.Namespace) -> dict[str, Recogniser]:
    """Open each model under its name."""
    return {
        name: open_recogniser(
            model, arguments.device, arguments.decoder, arguments.least_confidence
        )
        for name, model in by_name(arguments.model).items()
    }


def log_to_stderr(*, debug: bool) -> None:
    """Print errors, with `debug` everything, as lines on stderr."""
    import logging

    level = logging.DEBUG if debug else logging.ERROR
    logging.basicConfig(format="speechseq: %(message)s", level=level)


def in_brackets(host: str) -> str:
    """Return a host as addresses write it."""
    return f"[{host}]" if ":" in host else host
