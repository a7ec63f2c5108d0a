"""The shipped model: one ONNX file, whose metadata holds all that a recogniser needs beside it.

Waveform in, log-probabilities out; tokens, recipe (rate, decoding) and card travel with the
graph. Reading one runs no code of the file's: ONNX is a table of known operators.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from speechseq.errors import ModelError, SpeechseqError, nearest
from speechseq.recipe import MANIFEST_SETTINGS, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import Vocabulary

FORMAT = "1"
"""Version of the metadata below."""

KEYS = ("format", "vocabulary", "recipe", "card", "weights_sha256")
"""Metadata keys, each written as ``speechseq.<key>``."""

INPUTS = ("waveform", "lengths")
OUTPUTS = ("log_probs", "log_probs_lengths")
"""Names of the graph's inputs and outputs, in order."""

FIRST_FRAME, END_FRAME = "first_frame", "end_frame"
"""Inputs of a stream's graph, (1,): of the front end's frames [first, end) go on."""

STATES = ("state_h", "state_c")
NEXT_STATES = ("next_h", "next_c")
"""What a stream's graph begins with and ends with, (layers, streams, hidden); c is an LSTM's."""

RUN_MODEL = "model.onnx"
RUN_WEIGHTS = "weights.safetensors"
RUN_RECIPE = "recipe.yaml"
RUN_VOCABULARY = "vocabulary.json"
RUN_METRICS = "metrics.jsonl"
RUN_DATA = "data.json"
"""What a run folder calls its exported model, best weights, resolved recipe, metrics, and how much
it learns from."""

AUXILIARY = "auxiliary."
"""Prefix of the weights of a run that no model file holds."""

BUNDLED = Path(__file__).parent / "models"
DEFAULT_MODEL = "digits"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_QUIET = 3  # onnxruntime's log severity: errors only


@dataclass(frozen=True)
class ModelFile:
    """An open model file. `card` is what its maker says of it: data, licence, command, scores."""

    path: Path
    session: onnxruntime.InferenceSession
    vocabulary: Vocabulary
    recipe: Recipe
    card: Mapping[str, Any]
    weights_sha256: str

    @property
    def states(self) -> dict[str, str]:
        """Outputs that a stream puts back in, by their inputs' names; none, if it carries none."""
        there = {value.name for value in self.session.get_overridable_initializers()}
        return {name: end for name, end in zip(STATES, NEXT_STATES, strict=True) if name in there}


def metadata(
    vocabulary: Vocabulary, recipe: Recipe, card: Mapping[str, Any], weights_sha256: str
) -> dict[str, str]:
    """Return the metadata to write into an ONNX file. Places on the maker's disk are left out."""
    settings = recipe.to_dict()
    settings["data"] |= {"root": "", "noise": ""}
    for setting in MANIFEST_SETTINGS:
        settings["data"][setting] = [Path(name).name for name in settings["data"][setting]]
    settings["data"]["pronunciations"] = Path(recipe.data.pronunciations).name
    for model in ("base", "teacher"):
        if place := settings["training"][model]:
            settings["training"][model] = Path(place).absolute().name
    values = {
        "format": FORMAT,
        "vocabulary": json.dumps(vocabulary.to_dict(), ensure_ascii=False),
        "recipe": json.dumps(settings, ensure_ascii=False),
        "card": json.dumps(dict(card), ensure_ascii=False),
        "weights_sha256": weights_sha256,
    }
    return {f"speechseq.{key}": values[key] for key in KEYS}


def bundled_names() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.onnx"))


def find_model(name: str | os.PathLike[str]) -> Path:
    """Find the model file that a bundled name, a file or a run folder stands for.

    Raises:
        ModelError: there is none.
    """
    if not str(name):
        raise ModelError("an empty name for a model; give a bundled one, a file or a run folder")
    if str(name) in bundled_names():
        return BUNDLED / f"{name}.onnx"
    path = Path(name)
    if path.is_dir():
        if (path / RUN_MODEL).is_file():
            return path / RUN_MODEL
        raise ModelError(f"{path}: holds no {RUN_MODEL}; finish its training or export it")
    if path.is_file():
        return path
    if path.parent.name == "runs":  # a bundled model of that name is another one
        raise ModelError(f"{name}: no such run; train its recipe first, or name another model")
    raise ModelError(
        f"{name}: no such model file, run folder or bundled model"
        f"{nearest(str(name), bundled_names())}"
    )


def read_model(name: str | os.PathLike[str], *, device: str = "cpu", threads: int = 1) -> ModelFile:
    """Open the model that a bundled name, a file or a run folder stands for.

    `device` is cpu or cuda (auto takes cuda where onnxruntime offers it). One thread is the fastest
    for small recurrent networks; `threads` 0 takes all cores.

    Raises:
        ModelError: there is no such model, it is damaged or not one of ours, or the device is
            not there.
    """
    path = find_model(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    return open_model(data, path, device=device, threads=threads)


def open_model(data: bytes, path: Path, *, device: str = "cpu", threads: int = 1) -> ModelFile:
    """Open a model from its bytes; `path` is where they come from or will go.

    Raises:
        ModelError: as `read_model`.
    """
    session = _session(data, path, provider(device), threads)
    values = session.get_modelmeta().custom_metadata_map
    missing = [key for key in KEYS if f"speechseq.{key}" not in values]
    if missing:
        raise ModelError(
            f"{path}: not a speechseq model (no {missing[0]} in its metadata); export it again"
        )
    return _parse(path, session, {key: values[f"speechseq.{key}"] for key in KEYS})


def _parse(
    path: Path, session: onnxruntime.InferenceSession, values: Mapping[str, str]
) -> ModelFile:
    if values["format"] != FORMAT:
        raise ModelError(
            f"{path}: written in format {values['format']!r}, this version reads {FORMAT}; "
            f"install a matching speechseq"
        )
    try:
        tokens = json.loads(values["vocabulary"])
        vocabulary = Vocabulary.from_dict(tokens)
        recipe = recipe_from_dict(json.loads(values["recipe"]), str(path))
        card = dict(json.loads(values["card"]))
    except SpeechseqError as error:
        raise ModelError(f"{path}: its metadata is wrong ({error}); export it again") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: its metadata is damaged ({error}); export it again") from None
    _check_graph(path, session, vocabulary)
    return ModelFile(path, session, vocabulary, recipe, card, values["weights_sha256"])


def _check_graph(path: Path, session: onnxruntime.InferenceSession, vocabulary: Vocabulary) -> None:
    """Compare the graph with its metadata: names, and one output for each token."""
    inputs = tuple(value.name for value in session.get_inputs())
    outputs = {value.name: value.shape for value in session.get_outputs()}
    if inputs != INPUTS or not set(OUTPUTS) <= outputs.keys():
        raise ModelError(f"{path}: its graph takes or gives other values; export it again")
    shape = outputs[OUTPUTS[0]]
    if len(shape) != 3 or shape[2] != len(vocabulary):
        raise ModelError(
            f"{path}: its graph gives {shape[-1:]} scores a frame, its vocabulary holds "
            f"{len(vocabulary)} tokens; export it again"
        )


def provider(device: str) -> str:
    """Return onnxruntime's execution provider for a device; auto takes cuda where it is there.

    Raises:
        ModelError: this onnxruntime has none for the device.
    """
    there = onnxruntime.get_available_providers()
    if device == "auto":
        return PROVIDERS["cuda"] if PROVIDERS["cuda"] in there else PROVIDERS["cpu"]
    if device not in PROVIDERS or PROVIDERS[device] not in there:
        raise ModelError(
            f"device {device}: this onnxruntime runs on {', '.join(there)}; for cuda "
            f"'pip install onnxruntime-gpu', or use --device cpu"
        )
    return PROVIDERS[device]


def _session(
    data: bytes, path: Path, provider_name: str, threads: int
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            data, sess_options=options, providers=[provider_name]
        )
    except Exception as error:  # onnxruntime's exceptions share no public class
        reason = str(error).split("\n")[0][:200]
        raise ModelError(f"{path}: not a usable ONNX model ({reason}); export it again") from None
    if provider_name not in session.get_providers():  # it falls back to the CPU without a word
        raise ModelError(
            f"{path}: onnxruntime could not start {provider_name}; check its CUDA libraries, or "
            f"use --device cpu"
        )
    return session
