"""The network as an ONNX graph, written out operator by operator from its own tensors.

Waveform in, log-probabilities out. PyTorch's exporter cannot trace a recurrent layer over a
dynamic time axis; this graph's recurrent nodes take `sequence_lens`, so that batches are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from speechseq.recipe import DELTA_WINDOW, FeatureSettings
from speechseq.training.carry import Carry, carries_state
from speechseq.training.encoder import RecurrentLayer, SpeechNetwork
from speechseq.training.features import LEAST_DEVIATION, LogMel, delta_kernel
from speechseq.training.nodes import Graph

FEATURE_NODES = "features"
"""Prefix of the feature nodes' names; quantisation leaves these nodes alone."""


def build_graph(network: SpeechNetwork) -> onnx.ModelProto:
    """Write a network's graph: `waveform`, `lengths` -> `log_probs`, `log_probs_lengths`.

    Where the network carries state, it is a stream's, too: see `carry`.
    """
    graph = Graph()
    graph.input("waveform", TensorProto.FLOAT, ["batch", "samples"])
    graph.input("lengths", TensorProto.INT64, ["batch"])
    graph.prefix = FEATURE_NODES
    frames, lengths = _log_mels(graph, network)
    frames = _finish(graph, network, frames, lengths)
    graph.prefix = "encoder"
    inputs, lengths = network.encoder.front_end.write(graph, frames, lengths)
    carry = Carry(graph, network) if carries_state(network) else None
    if carry:
        inputs, lengths = carry.stretch(inputs, lengths)
    states = _recurrent(graph, network, inputs, lengths, carry)
    graph.prefix = "head"
    log_probs, sizes = network.head.write(graph, states, inputs, lengths)
    log_probs = _told(graph, network, log_probs)
    if network.phones is not None:
        log_probs = network.phones.write(graph, log_probs, states, lengths)
    shape = "batch", "frames", network.tokens
    graph.output(log_probs, "log_probs", TensorProto.FLOAT, shape)
    graph.output(sizes, "log_probs_lengths", TensorProto.INT64, ["batch"])
    if carry:
        carry.give_out()
    return graph.model()


def _log_mels(graph: Graph, network: SpeechNetwork) -> tuple[str, str]:
    """Frame, transform and filter the waveform: the DFT is a convolution with windowed waves.

    Only the samples under the window are convolved; zeros around it, which the Fourier
    transform of `transform_samples` points has, add nothing.
    """
    settings = network.features.settings
    base: LogMel = getattr(network.features.base, "log_mel", network.features.base)
    window = settings.window_samples
    inside = graph.within("lengths", graph.size("waveform", 1))
    samples = graph.add("Where", inside, "waveform", graph.constant(0.0))
    before = settings.transform_samples // 2 - (settings.transform_samples - window) // 2
    pads = [0, settings.edge_samples + before, 0, settings.edge_samples + window - before]
    samples = graph.add("Pad", samples, graph.constant(pads))
    samples = graph.add("Unsqueeze", samples, graph.constant([1]))
    waves = _waves(graph, settings, base.window)
    spectrum = graph.add("Conv", samples, waves, strides=[settings.hop_samples])
    power = graph.add("Mul", spectrum, spectrum)
    filters = graph.constant(torch.cat([base.filters, base.filters]).T)
    mels = graph.add("Add", graph.add("MatMul", filters, power), graph.constant(settings.floor))
    frames = graph.add("Transpose", graph.add("Log", mels), perm=[0, 2, 1])
    total = graph.add("Add", "lengths", graph.constant(2 * settings.edge_samples))
    hops = graph.add("Div", total, graph.constant(settings.hop_samples))
    return frames, graph.add("Add", hops, graph.constant(1))


def _waves(graph: Graph, settings: FeatureSettings, window: Tensor) -> str:
    """Return windowed cosines and sines (2 · bins, 1, window_samples).

    All of them are steps through one period, so one period is kept, and what a runtime folds
    into a constant as it loads the file need not be in it: 0.4 MB at 8 kHz, 0.8 MB at 16 kHz.
    """
    points = settings.transform_samples
    period = 2 * torch.pi / points * torch.arange(points, dtype=torch.float64)
    bins = graph.constant(torch.arange(points // 2 + 1).unsqueeze(1))
    steps = graph.constant(torch.arange(settings.window_samples).unsqueeze(0))
    phases = graph.add("Mod", graph.add("Mul", bins, steps), graph.constant(points))
    both = [
        graph.add("Gather", graph.constant(wave), phases) for wave in (period.cos(), period.sin())
    ]
    waves = graph.add("Mul", graph.add("Concat", *both, axis=0), graph.constant(window))
    return graph.add("Unsqueeze", waves, graph.constant([1]))


def _finish(graph: Graph, network: SpeechNetwork, frames: str, lengths: str) -> str:
    """Features of log-mels, deltas and CMVN, as `Features.finish`."""
    features = network.features
    parts = [features.base.write(graph, frames)]
    for _ in range(features.settings.deltas):
        parts.append(_delta(graph, parts[-1], lengths, features.base.dims))
    frames = graph.add("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]
    cmvn = features.cmvn
    if cmvn.kind == "global":
        centred = graph.add("Sub", frames, graph.constant(cmvn.mean))
        return graph.add("Div", centred, graph.constant(cmvn.deviation))
    return _normalise_utterance(graph, frames, lengths) if cmvn.kind == "utterance" else frames


def _delta(graph: Graph, frames: str, lengths: str, dims: int) -> str:
    reach = DELTA_WINDOW // 2
    size = graph.size(frames, 1)
    stop = graph.add("Add", size, graph.constant(reach))
    steps = graph.add("Range", graph.constant(-reach), stop, graph.constant(1))
    steps = graph.add("Max", steps, graph.constant(0))
    last = graph.add("Sub", lengths, graph.constant(1))
    steps = graph.add("Min", steps, graph.add("Unsqueeze", last, graph.constant([1])))
    rows = graph.add("Unsqueeze", steps, graph.constant([2]))
    rows = graph.add("Expand", rows, graph.constant([1, 1, dims]))
    extended = graph.add("GatherElements", frames, rows, axis=1)
    total = ""
    for step, weight in enumerate(delta_kernel().tolist()):
        end = graph.add("Add", size, graph.constant(step))
        end = graph.add("Unsqueeze", end, graph.constant([0]))
        part = graph.add("Slice", extended, graph.constant([step]), end, graph.constant([1]))
        part = graph.add("Mul", part, graph.constant(weight))
        total = graph.add("Add", total, part) if total else part
    return total


def _normalise_utterance(graph: Graph, frames: str, lengths: str) -> str:
    count = graph.add("Cast", lengths, to=1)
    count = graph.add("Unsqueeze", count, graph.constant([1, 2]))

    def mean(values: str) -> str:
        inside = graph.mask(values, lengths, [2], 1)
        total = graph.add("ReduceSum", inside, graph.constant([1]), keepdims=1)
        return graph.add("Div", total, count)

    centred = graph.add("Sub", frames, mean(frames))
    centred = graph.add("Sub", centred, mean(centred))  # twice, as `masked_statistics`
    deviation = graph.add("Sqrt", mean(graph.add("Mul", centred, centred)))
    return graph.add("Div", centred, graph.add("Max", deviation, graph.constant(LEAST_DEVIATION)))


def _recurrent(
    graph: Graph, network: SpeechNetwork, inputs: str, lengths: str, carry: Carry | None
) -> str:
    """Return the states (batch, frames, dims); between the layers time is the first axis."""
    sizes = graph.add("Cast", lengths, to=TensorProto.INT32)
    states = graph.add("Transpose", inputs, perm=[1, 0, 2])
    for number, layer in enumerate(network.encoder.layers):
        begins = carry.begins(number, states) if carry else []
        ends = carry.ends(number) if carry else []
        states = _layer(graph, cast(RecurrentLayer, layer), states, [sizes, *begins], ends)
    return graph.add("Transpose", states, perm=[1, 0, 2])


def _layer(
    graph: Graph, layer: RecurrentLayer, frames: str, last: Sequence[str], ends: Sequence[str]
) -> str:
    """Return a layer's states; `last` are its cells' last inputs: lengths, and first states."""
    cells = [cell for cell in (layer.forward_cell, layer.backward_cell) if cell is not None]
    operator, order, attributes = ONNX_CELLS[layer.forward_cell.mode]
    weights = [
        graph.constant(torch.stack([_gates(cell, name, order) for cell in cells]))
        for name in ("weight_ih_l0", "weight_hh_l0")
    ]
    biases = [
        torch.cat([_gates(cell, name, order) for name in ("bias_ih_l0", "bias_hh_l0")])
        for cell in cells
    ]
    states = graph.add(
        operator,
        frames,
        *weights,
        graph.constant(torch.stack(biases)),
        *last,
        more=ends,
        hidden_size=cells[0].hidden_size,
        direction="bidirectional" if len(cells) == 2 else "forward",
        **attributes,
    )
    states = graph.add("Transpose", states, perm=[0, 2, 1, 3])
    dims = cells[0].hidden_size * len(cells)
    states = graph.add("Reshape", states, graph.constant([0, 0, dims]))
    if layer.projection is not None:
        states = graph.linear(layer.projection, states)
    if layer.residual:
        states = graph.add("Add", states, frames)
    return graph.layer_norm(layer.norm, states)


def _gates(cell: nn.RNNBase, name: str, order: Sequence[int]) -> Tensor:
    """Return a cell's parameter with its gates in ONNX's order."""
    gates = getattr(cell, name).detach().chunk(len(order))
    return torch.cat([gates[gate] for gate in order])


def _told(graph: Graph, network: SpeechNetwork, log_probs: str) -> str:
    """Add up the probabilities of scores that are told as one token, as `told`."""
    tokens, scores, place = network.tokens, len(network.told_as), network.told_as[-1]
    if tokens == scores:
        return log_probs

    def part(begin: int, end: int) -> str:
        axis = graph.constant([2])
        return graph.add("Slice", log_probs, graph.constant([begin]), graph.constant([end]), axis)

    together = graph.add("Concat", part(place, place + 1), part(tokens, scores), axis=2)
    together = graph.add("ReduceLogSumExp", together, axes=[2], keepdims=1)
    return graph.add("Concat", part(0, place), together, part(place + 1, tokens), axis=2)


ONNX_CELLS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "RNN_TANH": ("RNN", (0,), {}),
    "GRU": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # r z n -> z r n
    "LSTM": ("LSTM", (0, 3, 1, 2), {}),  # i f g o -> i o f g
}
"""PyTorch's mode of a cell: ONNX operator, order of its gates, attributes."""
