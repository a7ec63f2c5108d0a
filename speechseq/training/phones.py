"""Phones beside classes: the same states read a second time, sound by sound.

A classifier takes a word it never heard for the class that is nearest to it. Which sounds were said
it can be taught apart (CTC over the phones of all its training words), and a class whose own sounds
were not said then loses. That is keyword verification by a phone recogniser, with the sum over all
alignments in place of the best one.

Source: Graves et al. 2006 (the forward variables of CTC, section 4.1); Rahim et al. 1997,
Discriminative utterance verification for connected digits recognition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from speechseq.tokens import BLANK, Vocabulary
from speechseq.training.features import within
from speechseq.training.nodes import Graph

NEVER = -1e30
"""Log-probability of what cannot be; unlike infinity it can be subtracted from itself."""

LEAST_EVIDENCE = -20.0
"""What a class' sounds count at least, in log-probability: noise may hide one altogether."""


class Phones(nn.Module):
    """Log-probabilities of sounds (batch, frames, 1 + sounds), and what they say of the classes.

    A class' evidence is `weight` times the log-probability of its own sounds, one after the other,
    however they lie in time; classes whose sounds are not known, and silence, have none.
    """

    states: Tensor
    enters: Tensor
    ends: Tensor
    weights: Tensor

    def __init__(self, dims: int, vocabulary: Vocabulary, weight: float):
        super().__init__()
        self.output = nn.Linear(dims, 1 + len(vocabulary.sounds))
        spelt = [said or () for said in vocabulary.sounds_of[: len(vocabulary)]]
        states, enters, ends = _lattice(spelt)
        self.register_buffer("states", states, persistent=False)
        self.register_buffer("enters", enters, persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        has_sounds = torch.tensor([float(bool(said)) for said in spelt])
        self.register_buffer("weights", weight * has_sounds, persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the log-probabilities of the sounds of states (batch, frames, dims)."""
        return cast(Tensor, self.output(states).log_softmax(dim=2))

    def weigh(self, log_probs: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
        """Return log-probabilities (batch, 1, classes) with the evidence of states in them."""
        return (log_probs + self.evidence(self(states), lengths).unsqueeze(1)).log_softmax(dim=2)

    def evidence(self, sounds: Tensor, lengths: Tensor) -> Tensor:
        """Return what log-probabilities of sounds say of each class: (batch, classes)."""
        emitted = sounds.transpose(0, 1)[:, :, self.states]  # frames, batch, classes, states
        inside = within(lengths, sounds.shape[1]).T
        paths = emitted.new_full(emitted.shape[1:], NEVER)
        paths[:, :, 0] = 0.0
        for now, runs in zip(emitted, inside, strict=True):
            before = nn.functional.pad(paths, (2, 0), value=NEVER)
            entering = torch.stack(
                [paths, before[:, :, 1:-1], before[:, :, :-2] + self.enters], dim=3
            )
            paths = torch.where(runs[:, None, None], entering.logsumexp(3) + now, paths)
        found = (paths + self.ends).logsumexp(2)
        return self.weights * found.clamp(min=LEAST_EVIDENCE)

    def write(self, graph: Graph, log_probs: str, states: str, lengths: str) -> str:
        """Write `weigh` into a graph."""
        sounds = graph.add("LogSoftmax", graph.linear(self.output, states), axis=-1)
        classes, size = self.states.shape
        emitted = graph.add("Gather", sounds, graph.constant(self.states.flatten()), axis=2)
        emitted = graph.add("Transpose", emitted, perm=[1, 0, 2])
        emitted = graph.add("Reshape", emitted, graph.constant([0, 0, classes, size]))
        inside = graph.within(lengths, graph.size(states, 1))
        inside = graph.add("Transpose", inside, perm=[1, 0])
        inside = graph.add("Unsqueeze", inside, graph.constant([2, 3]))
        first = torch.full((1, classes, size), NEVER)
        first[:, :, 0] = 0.0
        rows = graph.add("Unsqueeze", graph.size(states, 0), graph.constant([0]))
        shape = graph.add("Concat", rows, graph.constant([classes, size]), axis=0)
        begin = graph.add("Expand", graph.constant(first), shape)
        paths = graph.scan(self._write_step, begin, [emitted, inside])
        found = graph.add("Add", paths, graph.constant(self.ends))
        found = graph.add("ReduceLogSumExp", found, axes=[2], keepdims=0)
        found = graph.add("Max", found, graph.constant(LEAST_EVIDENCE))
        found = graph.add("Mul", found, graph.constant(self.weights))
        found = graph.add("Unsqueeze", found, graph.constant([1]))
        return graph.add("LogSoftmax", graph.add("Add", log_probs, found), axis=-1)

    def _write_step(self, graph: Graph, paths: str, now: Sequence[str]) -> str:
        """Write one frame of `evidence`."""
        emitted, runs = now
        pads, never = graph.constant([0, 0, 2, 0, 0, 0]), graph.constant(NEVER)
        before = graph.add("Pad", paths, pads, never)
        size, axis = self.states.shape[1], graph.constant([2])

        def shifted(by: int) -> str:
            begin, end = graph.constant([2 - by]), graph.constant([2 - by + size])
            return graph.add("Slice", before, begin, end, axis)

        skipping = graph.add("Add", shifted(2), graph.constant(self.enters))
        entering = [
            graph.add("Unsqueeze", ways, graph.constant([3]))
            for ways in (paths, shifted(1), skipping)
        ]
        together = graph.add("Concat", *entering, axis=3)
        together = graph.add("ReduceLogSumExp", together, axes=[3], keepdims=0)
        return graph.add("Where", runs, graph.add("Add", together, emitted), paths)


@dataclass(frozen=True)
class Spoken:
    """How labels sound: each one's sounds as numbers, padded, how many, and whether it is known.

    `told_as` are the classes that the labels are told as.
    """

    sounds: Tensor
    sizes: Tensor
    is_known: Tensor
    told_as: Tensor

    @classmethod
    def of(cls, vocabulary: Vocabulary, device: torch.device) -> Spoken:
        """Return how a vocabulary's labels sound."""
        spelt = vocabulary.sounds_of
        sounds = nn.utils.rnn.pad_sequence(
            [torch.tensor(said or (), dtype=torch.int64) for said in spelt], batch_first=True
        )
        sizes = torch.tensor([len(said or ()) for said in spelt])
        known = torch.tensor([said is not None for said in spelt])
        told_as = torch.tensor(vocabulary.told_as)
        return cls(*(tensor.to(device) for tensor in (sounds, sizes, known, told_as)))

    def loss(self, log_probs: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Return the summed CTC loss of sounds (views · batch, frames, 1 + sounds) of labels.

        Each utterance weighs the same, as its class does; those too short for their sounds count 0.
        """
        labels = labels.repeat(len(log_probs) // len(labels))
        known = self.is_known[labels]
        if not known.any():
            return 0.0 * log_probs.sum()  # the weights take part in every step, as torchrun asks
        labels = labels[known]
        losses = nn.functional.ctc_loss(
            log_probs[known].float().transpose(0, 1),
            self.sounds[labels],
            lengths[known],
            self.sizes[labels],
            reduction="none",
            zero_infinity=True,
        )
        return (losses / self.sizes[labels].clamp(min=1)).sum()


def _lattice(spelt: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return each class' states (classes, states), and where paths may skip one and may end.

    The states are blank, sound, blank, ..., padded; the others are 0 where it may be, else NEVER.
    """
    size = 2 * max(map(len, spelt)) + 1
    states = torch.full((len(spelt), size), BLANK)
    enters = torch.full((len(spelt), size), NEVER)
    ends = torch.full((len(spelt), size), NEVER)
    for row, sounds in enumerate(spelt):
        for number, sound in enumerate(sounds):
            states[row, 2 * number + 1] = sound
            if number and sounds[number - 1] != sound:
                enters[row, 2 * number + 1] = 0.0
        ends[row, max(2 * len(sounds) - 1, 0) : 2 * len(sounds) + 1] = 0.0
    return states, enters, ends
