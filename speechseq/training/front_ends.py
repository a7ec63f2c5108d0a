"""What stands between features and the recurrent layers, in PyTorch and as nodes of ONNX."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from speechseq.recipe import ModelSettings, shortened
from speechseq.training.features import within
from speechseq.training.nodes import Graph


class NoFrontEnd(nn.Module):
    """Features as they are.

    Every front end turns features (batch, frames, dims) and their lengths into inputs of the
    recurrent layers and theirs, in PyTorch (`forward`) and as nodes of a graph (`write`).
    """

    def __init__(self, dims: int, settings: ModelSettings):
        super().__init__()
        self.dims = dims

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return frames, lengths

    def write(self, graph: Graph, frames: str, lengths: str) -> tuple[str, str]:
        return frames, lengths


class Stack(nn.Module):
    """`time_stride` neighbouring frames side by side: (batch, frames / stride, dims · stride).

    The last group is filled up with zeros.
    """

    def __init__(self, dims: int, settings: ModelSettings):
        super().__init__()
        self.stride = settings.time_stride
        self.dims = dims * self.stride

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames * within(lengths, frames.shape[1]).unsqueeze(2)
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % self.stride))
        stacked = frames.reshape(frames.shape[0], -1, self.dims)
        return stacked, shortened(lengths, self.stride)

    def write(self, graph: Graph, frames: str, lengths: str) -> tuple[str, str]:
        frames = graph.mask(frames, lengths, [2], 1)
        stride = graph.constant(self.stride)
        over = graph.add("Mod", graph.size(frames, 1), stride)
        missing = graph.add("Mod", graph.add("Sub", stride, over), stride)
        missing = graph.add("Unsqueeze", missing, graph.constant([0]))
        pads = graph.add("Concat", graph.constant([0] * 4), missing, graph.constant([0]), axis=0)
        shape = graph.constant([0, -1, self.dims])
        stacked = graph.add("Reshape", graph.add("Pad", frames, pads), shape)
        return stacked, graph.ceil_divide(lengths, self.stride)


def as_frames(maps: Tensor) -> Tensor:
    """Put a frame's channels side by side: (batch, channels, frames, mels) -> (…, frames, dims)."""
    return maps.transpose(1, 2).flatten(2)


class ConvolutionBlock(nn.Module):
    """Two 3 x 3 convolutions beside a path that leaves maps (batch, channels, frames, mels) alone.

    Each frame is normalised before them, as layer norm needs no other frame: padding and a stream
    are heard as ever.

    Source: He et al. 2016, Identity mappings in deep residual networks.
    """

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, inside: Tensor) -> Tensor:
        channels = maps.shape[1]
        inner = self.norm(as_frames(maps)).unflatten(2, (channels, -1)).transpose(1, 2)
        inner = self.first(inner * inside).relu()
        return maps + cast(Tensor, self.second(inner * inside))

    def write(self, graph: Graph, maps: str, lengths: str) -> str:
        (dims,), channels = self.norm.normalized_shape, self.first.in_channels
        frames = graph.layer_norm(self.norm, _write_as_frames(graph, maps, dims))
        inner = graph.add("Reshape", frames, graph.constant([0, 0, channels, dims // channels]))
        inner = graph.add("Transpose", inner, perm=[0, 2, 1, 3])
        inner = graph.add("Relu", _write_convolution(graph, self.first, inner, lengths, [1, 1]))
        return graph.add(
            "Add", maps, _write_convolution(graph, self.second, inner, lengths, [1, 1])
        )


class Convolutions(nn.Module):
    """Two 3 x 3 convolutions with ReLU, each halving the frequencies; time shortens by the stride.

    ``(batch, frames, dims) -> (batch, ceil(frames / stride), channels · ceil(dims / 4))``.
    Frames beyond an utterance's end are zeroed before each convolution, like its own padding.
    `conv_blocks` more pairs of convolutions follow, which keep the shape.
    """

    def __init__(self, dims: int, settings: ModelSettings):
        super().__init__()
        channels, self.strides = settings.channels, settings.conv_strides
        self.first = nn.Conv2d(1, channels, 3, stride=(self.strides[0], 2), padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=(self.strides[1], 2), padding=1)
        self.dims = channels * -(-dims // 4)
        self.blocks = nn.ModuleList(
            ConvolutionBlock(channels, self.dims) for _ in range(settings.conv_blocks)
        )
        self.norm = nn.LayerNorm(self.dims) if settings.layer_norm else None

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        maps = frames.unsqueeze(1)
        for convolution, stride in zip((self.first, self.second), self.strides, strict=True):
            maps = convolution(maps * _inside(lengths, maps)).relu()
            lengths = shortened(lengths, stride)
        for block in self.blocks:
            maps = block(maps, _inside(lengths, maps))
        frames = as_frames(maps)
        return (self.norm(frames) if self.norm else frames), lengths

    def write(self, graph: Graph, frames: str, lengths: str) -> tuple[str, str]:
        maps = graph.add("Unsqueeze", frames, graph.constant([1]))
        for convolution, stride in zip((self.first, self.second), self.strides, strict=True):
            maps = _write_convolution(graph, convolution, maps, lengths, [stride, 2])
            maps = graph.add("Relu", maps)
            lengths = graph.ceil_divide(lengths, stride)
        for block in self.blocks:
            maps = cast(ConvolutionBlock, block).write(graph, maps, lengths)
        return graph.layer_norm(self.norm, _write_as_frames(graph, maps, self.dims)), lengths


def _inside(lengths: Tensor, maps: Tensor) -> Tensor:
    """Return 1 (batch, 1, frames, 1) inside each utterance, 0 beyond."""
    return within(lengths, maps.shape[2]).unsqueeze(1).unsqueeze(3)


def _write_convolution(
    graph: Graph, convolution: nn.Conv2d, maps: str, lengths: str, strides: list[int]
) -> str:
    """Convolve maps (batch, channels, frames, mels), zeroed beyond each utterance's end."""
    maps = graph.mask(maps, lengths, [1, 3], 2)
    weight, bias = (graph.constant(value) for value in convolution.parameters())
    return graph.add("Conv", maps, weight, bias, strides=strides, pads=[1, 1, 1, 1])


def _write_as_frames(graph: Graph, maps: str, dims: int) -> str:
    frames = graph.add("Transpose", maps, perm=[0, 2, 1, 3])
    return graph.add("Reshape", frames, graph.constant([0, 0, dims]))


FRONT_ENDS: dict[str, Any] = {
    "none": NoFrontEnd,
    "stack": Stack,
    "conv": Convolutions,
}
"""Front ends by name."""
