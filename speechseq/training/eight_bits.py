"""Weights in 8 bits: a quarter of the file, computed with as ever.

A large weight is kept as 8-bit numbers and a scale for each of its rows, which two nodes multiply.
Runtimes fold such nodes into a constant as they open a file, so that what runs is the network in 32
bits, with rounded weights: any cell, at its usual speed, and as a base for training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from speechseq.training.graph import FEATURE_NODES

LEAST = 1024
"""Smaller weights stay in 32 bits."""

ROW_AXES = {"MatMul": (0,), "Conv": (1, 2, 3), "RNN": (2,), "GRU": (2,), "LSTM": (2,)}
"""Operators whose weights are rounded, and the axes of these that share a scale."""

EIGHT, CAST, SCALE = "/int8", "/cast", "/scale"
"""What is put behind a weight's name for its 8-bit numbers, these in 32 bits, and its scale."""


def in_eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its weights in 8 bits; those of the features stay as they are."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    axes = _axes(model)
    del small.graph.initializer[:]
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.name not in axes:
            small.graph.initializer.append(tensor)
            continue
        name, weight = tensor.name, numpy_helper.to_array(tensor)
        scale = np.abs(weight).max(axis=axes[name], keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        rounded = np.round(weight / scale).astype(np.int8)
        small.graph.initializer.extend(
            [
                numpy_helper.from_array(rounded, name + EIGHT),
                numpy_helper.from_array(scale, name + SCALE),
            ]
        )
        nodes += [
            helper.make_node("Cast", [name + EIGHT], [name + CAST], to=TensorProto.FLOAT),
            helper.make_node("Mul", [name + CAST, name + SCALE], [name]),
        ]
    del small.graph.node[:]
    small.graph.node.extend([*nodes, *model.graph.node])
    onnx.checker.check_model(small)
    return small


def in_full(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its 8-bit weights as numbers of 32 bits again; others as they are."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    full = onnx.ModelProto()
    full.CopyFrom(model)
    del full.graph.initializer[:], full.graph.node[:]
    for tensor in model.graph.initializer:
        name = tensor.name.removesuffix(EIGHT)
        if name != tensor.name:
            weight = constants[tensor.name].astype(np.float32) * constants[name + SCALE]
            full.graph.initializer.append(numpy_helper.from_array(weight, name))
        elif not name.endswith(SCALE):
            full.graph.initializer.append(tensor)
    whole = {tensor.name for tensor in full.graph.initializer}
    full.graph.node.extend(
        node
        for node in model.graph.node
        if node.output[0] not in whole and not node.output[0].endswith(CAST)
    )
    return full


def _axes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the weights that are to be rounded, each with the axes that share a scale."""
    used = dict(_weights(model))
    return {
        tensor.name: used[tensor.name]
        for tensor in model.graph.initializer
        if tensor.name in used
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) > 1  # a bias is no weight
        and int(np.prod(tensor.dims)) >= LEAST
    }


def _weights(model: onnx.ModelProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for node in model.graph.node:
        if node.op_type in ROW_AXES and not node.name.startswith(FEATURE_NODES):
            for name in node.input[1:3]:
                yield name, ROW_AXES[node.op_type]
