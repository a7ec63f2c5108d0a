"""What stands behind the recurrent layers, in PyTorch and as nodes of ONNX."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from speechseq.recipe import ModelSettings
from speechseq.training.features import within
from speechseq.training.nodes import Graph


class Output(nn.Module):
    """The textbook's y_t = g(W h_t + V x_t + c) with g the log-softmax; V only with `skip_input`.

    Source: Goodfellow et al., Deep Learning, section 10.2, with the optional skip from the input.
    """

    def __init__(self, dims: int, input_dims: int, tokens: int, settings: ModelSettings):
        super().__init__()
        self.state = nn.Linear(dims * settings.attention_heads, tokens)
        self.input = nn.Linear(input_dims, tokens, bias=False) if settings.skip_input else None

    def forward(self, states: Tensor, inputs: Tensor) -> Tensor:
        scores = self.state(states)
        if self.input is not None:
            scores = scores + self.input(inputs)
        return cast(Tensor, scores).log_softmax(dim=-1)

    def write(self, graph: Graph, states: str, inputs: str) -> str:
        scores = graph.linear(self.state, states)
        if self.input is not None:
            scores = graph.add("Add", scores, graph.linear(self.input, inputs))
        return graph.add("LogSoftmax", scores, axis=-1)


class CTCHead(nn.Module):
    """Log-probabilities of every token at every frame: (batch, frames, tokens) + lengths.

    Every head takes states and inputs of the recurrent layers (batch, frames, dims) and lengths, in
    PyTorch (`forward`) and as nodes of a graph (`write`).
    """

    frame_by_frame = True
    """Whether a frame's answer needs no other frame's state."""

    def __init__(self, dims: int, input_dims: int, tokens: int, settings: ModelSettings):
        super().__init__()
        self.output = Output(dims, input_dims, tokens, settings)

    def forward(self, states: Tensor, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.output(states, inputs), lengths

    def write(self, graph: Graph, states: str, inputs: str, lengths: str) -> tuple[str, str]:
        return self.output.write(graph, states, inputs), lengths


class ClassifyHead(nn.Module):
    """Log-probabilities of the classes of a whole utterance: (batch, 1, classes) + lengths of 1.

    `pooling`: `last` is the classic classifier's last state (of the backward direction: the one
    at the first frame), `mean` the mean over the utterance's frames, `attention` a learned
    weighting of them, or several, side by side.

    Source: Lin et al. 2017, A Structured Self-attentive Sentence Embedding (attention).
    """

    frame_by_frame = False

    def __init__(self, dims: int, input_dims: int, tokens: int, settings: ModelSettings):
        super().__init__()
        self.pooling = settings.pooling
        both = settings.bidirectional and not settings.projection
        self.dims, self.forward_dims = dims, dims // 2 if both else dims
        heads = settings.attention_heads
        self.attention = nn.Linear(dims, heads) if settings.pooling == "attention" else None
        self.output = Output(dims, input_dims, tokens, settings)

    def weights(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Return each frame's share (batch, frames, heads) in a mean over the utterance."""
        if self.attention is None:
            return even_shares(states, lengths)
        outside = ~within(lengths, states.shape[1])
        scores = self.attention(states).masked_fill(outside.unsqueeze(2), float("-inf"))
        return cast(Tensor, scores).softmax(dim=1)

    def forward(self, states: Tensor, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.pooling == "last":
            state, entry = self._last(states, lengths), _at_last(inputs, lengths)
        else:
            weights = self.weights(states, lengths).transpose(1, 2)
            state = (weights @ states).flatten(1)
            entry = (weights @ inputs).mean(1)
        return self.output(state, entry).unsqueeze(1), torch.ones_like(lengths)

    def _last(self, states: Tensor, lengths: Tensor) -> Tensor:
        last = _at_last(states, lengths)
        return torch.cat([last[:, : self.forward_dims], states[:, 0, self.forward_dims :]], dim=1)

    def write(self, graph: Graph, states: str, inputs: str, lengths: str) -> tuple[str, str]:
        if self.pooling == "last":
            position = graph.add("Sub", lengths, graph.constant(1))
            inputs, last = _write_at(graph, inputs, position), _write_at(graph, states, position)
            first = _write_at(graph, states, graph.add("Sub", lengths, lengths))
            states = self._write_halves(graph, last, first)
        else:
            weights = self._write_weights(graph, states, lengths)
            states = graph.add("MatMul", weights, states)
            states = graph.add("Reshape", states, graph.constant([0, 1, -1]))
            inputs = graph.add("MatMul", weights, inputs)
            inputs = graph.add("ReduceMean", inputs, axes=[1], keepdims=1)
        one = graph.add("Div", lengths, lengths)
        return self.output.write(graph, states, inputs), one

    def _write_weights(self, graph: Graph, states: str, lengths: str) -> str:
        """Write `weights`, (batch, heads, frames)."""
        inside = graph.within(lengths, graph.size(states, 1))
        inside = graph.add("Unsqueeze", inside, graph.constant([2]))
        if self.attention is not None:
            scores = graph.linear(self.attention, states)
            scores = graph.add("Where", inside, scores, graph.constant(-1e30))
            weights = graph.add("Softmax", scores, axis=1)
        else:
            count = graph.add("Unsqueeze", graph.add("Cast", lengths, to=1), graph.constant([1, 2]))
            weights = graph.add("Div", graph.add("Cast", inside, to=1), count)
        return graph.add("Transpose", weights, perm=[0, 2, 1])

    def _write_halves(self, graph: Graph, last: str, first: str) -> str:
        """Join the forward half of the last state with the backward half of the first."""
        if self.forward_dims == self.dims:
            return last
        axis, middle = graph.constant([2]), graph.constant([self.forward_dims])
        forward = graph.add("Slice", last, graph.constant([0]), middle, axis)
        backward = graph.add("Slice", first, middle, graph.constant([self.dims]), axis)
        return graph.add("Concat", forward, backward, axis=2)


def even_shares(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the shares (batch, frames, 1) of a plain mean over each utterance's own frames."""
    return (within(lengths, states.shape[1]).to(states) / lengths.unsqueeze(1)).unsqueeze(2)


def _at_last(frames: Tensor, lengths: Tensor) -> Tensor:
    rows = torch.arange(len(lengths), device=lengths.device)
    return frames[rows, lengths - 1]


def _write_at(graph: Graph, frames: str, position: str) -> str:
    """Write each utterance's frame (batch, 1, dims) at its own position (batch,)."""
    index = graph.add("Unsqueeze", position, graph.constant([1]))
    frame = graph.add("GatherND", frames, index, batch_dims=1)
    return graph.add("Unsqueeze", frame, graph.constant([1]))


HEADS: dict[str, Any] = {"ctc": CTCHead, "classify": ClassifyHead}
"""Heads by name."""
