"""What tests share: synthesised clips, a small recipe to train on them, and the real corpora."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# One thread a process: tests run beside each other (pytest -n), and networks here are tiny.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from speechseq.audio import write_wav
from speechseq.errors import UsageError
from speechseq.manifest import Utterance, write_manifest

RATE = 8000
TONES = {"low": 300.0, "mid": 900.0, "high": 2500.0}


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep features out of the user's cache."""
    monkeypatch.setenv("SPEECHSEQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("SPEECHSEQ_CORPORA"):
        return
    skip = pytest.mark.skip(reason="needs real corpora; set SPEECHSEQ_CORPORA to their folder")
    for item in items:
        if "corpus" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> ModuleType:
    """The script a test file is of: that of scripts/NAME.py is tests/test_NAME.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        return importlib.import_module(request.path.stem.removeprefix("test_"))


@pytest.fixture
def real_corpora() -> Path:
    """The folder of real corpora (for tests marked `corpus`)."""
    return Path(os.environ["SPEECHSEQ_CORPORA"])


Called = tuple[int, str, str]
Call = Callable[..., Called]


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """Let the commands that tests start hear SIGINT, which a job in the background ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that runs the command line: exit code, stdout, stderr."""
    from speechseq.cli import main

    def run(*arguments: object) -> Called:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def tone(hertz: float, seconds: float, rate: int = RATE, *, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, float32 (samples,)."""
    steps = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(steps))
    return (0.3 * np.sin(2 * np.pi * hertz * steps) + 0.003 * noise).astype(np.float32)


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """A manifest of 48 clips of three tones, 36 of them train, by four speakers."""
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(48):
        label = list(TONES)[number % 3]
        path = tmp_path / "tones" / f"{label}_{number}.wav"
        path.parent.mkdir(exist_ok=True)
        seconds = rng.uniform(0.25, 0.5)
        hertz = TONES[label] * rng.uniform(0.95, 1.05)
        write_wav(path, tone(hertz, seconds, seed=number), RATE)
        split = "validation" if number >= 36 else "train"
        utterances.append(
            Utterance(str(path), seconds, label, speaker=f"s{number % 4}", split=split)
        )
    manifest = tmp_path / "tones.jsonl"
    write_manifest(manifest, utterances)
    return manifest


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of shards, of the same clips."""
    from sharded import written

    return written(tmp_path_factory.mktemp("shards"))


DIGIT_RECIPE = """
data: {{corpus: fsdd, root: "{root}", tokens: words, validation_fraction: 0.2}}
features: {{rate: 8000, mels: 20, low_hz: 60}}
model: {{hidden: 24, layers: 1, front_end: stack, time_stride: 2, layer_norm: true}}
training: {{epochs: 1, batch: 8, learning_rate: 0.01, ema: 0.5}}
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of FSDD."""
    from layouts import make_layout

    return make_layout("fsdd", tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="session")
def digit_recipe(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe for the digits of `corpus`."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(DIGIT_RECIPE.format(root=corpus))
    return path


@pytest.fixture(scope="session")
def run(digit_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained by the command itself; overrides stand before and behind flags."""
    from speechseq.cli import main

    place = tmp_path_factory.mktemp("runs") / "tiny"
    words = ["train", digit_recipe, "training.epochs=20", "-o", place, "--device", "cpu", "seed=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHSEQ_CACHE", str(place.parent / "cache"))
        assert main([str(word) for word in words]) == 0
    return place


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of three clips, one of them below another folder, and a text file."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for name, hertz in (("a.wav", 300.0), ("b.wav", 900.0), ("more/c.WAV", 600.0)):
        write_wav(folder / name, tone(hertz, 0.4), RATE)
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(scope="module")
def client():
    """A client of a server in this process, of two models."""
    from served import LEFT_RIGHT, RIGHT, serving

    with serving(LEFT_RIGHT, RIGHT) as made:
        yield made


@pytest.fixture(scope="module")
def playwright():
    """Playwright, for a module: while it runs, nothing else in its thread may run an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright):
    """Headless Chromium."""
    from browsed import chromium

    with chromium(playwright) as started:
        yield started


@pytest.fixture(scope="module")
def address():
    """The address of a server of the page and bundled models."""
    from browsed import page_server

    with page_server() as served:
        yield served


@pytest.fixture
def page(browser, address: str):
    """The page on a phone, ready."""
    from browsed import opened, status

    with opened(browser, address, viewport={"width": 360, "height": 740}) as made:
        status(made, "Ready.")
        yield made


RECIPE = """
name: tones
data: {{corpus: jsonl, root: "{root}", tokens: {tokens}}}
features: {{rate: 8000, mels: 20, low_hz: 60}}
model: {{hidden: 24, layers: 1, front_end: stack, time_stride: 2, layer_norm: true, head: {head}}}
training: {{epochs: 4, batch: 8, learning_rate: 0.01, ema: 0.5}}
"""


@pytest.fixture
def write_recipe(tones: Path, tmp_path: Path):
    """Return a function that writes a recipe for the tones and returns its path."""

    def write(tokens: str = "words") -> Path:
        path = tmp_path / f"{tokens}.yaml"
        head = "classify" if tokens == "classes" else "ctc"
        path.write_text(RECIPE.format(root=tones, tokens=tokens, head=head))
        return path

    return write


Fails = Callable[..., str]


@pytest.fixture
def recipe(tmp_path: Path):
    """Return a function that reads a recipe text, with overrides."""
    from speechseq.recipe_file import read_recipe

    def read(text: str, *overrides: str):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return read_recipe(path, overrides)

    return read


@pytest.fixture
def refusal(recipe, tmp_path: Path) -> Fails:
    """Return a function that reads a wrong recipe text, and returns what is said of it."""

    def read(text: str, *overrides: str) -> str:
        with pytest.raises(UsageError) as caught:
            recipe(text, *overrides)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        return message.removeprefix(f"{tmp_path / 'mine.yaml'}: ")

    return read


@pytest.fixture
def fails(call: Call) -> Fails:
    """A function that expects an exit code, nothing on stdout and one line, which it returns."""

    def run(code: int, *arguments: object) -> str:
        found, out, err = call(*arguments)
        assert found == code, err
        assert out == ""
        assert err.startswith("speechseq: ")
        assert err.count("\n") == 1, err
        return err

    return run
