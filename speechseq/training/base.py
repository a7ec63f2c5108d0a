"""Starting from a trained model: its weights, out of a run folder or back out of its ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from speechseq.errors import ModelError
from speechseq.model_file import RUN_WEIGHTS, read_model
from speechseq.recipe import Recipe, recipe_from_dict
from speechseq.tokens import Vocabulary
from speechseq.training.encoder import SpeechNetwork, load_network
from speechseq.training.graph import build_graph
from speechseq.training.run_folder import read_run

OWN = ("head", "pooling", "attention_heads", "skip_input")
"""Model settings that stay the recipe's own; features and all the others are the base's."""

HEAD = "head."
"""Prefix of the weights that are not taken, unless the tokens are the same."""

_DIGIT = 4096
"""Base of the two digits a weight's number is written in; float32 holds each exactly."""


def settings_of_base(recipe: Recipe) -> Recipe:
    """Return the recipe with the features and the network of its `training.base`.

    Raises:
        ModelError: there is no such model.
        UsageError: the recipe's other settings do not go with them.
    """
    name = recipe.training.base
    if not name:
        return recipe
    theirs, _ = _settings(name)
    own = {field: getattr(recipe.model, field) for field in OWN}
    if own["pooling"] == "last" and theirs.model.bidirectional and theirs.model.projection:
        own["pooling"] = "mean"
    together = replace(recipe, features=theirs.features, model=replace(theirs.model, **own))
    return recipe_from_dict(together.to_dict(), f"{recipe.name}, on {name}")


def start_from(
    network: SpeechNetwork, recipe: Recipe, vocabulary: Vocabulary, note: Callable[[str], None]
) -> None:
    """Fill a network with the weights of `training.base`; the head's where the tokens are the same.

    Raises:
        ModelError: there is no such model, or its weights cannot be read.
    """
    theirs, tokens = weights_of(recipe.training.base)
    own = network.state_dict()
    taken = {
        name: weight
        for name, weight in theirs.items()
        if name in own
        and weight.shape == own[name].shape
        and (tokens == vocabulary.tokens or not name.startswith(HEAD))
    }
    network.load_state_dict({**own, **taken})
    head = "its head too" if any(name.startswith(HEAD) for name in taken) else "the head is new"
    note(f"base {recipe.training.base}: {len(taken)} of {len(own)} tensors taken, {head}")


def weights_of(name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights and tokens of a bundled model, a model file or a run folder.

    Raises:
        ModelError: there is no such model, or its weights cannot be read.
    """
    recipe, vocabulary = _settings(name)
    if _is_run(name):
        network = load_network(Path(name) / RUN_WEIGHTS, recipe, len(vocabulary))
    else:
        network = network_of_graph(read_model(name).path, recipe, len(vocabulary))
    return dict(network.state_dict()), vocabulary.tokens


def _settings(name: str) -> tuple[Recipe, Vocabulary]:
    if _is_run(name):
        return read_run(Path(name))
    model = read_model(name)
    return model.recipe, model.vocabulary


def _is_run(name: str) -> bool:
    return (Path(name) / RUN_WEIGHTS).is_file()


def network_of_graph(path: Path, recipe: Recipe, tokens: int) -> SpeechNetwork:
    """Return the network that a model file's graph was written from.

    The graph's constants are the network's numbers in another order. Which goes where is read off
    two graphs of the same network, whose numbers are their own places, high and low digit.

    Raises:
        ModelError: the graph is quantised, or not the one its settings give.
    """
    stored = _constants(onnx.load(path))
    network = SpeechNetwork(recipe, tokens).eval()
    places = torch.arange(sum(weight.numel() for weight in _numbers(network)))
    high, low, none = (
        _constants_with(network, values)
        for values in (1 + places // _DIGIT, 1 + places % _DIGIT, 0 * places)
    )
    found = torch.zeros(len(places))
    for name in high:
        if np.array_equal(high[name], none[name]):
            continue  # no weight: a shape, a window
        if name not in stored or stored[name].shape != high[name].shape:
            raise ModelError(
                f"{path}: its weights cannot be taken over (8-bit, or of another version); use its "
                f"run folder or the 32-bit file"
            )
        order = (high[name].astype(np.int64) - 1) * _DIGIT + low[name].astype(np.int64) - 1
        found[torch.from_numpy(order.ravel())] = torch.tensor(stored[name].ravel())
    _fill(network, found)
    again = _constants(build_graph(network))
    if again.keys() != stored.keys() or not all(
        np.allclose(again[name], stored[name], rtol=1e-4, atol=1e-6) for name in again
    ):
        raise ModelError(f"{path}: its graph is not the one its settings give; use its run folder")
    return network


def _numbers(network: SpeechNetwork) -> list[Tensor]:
    """Return all that a training sets: parameters, and the statistics of CMVN."""
    return [*network.parameters(), *network.features.cmvn.buffers()]


def _fill(network: SpeechNetwork, values: Tensor) -> None:
    at = 0
    with torch.no_grad():
        for weight in _numbers(network):
            weight.copy_(values[at : at + weight.numel()].view_as(weight))
            at += weight.numel()


def _constants_with(network: SpeechNetwork, values: Tensor) -> dict[str, np.ndarray]:
    _fill(network, values)
    return _constants(build_graph(network))


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
