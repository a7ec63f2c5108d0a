"""What all scripts do when something goes wrong: one line, and the error's exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechseq.errors import SpeechseqError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of speechseq as one line, after the script's name, and exit with its code."""
    try:
        yield
    except SpeechseqError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
