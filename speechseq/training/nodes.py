"""An ONNX graph in the making: nodes, constants, inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17
IR_VERSION = 9


class Graph:
    """Nodes and constants of a graph; values are passed by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.prefix = ""

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Take an input, and return its name."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def optional_input(self, name: str, default: np.ndarray, shape: Sequence[int | str]) -> str:
        """Take an input that is `default` unless the caller gives another value."""
        self.constants.append(numpy_helper.from_array(default, name))
        return self.input(name, self.constants[-1].data_type, shape)

    def output(self, value: str, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Give a value out under a name of its own."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def add(self, operator: str, *inputs: str, more: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node and return the name of its first output; `more` names the others."""
        name = f"{self.prefix}/{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name, *more], name, **attributes))
        return name

    def constant(self, value: Tensor | np.ndarray | float | Sequence[int] | int) -> str:
        """Keep an array, float32 or int64, and return its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        kind = np.float32 if array.dtype.kind == "f" else np.int64
        name = f"{self.prefix}/constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(kind, order="C"), name))
        return name

    def size(self, value: str, axis: int) -> str:
        """Return the size of an axis, a scalar."""
        return self.add("Gather", self.add("Shape", value), self.constant(axis))

    def within(self, lengths: str, size: str) -> str:
        """Return the mask (batch, size), true inside each utterance."""
        steps = self.add("Range", self.constant(0), size, self.constant(1))
        return self.add("Less", steps, self.add("Unsqueeze", lengths, self.constant([1])))

    def mask(self, values: str, lengths: str, axes: Sequence[int], time_axis: int) -> str:
        """Zero what lies beyond each utterance; `axes` are where the mask is unsqueezed."""
        inside = self.add("Cast", self.within(lengths, self.size(values, time_axis)), to=1)
        return self.add("Mul", values, self.add("Unsqueeze", inside, self.constant(axes)))

    def ceil_divide(self, lengths: str, stride: int) -> str:
        """Return ceil(lengths / stride)."""
        if stride == 1:
            return lengths
        raised = self.add("Add", lengths, self.constant(stride - 1))
        return self.add("Div", raised, self.constant(stride))

    def linear(self, linear: nn.Linear, values: str) -> str:
        """Return what a linear layer makes of the last axis."""
        values = self.add("MatMul", values, self.constant(linear.weight.T))
        if linear.bias is None:
            return values
        return self.add("Add", values, self.constant(linear.bias))

    def layer_norm(self, norm: nn.LayerNorm | None, frames: str) -> str:
        """Return frames (batch, frames, dims) normalised, or as they are, if there is no norm."""
        if norm is None:
            return frames
        scale, bias = self.constant(norm.weight), self.constant(norm.bias)
        return self.add("LayerNormalization", frames, scale, bias, axis=-1, epsilon=norm.eps)

    def scan(
        self, step: Callable[[Graph, str, Sequence[str]], str], first: str, over: Sequence[str]
    ) -> str:
        """Return a value after as many steps as the arrays of `over` are long.

        `step` writes one: it takes a graph, the value and each array's slice, and returns the
        value's next. Its constants are kept with all others.
        """
        body = Graph()
        body.prefix, body.constants = f"{self.prefix}/step", self.constants
        value, slices = (
            f"{body.prefix}/value",
            [f"{body.prefix}/slice{n}" for n in range(len(over))],
        )
        after = step(body, value, slices)
        names = value, *slices
        proto = helper.make_graph(
            body.nodes,
            body.prefix,
            [helper.make_empty_tensor_value_info(name) for name in names],
            [helper.make_empty_tensor_value_info(after)],
        )
        return self.add("Scan", first, *over, body=proto, num_scan_inputs=len(over))

    def model(self) -> onnx.ModelProto:
        """Return the whole as a checked model."""
        proto = helper.make_graph(
            self.nodes, "speechseq", self.inputs, self.outputs, self.constants
        )
        model = helper.make_model(
            proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="speechseq"
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model
