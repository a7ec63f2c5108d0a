"""A network that goes on from frame to frame: what a stream's graph takes in and gives back.

Which of the front end's frames go on, and the states the recurrent layers begin with, are inputs
with a default (all frames; zeros); the states they end with are outputs. Who names none of these
meets the plain graph, so that one file is batch and stream.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from onnx import TensorProto

from speechseq.model_file import END_FRAME, FIRST_FRAME, NEXT_STATES, STATES
from speechseq.training.encoder import RecurrentLayer, SpeechNetwork
from speechseq.training.nodes import Graph


def carries_state(network: SpeechNetwork) -> bool:
    """Tell whether a stream's frames can go through a network one after the other."""
    return (
        network.head.frame_by_frame
        and network.features.base.frame_by_frame
        and network.features.cmvn.kind != "utterance"
        and all(cast(RecurrentLayer, x).backward_cell is None for x in network.encoder.layers)
    )


class Carry:
    """What goes from one stretch of a stream into the next: each layer's h, and c of an LSTM.

    States are (layers, streams, hidden); one stream's go out to a whole batch.
    """

    def __init__(self, graph: Graph, network: SpeechNetwork):
        cell = cast(RecurrentLayer, network.encoder.layers[0]).forward_cell
        self._graph = graph
        self._layers, self._hidden = len(network.encoder.layers), cell.hidden_size
        self._names = dict(zip(STATES, NEXT_STATES, strict=True))
        if cell.mode != "LSTM":
            del self._names[STATES[1]]
        zeros = np.zeros((self._layers, 1, self._hidden), np.float32)
        for name in self._names:
            graph.optional_input(name, zeros, [self._layers, "streams", self._hidden])

    def stretch(self, frames: str, lengths: str) -> tuple[str, str]:
        """Keep frames [FIRST_FRAME, END_FRAME) of (batch, frames, dims), and their lengths.

        Those before have gone on already, and are there for the context's sake; those behind lack
        what follows them.
        """
        graph = self._graph
        first = graph.optional_input(FIRST_FRAME, np.array([0]), [1])
        end = graph.optional_input(END_FRAME, np.array([np.iinfo(np.int64).max]), [1])
        kept = graph.add("Slice", frames, first, end, graph.constant([1]))
        return kept, graph.add("Sub", graph.add("Min", lengths, end), first)

    def begins(self, layer: int, frames: str) -> list[str]:
        """Return the states (1, batch, hidden) a layer of (frames, batch, dims) begins with."""
        graph, one = self._graph, self._graph.constant([1])
        batch = graph.add("Unsqueeze", graph.size(frames, 1), graph.constant([0]))
        shape = graph.add("Concat", one, batch, one, axis=0)
        place = graph.constant([layer]), graph.constant([layer + 1]), graph.constant([0])
        return [graph.add("Expand", graph.add("Slice", x, *place), shape) for x in self._names]

    def ends(self, layer: int) -> list[str]:
        """Name the states that a layer ends with."""
        return [f"{name}/{layer}" for name in self._names.values()]

    def give_out(self) -> None:
        """Make outputs of what all layers end with."""
        layers = [self.ends(layer) for layer in range(self._layers)]
        for name, parts in zip(self._names.values(), zip(*layers, strict=True), strict=True):
            value = self._graph.add("Concat", *parts, axis=0)
            shape = self._layers, "batch", self._hidden
            self._graph.output(value, name, TensorProto.FLOAT, shape)
