"""The page for browsers: its files, what it is told of the models, a folder that needs no server.

In the browser the page runs the same ONNX files with onnxruntime-web, which is too large for the
repository: scripts/vendor_onnxruntime_web.py brings it into the package.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from speechseq.errors import SpeechseqError
from speechseq.files import atomic_write
from speechseq.long_audio import LONG_SECONDS
from speechseq.model_file import ModelFile
from speechseq.recipe import FeatureSettings
from speechseq.recogniser import Recogniser, from_model_file
from speechseq.recognition import letter_gap

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
MODELS = "models.json"
VENDOR = PAGE / "vendor"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What of onnxruntime-web the page needs in VENDOR."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
"""What files are, by their endings; the system's own table may say anything."""

HEARD = ("kind", "tokens", "words")
"""What of a vocabulary the page needs; the rest, words apart and phones, is training's."""

MODEL_TYPE = MEDIA_TYPES[".onnx"]
"""What a model file is, whatever its name ends in."""

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'; img-src data:; media-src blob:; base-uri 'none'; form-action 'none'"
)
"""What the page may load: its own files. It stands in the page, too, where no server says it."""


@functools.cache
def page_files() -> dict[str, Path]:
    """Return the page's files by their places below PAGE: what may be asked for, and no more."""
    return {
        path.relative_to(PAGE).as_posix(): path
        for path in sorted(PAGE.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }


def has_runtime() -> bool:
    """Tell whether onnxruntime-web is here."""
    return all(f"{VENDOR.name}/{name}" in page_files() for name in RUNTIME)


def need_runtime() -> None:
    """Refuse, in one line, to make a page that could recognise nothing.

    Raises:
        SpeechseqError: onnxruntime-web is not here.
    """
    if not has_runtime():
        raise SpeechseqError(
            f"{VENDOR}: onnxruntime-web is not there; run scripts/vendor_onnxruntime_web.py, "
            f"which asks npm for it"
        )


def offer(
    recognisers: Mapping[str, Recogniser],
    files: Mapping[str, Path],
    *,
    server: bool,
    audio_seconds: float = LONG_SECONDS,
) -> dict[str, Any]:
    """Return what the page is told, as JSON values: its models, and where they can be run.

    Models in `files` can be run in the browser, where onnxruntime-web is here, too. A recording
    may have `audio_seconds`, and LONG_SECONDS at most.
    """
    models = [
        describe(recogniser) | {"name": name, "file": file_of(name) if name in files else None}
        for name, recogniser in recognisers.items()
    ]
    return {
        "server": server,
        "runtime": has_runtime(),
        "most_seconds": min(LONG_SECONDS, audio_seconds),
        "models": models,
    }


def describe(recogniser: Recogniser) -> dict[str, Any]:
    """Return what stands between a model's samples, log-probabilities and text, as JSON values."""
    recipe = recogniser.recipe
    vocabulary = recogniser.vocabulary.to_dict()
    return {
        "vocabulary": {name: vocabulary[name] for name in HEARD if name in vocabulary},
        "decoder": recipe.decoding.decoder,
        "least_confidence": recipe.decoding.least_confidence,
        "rate": recogniser.rate,
        "frame_seconds": recogniser.frame_seconds,
        "edge_seconds": recipe.features.edge_seconds,
        "letter_gap": letter_gap(recipe),
        "log_mel": log_mel_of(recipe.features),
    }


def file_of(name: str) -> str:
    """Return where the page finds a model's ONNX file."""
    return f"models/{quote(name, safe='')}.onnx"


def log_mel_of(features: FeatureSettings) -> dict[str, Any]:
    """Return the settings that page/log_mels.js computes log-mels by."""
    names = (
        "rate",
        "window_samples",
        "hop_samples",
        "edge_samples",
        "transform_samples",
        "mels",
        "low_hz",
        "top_hz",
        "mel_scale",
        "floor",
    )
    return {name: getattr(features, name) for name in names}


def write_site(folder: Path, models: Mapping[str, ModelFile], *, overwrite: bool = False) -> None:
    """Write the page and models into a folder that any web server can serve as it is.

    Raises:
        SpeechseqError: onnxruntime-web is not here.
        DataError: a file cannot be written, or is there and `overwrite` is false.
    """
    need_runtime()
    recognisers = {name: from_model_file(model) for name, model in models.items()}
    paths = {name: model.path for name, model in models.items()}
    told = offer(recognisers, paths, server=False)
    contents = {f"page/{place}": path.read_bytes() for place, path in page_files().items()}
    contents[INDEX] = contents.pop(f"page/{INDEX}")
    contents[MODELS] = json.dumps(told, ensure_ascii=False).encode()
    contents |= {f"models/{name}.onnx": path.read_bytes() for name, path in paths.items()}
    for place, content in contents.items():
        with atomic_write(folder / place, overwrite=overwrite) as file:
            file.write(content)
