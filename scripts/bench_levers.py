"""Measure what makes a training step fast or slow, one lever at a time, side by side.

    python scripts/bench_levers.py [--rounds 20] [--threads 1] [--hidden 128] [--compile]

Each row is a step (forward, CTC loss, backward) of a two-layer BiLSTM-CTC on the same synthetic
batch of 32 utterances of 1 to 3 s, with one thing changed. All rows take turns, round by round, so
that whatever else the machine does falls on all alike; a row's figure is its median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from command_line import natural, parser_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechseq.recipe import FeatureSettings, ModelSettings, Recipe
from speechseq.training import encoder
from speechseq.training.encoder import SpeechNetwork
from speechseq.training.features import within
from speechseq.training.front_ends import FRONT_ENDS
from speechseq.training.loss import loss_of

TOKENS = 30
BATCH = 32
Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Packed(nn.Module):
    """The same network with PyTorch's bidirectional LSTM on packed sequences."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        model = recipe.model
        self.front_end = FRONT_ENDS[model.front_end](recipe.features.mels, model)
        self.lstm = nn.LSTM(
            self.front_end.dims, model.hidden, model.layers, batch_first=True, bidirectional=True
        )
        self.output = nn.Linear(2 * model.hidden, TOKENS)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames, lengths = self.front_end(frames, lengths)
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.output(states).log_softmax(dim=-1), lengths


def reverse_by_gather(frames: Tensor, lengths: Tensor) -> Tensor:
    """Reverse within lengths by autograd's own gather, whose gradient adds up row by row."""
    size = frames.shape[1]
    steps = torch.arange(size)
    turned = torch.where(within(lengths, size), lengths.unsqueeze(1) - 1 - steps, steps)
    return frames.gather(1, turned.unsqueeze(2).expand_as(frames))


class _Gathering(AbstractContextManager[None]):
    """Let the encoder reverse by gather meanwhile."""

    def __enter__(self) -> None:
        self.ours = encoder.reverse_within
        encoder.reverse_within = reverse_by_gather

    def __exit__(self, *error: object) -> None:
        encoder.reverse_within = self.ours


class _WithoutOneDNN(AbstractContextManager[None]):
    """Keep PyTorch off its fused path on the CPU meanwhile."""

    def __enter__(self) -> None:
        torch._C._set_mkldnn_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_mkldnn_enabled(True)


def batch(seconds: tuple[float, float], features: FeatureSettings) -> tuple[Tensor, ...]:
    """Return random features of utterances between two lengths, their lengths, and labels."""
    torch.manual_seed(0)
    shortest, longest = seconds
    lengths = torch.linspace(100 * shortest, 100 * longest, BATCH).long()
    labels = torch.randint(1, TOKENS, (BATCH * 10,))
    frames = torch.randn(BATCH, int(lengths.max()), features.mels)
    return frames, lengths, labels, torch.full((BATCH,), 10)


def step(network: Network, data: tuple[Tensor, ...]) -> Callable[[], None]:
    """Return a training step of a network on a batch, without the optimiser."""
    frames, lengths, labels, label_lengths = data

    def run() -> None:
        loss = loss_of(*network(frames, lengths), labels, label_lengths)
        loss.backward()  # type: ignore[no-untyped-call]

    return run


def levers(hidden: int, compiled: bool) -> dict[str, tuple[Callable[[], None], Any]]:
    """Return the rows: a step each, and the context it runs in."""
    features = FeatureSettings(mels=40)
    model = ModelSettings(front_end="conv", time_stride=2, hidden=hidden, layer_norm=True)
    recipe = Recipe(features=features, model=model)
    bucketed, mixed = batch((1.8, 2.2), features), batch((1.0, 3.0), features)

    def made(**changes: Any) -> Network:
        changed = replace(recipe, model=replace(model, **changes))
        return SpeechNetwork(changed, TOKENS).train().from_features

    ours = made()
    rows: dict[str, tuple[Callable[[], None], Any]] = {
        "as it is": (step(ours, bucketed), nullcontext),
        "without length buckets (1 to 3 s in a batch)": (step(ours, mixed), nullcontext),
        "packed sequences, built-in BiLSTM": (step(Packed(recipe), bucketed), nullcontext),
        "reversal by autograd's gather": (step(ours, bucketed), _Gathering),
        "oneDNN off": (step(ours, bucketed), _WithoutOneDNN),
        "bf16 autocast": (step(ours, bucketed), partial(torch.autocast, "cpu", torch.bfloat16)),
        "33 frames a second": (step(made(time_stride=3), bucketed), nullcontext),
        "25 frames a second": (step(made(time_stride=4), bucketed), nullcontext),
        "stacked frames in place of convolutions": (
            step(made(front_end="stack"), bucketed),
            nullcontext,
        ),
        "without layer norm": (step(made(layer_norm=False), bucketed), nullcontext),
        "one direction": (step(made(bidirectional=False), bucketed), nullcontext),
        "GRU": (step(made(cell="gru"), bucketed), nullcontext),
        "RNN": (step(made(cell="rnn"), bucketed), nullcontext),
    }
    if compiled:
        network = SpeechNetwork(recipe, TOKENS).train()
        rows["torch.compile of front end and head"] = (
            step(_compiled(network), bucketed),
            nullcontext,
        )
    return rows


def _compiled(network: SpeechNetwork) -> Network:
    network.encoder.front_end.compile(dynamic=True)
    network.head.compile(dynamic=True)
    return network.from_features


def measure(rows: dict[str, tuple[Callable[[], None], Any]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each row; rows take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 2):
        for name, (run, context) in rows.items():
            with context():
                began = time.perf_counter()
                run()
                if number > 1:  # the first rounds warm up
                    seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Measure and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=natural, default=20)
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--hidden", type=natural, default=128)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    found = measure(levers(arguments.hidden, arguments.compile), arguments.rounds)
    base = found["as it is"]
    print(f"{'lever':48} {'ms a step':>10} {'ratio':>6}")
    for name, milliseconds in found.items():
        print(f"{name:48} {milliseconds:10.1f} {milliseconds / base:6.2f}")


if __name__ == "__main__":
    main()
