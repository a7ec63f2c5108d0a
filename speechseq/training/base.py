"""Starting from a trained model: its weights, out of a run folder or back out of its ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from speechseq.errors import ModelError
from speechseq.model_file import AUXILIARY, RUN_WEIGHTS, read_model
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import Vocabulary
from speechseq.training.eight_bits import in_full
from speechseq.training.encoder import SpeechNetwork, load_network
from speechseq.training.graph import build_graph
from speechseq.training.notes import Note
from speechseq.training.run_folder import read_run

OWN = ("head", "pooling", "attention_heads", "skip_input", "phones")
"""Model settings that stay the recipe's own; features and all the others are the base's."""

HEAD = "head."
"""Prefix of the weights that are not taken, unless tokens and shapes of all are the same.

Nor are those of the second task.
"""

ROWS = "head.output."
"""Prefix of the weights that have a row for each token."""

PHONES = "phones."
"""Prefix of the weights that have a row for each sound."""

SHARED = 0.5
"""Least share of the tokens that the base must have for any of its rows to be taken."""

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


def start_from(network: SpeechNetwork, recipe: Recipe, vocabulary: Vocabulary, note: Note) -> None:
    """Fill a network with the weights of `training.base`.

    The head's are taken where the tokens are the same or, if the base has at least half of them,
    for those that it has.

    Raises:
        ModelError: there is no such model, or its weights cannot be read.
    """
    theirs, base = weights_of(recipe.training.base)
    known, wanted = base.names if base.kind == vocabulary.kind else (), vocabulary.names
    own = network.state_dict()
    if known != wanted:
        theirs = _of_tokens(theirs, known, own, wanted)
    if base.sounds != vocabulary.sounds:
        theirs = {name: weight for name, weight in theirs.items() if not name.startswith(PHONES)}
    fits = {
        name: theirs[name]
        for name in own
        if name in theirs and theirs[name].shape == own[name].shape
    }
    same = all(name in fits for name in own if name.startswith(HEAD))
    new = () if same else (HEAD, AUXILIARY)
    taken = {name: weight for name, weight in fits.items() if not name.startswith(new)}
    network.load_state_dict({**own, **taken})
    says = "its head too" if same else "the head is new"
    if same and known != wanted:
        says = f"of its head {len(set(known) & set(wanted))} of {len(wanted)} tokens"
    note(f"base {recipe.training.base}: {len(taken)} of {len(own)} tensors taken, {says}")


def _of_tokens(
    theirs: Mapping[str, Tensor],
    known: Sequence[str],
    own: Mapping[str, Tensor],
    wanted: Sequence[str],
) -> dict[str, Tensor]:
    """Return a base's weights with the head's rows in the order of `wanted`.

    Rows of tokens that the base lacks are one's own. Of too few tokens no row is taken.
    """
    places = {name: row for row, name in enumerate(known)}
    pairs = [(row, places[name]) for row, name in enumerate(wanted) if name in places]
    found = {name: weight for name, weight in theirs.items() if not name.startswith(AUXILIARY)}
    for name in [name for name in found if name.startswith(ROWS)]:
        weight = found.pop(name)
        if name not in own:
            continue  # the base's output has a part that one's own has not
        if pairs and len(pairs) >= SHARED * len(wanted) and weight.shape[1:] == own[name].shape[1:]:
            to, of = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
            found[name] = own[name].cpu().index_copy(0, to, weight[of])
    return found


def teacher_of(
    recipe: Recipe, vocabulary: Vocabulary, device: torch.device
) -> SpeechNetwork | None:
    """Return the network of `training.teacher`, which never learns; none where none is named.

    Raises:
        ModelError: there is no such model, or it hears or spells otherwise than the recipe.
    """
    name = recipe.training.teacher
    if not name:
        return None
    theirs, tokens = _settings(name)
    for what, one, other in (
        ("features", theirs.features, recipe.features),
        ("head", theirs.model.head, recipe.model.head),
        ("frames a second", theirs.model.time_stride, recipe.model.time_stride),
        ("tokens", tokens.names, vocabulary.names),
        ("words apart", tokens.apart, ()),
    ):
        if one != other:
            raise ModelError(f"training.teacher {name}: has other {what}; set the recipe's alike")
    network = SpeechNetwork(theirs, tokens)
    network.load_state_dict(weights_of(name)[0])
    return network.to(device).eval().requires_grad_(False)


def weights_of(name: str) -> tuple[dict[str, Tensor], Vocabulary]:
    """Return the weights and the vocabulary of a bundled model, a model file or a run folder.

    Raises:
        ModelError: there is no such model, or its weights cannot be read.
    """
    recipe, vocabulary = _settings(name)
    if _is_run(name):
        network = load_network(Path(name) / RUN_WEIGHTS, recipe, vocabulary)
    else:
        network = network_of_graph(read_model(name).path, recipe, vocabulary)
    return dict(network.state_dict()), vocabulary


def _settings(name: str) -> tuple[Recipe, Vocabulary]:
    if _is_run(name):
        return read_run(Path(name))
    model = read_model(name)
    return model.recipe, model.vocabulary


def _is_run(name: str) -> bool:
    return (Path(name) / RUN_WEIGHTS).is_file()


def network_of_graph(path: Path, recipe: Recipe, tokens: int | Vocabulary) -> SpeechNetwork:
    """Return the network that a model file's graph was written from.

    The graph's constants are the network's numbers in another order. Which goes where is read off
    two graphs of the same network, whose numbers are their own places, high and low digit.

    Raises:
        ModelError: the graph is not the one its settings give.
    """
    file = in_full(onnx.load(path))
    stored = _constants(file)
    network = SpeechNetwork(recipe, tokens).eval()
    # Numbers that no graph holds, such as statistics that CMVN does not use, stay as they are.
    found = torch.cat([weight.detach().flatten() for weight in _numbers(network)])
    places = torch.arange(sum(weight.numel() for weight in _numbers(network)))
    high, low, none = (
        _constants_with(network, values)
        for values in (1 + places // _DIGIT, 1 + places % _DIGIT, 0 * places)
    )
    for name in high:
        if np.array_equal(high[name], none[name]):
            continue  # no weight: a shape, a window
        if name not in stored or stored[name].shape != high[name].shape:
            raise ModelError(
                f"{path}: its weights cannot be taken over (of another version); use its run folder"
            )
        order = (high[name].astype(np.int64) - 1) * _DIGIT + low[name].astype(np.int64) - 1
        found[torch.from_numpy(order.ravel())] = torch.tensor(stored[name].ravel())
    _fill(network, found)
    if not _alike(build_graph(network), file):
        raise ModelError(f"{path}: its graph is not the one its settings give; use its run folder")
    return network


def _alike(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Tell whether two graphs have the same nodes, and constants but for rounding."""
    ours, theirs = _constants(one), _constants(other)
    return (
        list(one.graph.node) == list(other.graph.node)
        and ours.keys() == theirs.keys()
        and all(
            ours[name].shape == theirs[name].shape
            and np.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
            for name in ours
        )
    )


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
