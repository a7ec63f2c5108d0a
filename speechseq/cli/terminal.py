"""What the commands share: notes, a progress bar, opening a model on a device."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.errors import SpeechseqError, UsageError, choose, installing

if TYPE_CHECKING:
    from speechseq.recogniser import Recogniser

TRAINING_PACKAGES = ("torch", "torchaudio", "onnx", "safetensors", "tensorboard")
DEVICES = ("auto", "cpu", "cuda", "mps")


def note(text: str) -> None:
    """Print a note to stderr."""
    print(text, file=sys.stderr, flush=True)


class Bar:
    """A progress line on stderr, drawn only on a terminal, at most ten times a second."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if self._terminal and (now - self._shown > 0.1 or done == of):
            self._shown = now
            filled = 30 * done // of if of else 0
            bar = "█" * filled + "░" * (30 - filled)
            end = "\n" if of and done >= of else ""
            line = f"\r\x1b[K{what} {bar} {done}/{of or '?'}"
            print(line, end=end, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a note without leaving half a bar before it."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
        note(text)


def add_force(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --force, which `refuse_existing` asks for."""
    parser.add_argument("--force", action="store_true", help=f"write over {what}")


def refuse_existing(force: bool, *files: Path | None) -> None:
    """Refuse to write over files that are there, unless it is forced; and over a folder.

    Raises:
        UsageError: one of the files is there, or is a folder.
    """
    for path in files:
        if path is not None and path.is_dir():
            raise UsageError(f"{path}: a folder; name a file")
        if path is not None and os.path.lexists(path) and not force:
            raise UsageError(f"{path}: is there already; --force writes over it")


def check_png(path: Path) -> None:
    """Refuse to draw a picture under the name of another kind of file.

    Raises:
        UsageError: the name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a PNG is drawn; end its name in .png")


def each_once(paths: Iterable[str]) -> list[str]:
    """List paths without those that lead where another one leads."""
    once: dict[str, str] = {}
    for path in paths:
        once.setdefault(os.path.realpath(path), path)
    return list(once.values())


def add_decoder(parser: argparse.ArgumentParser) -> None:
    """Add --decoder and --least-confidence."""
    parser.add_argument("--decoder", help="greedy or lexicon (default: the model's own)")
    parser.add_argument(
        "--least-confidence",
        type=float,
        metavar="P",
        help="leave out words that are less sure, 0 to 1 (default: the model's own)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: auto")


def need_packages(extra: str, packages: Iterable[str]) -> None:
    """See that what a command needs is installed; the command is named as its extra.

    Raises:
        SpeechseqError: one of the packages is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise SpeechseqError(f"{extra}: {package} is not installed; {installing(extra)}")


def by_name(models: Sequence[str] | None) -> dict[str, str]:
    """Call models by their bundled name, their file's stem or their folder's name.

    Raises:
        UsageError: two are called the same.
    """
    from speechseq.model_file import DEFAULT_MODEL

    named: dict[str, str] = {}
    for model in models or [DEFAULT_MODEL]:
        path = Path(model)
        name = path.resolve().name if path.is_dir() else path.stem
        name = os.fsencode(name).decode(errors="replace")  # clients read it as JSON
        if name in named:
            raise UsageError(f"{model}: a second model called {name!r}; rename one of them")
        named[name] = model
    return named


def open_recogniser(
    model: str | None,
    device: str,
    decoder: str | None = None,
    least_confidence: float | None = None,
) -> Recogniser:
    """Open a model on a device: with onnxruntime, or a run folder with PyTorch."""
    from speechseq.recipe_checks import CHOICES

    if decoder:
        choose(dict.fromkeys(CHOICES["decoding.decoder"]), decoder, "decoder")
    if not 0 <= (least_confidence or 0) <= 1:
        raise UsageError(
            f"--least-confidence: {least_confidence:g}; a number from 0 to 1 goes here"
        )
    return _open(model, device).decoding_with(decoder, least_confidence)


def _open(model: str | None, device: str) -> Recogniser:
    from speechseq.model_file import DEFAULT_MODEL, RUN_WEIGHTS, find_model, provider
    from speechseq.recogniser import load

    name = DEFAULT_MODEL if model is None else model
    try:
        provider(device)
    except SpeechseqError as error:
        if not Path(name, RUN_WEIGHTS).is_file():
            find_model(name)
            raise UsageError(f"{error}, or give a run folder, which PyTorch can run") from None
        need_training()
        from speechseq.training.run_folder import load_run

        return load_run(Path(name), device)
    return load(name, device=device)


def need_training() -> None:
    """Refuse, in one line, to train where the packages for it are not installed.

    Raises:
        SpeechseqError: one of them is missing.
    """
    missing = [name for name in TRAINING_PACKAGES if find_spec(name) is None]
    if missing:
        raise SpeechseqError(f"{missing[0]}: not installed; {installing('train')}")
