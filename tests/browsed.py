"""What the page's tests share: a server with bundled models, and headless Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from speechseq.model_file import find_model
from speechseq.recogniser import load
from speechseq.server.app import build_app
from speechseq.server.limits import Limits
from speechseq.server.listening import build_server, listen, serve
from speechseq.server.site import has_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

CHROMIUM = os.environ.get("SPEECHSEQ_CHROMIUM") or shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu")
MODELS = ("digits", "digits-live", "commands-en")
HERE, THERE = "in this browser", "on the server"

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright")),
    reason="needs Chromium ($SPEECHSEQ_CHROMIUM, or chromium on the path) and playwright",
)
needs_runtime = pytest.mark.skipif(
    not has_runtime(), reason="needs onnxruntime-web; run scripts/vendor_onnxruntime_web.py"
)


@contextmanager
def page_server(token: str | None = None) -> Iterator[str]:
    """Serve the bundled models and the page on loopback, in a thread; give the address."""
    app = build_app(
        {name: load(name) for name in MODELS},
        Limits(),
        token=token,
        model_files={name: find_model(name) for name in MODELS},
    )
    server, listener = build_server(app, Limits()), listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(serve(server, listener, Limits())))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def chromium(playwright: Playwright, *flags: str) -> Iterator[Browser]:
    """Start Chromium."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
    yield browser
    browser.close()


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """Open the page; whatever it asks others for, and whatever goes wrong in it, is an error."""
    page = browser.new_page(**options)
    page.set_default_timeout(60_000)  # milliseconds; machines may be busy
    wrong = complaints(page, address)
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


def complaints(page: Page, address: str) -> list[str]:
    """Return a list that grows with the page's errors, and with the requests that leave it."""
    wrong: list[str] = []

    def on_console(said: ConsoleMessage) -> None:
        if said.type == "error":
            wrong.append(said.text)

    def on_request(asked: Request) -> None:
        if not asked.url.startswith((address, "data:", f"blob:{address}")):
            wrong.append(asked.url)

    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", on_console)
    page.on("request", on_request)
    return wrong


def status(page: Page, part: str) -> str:
    """Wait until the page's status holds this, and return it."""
    page.wait_for_function(
        "part => document.getElementById('status').textContent.includes(part)", arg=part
    )
    return page.inner_text("#status")


def give(page: Page, file: Path, place: str) -> str:
    """Give the page a file to be recognised at a place; return the text it shows."""
    page.select_option("#place", place)
    page.set_input_files("#file", file)
    page.wait_for_function(
        """([name, place]) => {
          const status = document.getElementById('status').textContent;
          return status.startsWith(`${name}: `) && status.includes(` ms ${place}.`);
        }""",
        arg=[file.name, place],
    )
    return page.inner_text("#text")


def random_log_probs(frames: int, tokens: int, seed: int) -> np.ndarray:
    """Log-probabilities (frames, tokens) that spell nothing in particular."""
    scores = np.random.default_rng(seed).normal(0, 3, (frames, tokens))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
