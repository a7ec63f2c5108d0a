"""The network: front end, stacked recurrent layers, head; waveform in, log-probabilities out.

Padding always comes last, for both directions: the backward cell runs on its input reversed
within each utterance's length. So every real frame is what it would be without padding, and the
recurrent cells run without packing, on the fast path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from speechseq.errors import ModelError, choose
from speechseq.model_file import AUXILIARY
from speechseq.recipe import ModelSettings, Recipe
from speechseq.recognition import Network
from speechseq.tokens import Vocabulary
from speechseq.training.features import Features, within
from speechseq.training.front_ends import FRONT_ENDS
from speechseq.training.heads import HEADS, even_shares
from speechseq.training.phones import Phones


class _Reverse(torch.autograd.Function):
    """Permute rows by an involution; its own inverse, hence its own gradient.

    Autograd's gather would add gradients up row by row (measured 1.5 times the whole step).
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return frames.flatten(0, 1).index_select(0, rows).view_as(frames)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient.flatten(0, 1).index_select(0, rows).view_as(gradient), None


def reverse_within(frames: Tensor, lengths: Tensor) -> Tensor:
    """Turn each utterance's own frames around, (batch, frames, dims); padding stays in place."""
    batch, size = frames.shape[:2]
    steps = torch.arange(size, device=frames.device)
    turned = torch.where(within(lengths, size), lengths.unsqueeze(1) - 1 - steps, steps)
    rows = (turned + torch.arange(batch, device=frames.device).unsqueeze(1) * size).flatten()
    return cast(Tensor, _Reverse.apply(frames, rows))


class RecurrentLayer(nn.Module):
    """One recurrent layer, one or two directions, with what the recipe puts behind it.

    ``(batch, frames, size) -> (batch, frames, dims)``; after the cell come, if asked for, a
    projection, the residual, layer norm. The cells' equations, with their sources, are tested
    against written-out references:

        rnn   h_t = tanh(W x_t + U h_{t-1} + b)                          Elman 1990
        lstm  C_t = f * C_{t-1} + i * g,  h_t = o * tanh(C_t)            Hochreiter 1997, Gers 2000
        gru   h_t = (1 - z) * n + z * h_{t-1}                            Cho et al. 2014
    """

    def __init__(self, size: int, settings: ModelSettings):
        super().__init__()
        cell = choose(CELLS, settings.cell, "model.cell")
        self.forward_cell = cell(size, settings.hidden, batch_first=True)
        self.backward_cell = (
            cell(size, settings.hidden, batch_first=True) if settings.bidirectional else None
        )
        self.dims = settings.hidden * (2 if settings.bidirectional else 1)
        self.projection = None
        if settings.projection:
            self.projection = nn.Linear(self.dims, settings.projection)
            self.dims = settings.projection
        self.residual = settings.residual and self.dims == size
        self.norm = nn.LayerNorm(self.dims) if settings.layer_norm else None

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        states = self.forward_cell(frames)[0]
        if self.backward_cell is not None:
            backward = self.backward_cell(reverse_within(frames, lengths))[0]
            states = torch.cat([states, reverse_within(backward, lengths)], dim=2)
        if self.projection is not None:
            states = self.projection(states)
        if self.residual:
            states = states + frames
        return self.norm(states) if self.norm is not None else states


class Encoder(nn.Module):
    """Front end and stacked recurrent layers: (batch, frames, dims) + lengths -> states + lengths.

    Also returns the front end's output, the textbook's x_t, for a head with `skip_input`. All
    layers' states are of one size.
    """

    def __init__(self, dims: int, settings: ModelSettings):
        super().__init__()
        self.front_end = choose(FRONT_ENDS, settings.front_end, "model.front_end")(dims, settings)
        self.layers = nn.ModuleList()
        self.dims: int = self.front_end.dims
        self.input_dims = self.dims
        for _ in range(settings.layers):
            layer = RecurrentLayer(self.dims, settings)
            self.layers.append(layer)
            self.dims = layer.dims
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, inputs, lengths = self.every_layer(frames, lengths)
        return states[-1], inputs, lengths

    def every_layer(self, frames: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return what `forward` does, with the states of every layer."""
        inputs, lengths = self.front_end(frames, lengths)
        states = [inputs]
        for layer in self.layers:
            states.append(self.dropout(layer(states[-1], lengths)))
        return states[1:], inputs, lengths


class Learnt(NamedTuple):
    """What a loss is taken of: the head's answer, and what only training asks for.

    `log_probs` is (batch, frames, scores), words apart each by itself, as is `middle`, what the
    head makes of the layer half-way; `presence` (batch, scores) are the logits of each token's
    being in the text at all; `sounds` are those of sounds (batch, frames, 1 + sounds), and lengths.
    """

    log_probs: Tensor
    lengths: Tensor
    middle: Tensor | None = None
    presence: Tensor | None = None
    sounds: tuple[Tensor, Tensor] | None = None


class SpeechNetwork(nn.Module):
    """The whole network of a recipe.

    ``samples (batch, samples), lengths (batch,) -> log_probs (batch, frames, tokens), lengths``.
    `tokens` are a vocabulary, or their number where each has one score of the head
    (`Vocabulary.told_as`) and no phones.
    """

    def __init__(self, recipe: Recipe, tokens: int | Vocabulary):
        super().__init__()
        self.tokens = tokens if isinstance(tokens, int) else len(tokens)
        self.told_as = tuple(range(self.tokens))
        if isinstance(tokens, Vocabulary) and not tokens.phones:
            self.told_as = tokens.told_as
        scores = len(self.told_as)
        self.features = Features(recipe.features)
        self.encoder = Encoder(self.features.dims, recipe.model)
        self.head = choose(HEADS, recipe.model.head, "model.head")(
            self.encoder.dims, self.encoder.input_dims, scores, recipe.model
        )
        self.phones, self.auxiliary = None, None
        if isinstance(tokens, Vocabulary) and tokens.phones:
            self.phones = Phones(self.encoder.dims, tokens, recipe.model.phones)
        elif recipe.training.auxiliary:
            self.auxiliary = nn.Linear(self.encoder.dims, scores)

    def from_features(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of features (batch, frames, dims)."""
        states, inputs, lengths = self.encoder(frames, lengths)
        log_probs, sizes = self.head(states, inputs, lengths)
        log_probs = told(log_probs, self.told_as)
        if self.phones is not None:
            log_probs = self.phones.weigh(log_probs, states, lengths)
        return log_probs, sizes

    def to_learn_from(self, frames: Tensor, lengths: Tensor, *, middle: bool = False) -> Learnt:
        """Return the head's answer, and all else that the recipe's loss is taken of.

        What sounds say of the classes is not in it: what was learnt of training words is too sure.

        Source: Lee and Watanabe 2021, Intermediate loss regularization for CTC.
        """
        states, inputs, lengths = self.encoder.every_layer(frames, lengths)
        log_probs, sizes = self.head(states[-1], inputs, lengths)
        half_way = self.head(states[len(states) // 2 - 1], inputs, lengths)[0] if middle else None
        presence = None
        if self.auxiliary is not None:
            shares = even_shares(states[-1], lengths).transpose(1, 2)
            presence = self.auxiliary((shares @ states[-1]).squeeze(1))
        sounds = None if self.phones is None else (self.phones(states[-1]), lengths)
        return Learnt(log_probs, sizes, half_way, presence, sounds)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_features(*self.features(samples, lengths))


def told(log_probs: Tensor, told_as: Sequence[int]) -> Tensor:
    """Add up the probabilities of scores that are told as one token: (batch, frames, tokens)."""
    tokens = len(set(told_as))
    if tokens == len(told_as):
        return log_probs
    place = told_as[-1]
    together = torch.cat([log_probs[:, :, place : place + 1], log_probs[:, :, tokens:]], dim=2)
    together = together.logsumexp(dim=2, keepdim=True)
    before, after = log_probs[:, :, :place], log_probs[:, :, place + 1 : tokens]
    return torch.cat([before, together, after], dim=2)


def parameters(network: nn.Module) -> int:
    """Count the trained numbers of a network, without those that only training uses."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not name.startswith(AUXILIARY)
    )


def choose_device(name: str) -> torch.device:
    """Return the device `name` stands for; auto takes cuda, then cpu (mps lacks CTC's loss).

    Raises:
        ModelError: the device is not there.
    """
    there = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    if not choose(there, name, "device"):
        raise ModelError(f"device {name}: PyTorch finds none here; use --device cpu or auto")
    return torch.device(name)


def load_network(weights: Path, recipe: Recipe, tokens: int | Vocabulary) -> SpeechNetwork:
    """Build a recipe's network and fill it with the weights of a safetensors file.

    Raises:
        ModelError: the file is missing, damaged or of another network.
    """
    network = SpeechNetwork(recipe, tokens)
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: cannot be read ({error}); train it again") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{weights}: not this recipe's weights ({reason})") from None
    return network.eval()


def torch_network(network: SpeechNetwork, device: torch.device) -> Network:
    """Wrap a PyTorch network as the array-to-array callable a `Recogniser` takes."""
    network = network.to(device).eval()

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            log_probs, frames = network(
                torch.from_numpy(samples).to(device), torch.from_numpy(lengths).to(device)
            )
        return log_probs.cpu().numpy(), frames.cpu().numpy()

    return run


CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
"""Recurrent cells by name."""
