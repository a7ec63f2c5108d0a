"""What all scripts share: their command line, and what they do when something goes wrong."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechseq.errors import SpeechseqError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a script, whose help begins with the first line of its docstring."""
    return argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])


def natural(text: str) -> int:
    """Return a number of things, 1 or more: a `type` of arguments."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more goes here")
    return int(text)


def positive(text: str) -> float:
    """Return a finite number above 0: a `type` of arguments."""
    if not (math.isfinite(float(text)) and float(text) > 0):
        raise argparse.ArgumentTypeError(f"{text}: more than 0 goes here")
    return float(text)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of speechseq as one line, after the script's name, and exit with its code."""
    try:
        yield
    except SpeechseqError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).stem}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
