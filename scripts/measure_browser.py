"""The page without a server, beside Python: the same texts? And how long does a clip take?

    python scripts/measure_browser.py [MODEL] [--picture docs/page.png]

Writes the page into a folder, serves the folder as files, and gives the page FSDD's official test
clips, one by one, in headless Chromium ($SPEECHSEQ_CHROMIUM, or chromium on the path). Needs
onnxruntime-web (scripts/vendor_onnxruntime_web.py) and `pip install playwright`. Prints Markdown;
times are of the network and the decoder, medians. With --picture, draws the page with a sample
instead.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from command_line import one_line_errors, parser_of

from speechseq.audio import read_audio
from speechseq.corpora import CORPORA
from speechseq.errors import UsageError
from speechseq.files import atomic_write
from speechseq.model_file import DEFAULT_MODEL, read_model
from speechseq.recogniser import from_model_file
from speechseq.server.site import write_site

if TYPE_CHECKING:
    from playwright.sync_api import Page

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
DRAWN = ("nine_one_one.wav", "seven_zero_eight.wav")
"""Samples the page is given for its picture; the first one loads the model."""

FLAGS = ["--no-sandbox", "--disable-gpu"]

HEARD = """name => {
  const status = document.getElementById('status').textContent;
  return status.startsWith(`${name}: `) && status.includes('recognised in');
}"""
READY = "() => document.getElementById('status').textContent === 'Ready.'"


@dataclass(frozen=True)
class Heard:
    """What was made of one clip: its text, the confidence of its words, and milliseconds."""

    text: str
    confidences: Sequence[float]
    milliseconds: float


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder with Python's own server of files; give the address."""
    command = [sys.executable, "-u", "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder), "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout
        try:
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port
            yield f"http://127.0.0.1:{port[1]}/"
        finally:
            server.terminate()


@contextmanager
def opened(address: str) -> Iterator[Page]:
    """Open a page in headless Chromium, and wait until it can be used.

    Raises:
        UsageError: playwright or Chromium is not installed.
    """
    chromium = os.environ.get("SPEECHSEQ_CHROMIUM") or shutil.which("chromium")
    if not chromium or not find_spec("playwright"):
        raise UsageError(
            "browser: Chromium ($SPEECHSEQ_CHROMIUM, or chromium on the path) or playwright is not "
            "there; install both"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 720, "height": 900})
        page.goto(address)
        page.wait_for_function(READY)
        yield page
        browser.close()


def in_browser(page: Page, path: Path) -> Heard:
    """Give the page a file, and read what it shows."""
    page.set_input_files("#file", path)
    page.wait_for_function(HEARD, arg=path.name)
    status = page.inner_text("#status")
    took = re.search(r"recognised in ([\d.]+) ms", status)
    assert took, status
    shown = page.locator("#words tr td:last-child").all_inner_texts()
    text = "" if page.locator("#text.none").count() else page.inner_text("#text")
    return Heard(text, [float(value) for value in shown], float(took[1]))


def print_comparison(pairs: Sequence[tuple[Heard, Heard]]) -> None:
    """Print what browser and Python made of the same clips."""
    equal = [there.text == here.text for there, here in pairs]
    apart = [
        abs(one - two)
        for there, here in pairs
        if there.text == here.text
        for one, two in zip(there.confidences, here.confidences, strict=True)
    ]
    print("| clips | texts equal | largest difference of a confidence | browser | Python |")
    print("|---|---|---|---|---|")
    browser, python = np.median(
        [(there.milliseconds, here.milliseconds) for there, here in pairs], axis=0
    )
    print(
        f"| {len(pairs)} | {sum(equal)} | {max(apart, default=0):.4f} "
        f"| {browser:.1f} ms | {python:.1f} ms |"
    )


def measure(model: str) -> None:
    """Compare the page with Python on the test clips."""
    opened_model = read_model(model)
    recogniser = from_model_file(opened_model)
    paths = [Path(u.audio_filepath) for u in CORPORA["fsdd"].utterances("test")]

    def in_python(path: Path) -> Heard:
        samples = read_audio(path, recogniser.rate)
        began = time.perf_counter()
        found = recogniser.transcribe(samples)
        took = 1000 * (time.perf_counter() - began)
        return Heard(found.text, [word.confidence for word in found.words], took)

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "page"
        write_site(folder, {Path(model).stem: opened_model})
        with served(folder) as address, opened(address) as page:
            there = [in_browser(page, path) for path in paths]
    pairs = list(zip(there, map(in_python, paths), strict=True))
    for path, (browser, python) in zip(paths, pairs, strict=True):
        if browser.text != python.text:
            print(f"{path.name}: browser {browser.text!r}, Python {python.text!r}")
    print_comparison(pairs)


def draw(model: str, picture: Path) -> None:
    """Draw the page, with a sample in it."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "page"
        write_site(folder, {Path(model).stem: read_model(model)})
        with served(folder) as address, opened(address) as page:
            for name in DRAWN:
                in_browser(page, SAMPLES / name)
            content = page.screenshot(full_page=True)
    with atomic_write(picture) as file:
        file.write(content)
    print(picture)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--picture", type=Path, metavar="PNG")
    arguments = parser.parse_args()
    with one_line_errors():
        if arguments.picture:
            draw(arguments.model, arguments.picture)
        else:
            measure(arguments.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
