"""The command line: what the user typed is checked first, then what is heavy is imported.

The only room that prints or exits. Results go to stdout, progress and notes to stderr.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from speechseq import __version__
from speechseq.cli import (
    data,
    evaluate,
    export,
    forecast,
    init,
    listen,
    models,
    page,
    plot,
    runs,
    serve,
    train,
    transcribe,
    wyoming,
)
from speechseq.cli.terminal import note
from speechseq.errors import SpeechseqError, UsageError

INTERRUPTED = 130
DEBUG = "--debug"

COMMANDS: dict[str, ModuleType] = {
    "transcribe": transcribe,
    "listen": listen,
    "init": init,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "data": data,
    "serve": serve,
    "wyoming": wyoming,
    "page": page,
    "models": models,
    "runs": runs,
    "plot": plot,
    "forecast": forecast,
}
"""Commands by name: modules with HELP, add_arguments(parser) and run(arguments)."""


class _Parser(argparse.ArgumentParser):
    """argparse, with its usage errors in one line."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command in `COMMANDS`."""
    parser = _Parser(
        prog="speechseq", description="Train, measure and ship a small speech recogniser."
    )
    parser.add_argument("--version", action="version", version=f"speechseq {__version__}")
    common = _Parser(add_help=False)
    common.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(name, help=command.HELP, description=command.HELP, parents=[common])
        )
    return parser


def _take_left_over(parsed: argparse.Namespace, left: Sequence[str]) -> None:
    """Let overrides and inputs stand behind flags, too; argparse leaves those over."""
    inputs = getattr(parsed, "inputs", None)
    before, behind = _at_dashes(left)
    found = [*before, *behind[1:]]
    if found and (inputs is None or any(_is_flag(word) for word in before)):
        wrong = next(filter(_is_flag, before), found[0])
        raise UsageError(f"unknown argument {wrong}; see speechseq {parsed.command} --help")
    if inputs is not None:
        inputs += found


def _at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part words before "--", behind which there are no flags."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at:])


def _is_flag(word: str) -> bool:
    """Tell a flag from an input, which "-", standard input, is."""
    return word.startswith("-") and word != "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    before, behind = _at_dashes(sys.argv[1:] if arguments is None else arguments)
    is_debugged = DEBUG in before
    try:
        # Before and behind every action alike; the parsers name it for --help alone.
        words = [word for word in before if word != DEBUG]
        parsed, left = build_parser().parse_known_args([*words, *behind])
        parsed.debug = is_debugged
        _take_left_over(parsed, left)
        COMMANDS[parsed.command].run(parsed)
    except SystemExit as error:  # argparse, after --help and --version
        return int(error.code or 0)
    except KeyboardInterrupt:
        note("speechseq: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        _forget_output()
        return 0
    except Exception as error:
        if isinstance(error, OSError):
            error = _of_system(error)
        if is_debugged:
            traceback.print_exc()
        elif isinstance(error, SpeechseqError):
            note(f"speechseq: {error}")
        else:
            note(f"speechseq: {type(error).__name__}: {error}; run with --debug and report it")
        return error.exit_code if isinstance(error, SpeechseqError) else 1
    return 0


def _of_system(error: OSError) -> Exception:
    """Say what the operating system refused, and where; without a file it stays as it is."""
    if error.errno == errno.ENOSPC:
        _forget_output()
        where = error.filename or "standard output"
        return SpeechseqError(f"{where}: its disk is full; free some of it")
    if not isinstance(error.filename, str | bytes):
        return error
    from speechseq.sound_files import name_of

    where = name_of(os.fsdecode(error.filename))
    return SpeechseqError(f"{where}: {error.strerror}; check its name and who may use it")


def _forget_output() -> None:
    """Let what is still to be printed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write what cannot be encoded as JSON does, which stays JSON where it is that."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def run() -> None:
    """Run the command that was typed and exit."""
    codecs.register_error("escaped", _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # a name or a sign that it cannot print
            stream.reconfigure(errors="escaped")
    sys.exit(main())
