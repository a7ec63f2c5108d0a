"""Where several processes write their counters down, so that each can tell of all.

prometheus_client reads the folder's name from the environment when it is imported, so this comes
before it: `metrics` imports that.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from speechseq.errors import SpeechseqError

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own name for it, in the environment."""

IN_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of its own is made in it)
"""Where it goes if it can: containers often have no other place to write."""


def count_alone() -> None:
    """Leave the folder of another service, if there is one, to it."""
    os.environ.pop(FOLDER, None)


def share_counters() -> Path:
    """Make the folder, which is gone when this process is, and those it has started.

    Raises:
        SpeechseqError: there is no place to write.
    """
    try:
        folder = tempfile.mkdtemp(
            prefix="speechseq-", dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
        )
    except OSError as error:
        raise SpeechseqError(
            f"--processes: no place for their counters ({error.strerror}); let $TMPDIR name one"
        ) from None
    os.environ[FOLDER] = folder
    atexit.register(_take_away, folder, os.getpid())
    return Path(folder)


def _take_away(folder: str, maker: int) -> None:
    """Delete the folder as its maker, or as one that it started, if it was ended before."""
    if os.getppid() != maker:
        shutil.rmtree(folder, ignore_errors=True)


def forget_process(folder: Path, number: int) -> None:
    """Take away what an ended process told of its moment; what it counted stays."""
    for file in folder.glob(f"gauge_live*_{number}.db"):
        file.unlink()
