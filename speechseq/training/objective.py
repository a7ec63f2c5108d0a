"""What a batch costs: its loss, with all that a recipe puts into it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from speechseq.recipe import Recipe
from speechseq.training.augment import Mixture, mix_up, mixed_share, spec_augment
from speechseq.training.data import Batch
from speechseq.training.encoder import Learnt, SpeechNetwork
from speechseq.training.features import Features, within
from speechseq.training.loss import (
    Sums,
    adjusted,
    blended,
    divergence,
    loss_sums,
    presence_loss,
    two_view_sums,
)
from speechseq.training.phones import Spoken

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the network computes in, by the name recipes give it; weights and loss stay fp32."""


def computed_in(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return what the network computes in: a CPU without bf16 instructions computes in fp32.

    PyTorch would emulate them, several times slower, and has no bf16 LSTM there.
    """
    wanted = PRECISIONS[recipe.training.precision]
    emulated = device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.float32 if wanted == torch.bfloat16 and emulated else wanted


class FromFeatures(nn.Module):
    """A network from its features on; what gradients are taken through.

    With `middle` that holds what the head makes of the layer half-way.
    """

    def __init__(self, network: SpeechNetwork, *, middle: bool):
        super().__init__()
        self.network = network
        self.middle = middle

    def forward(self, frames: Tensor, lengths: Tensor) -> Learnt:
        return self.network.to_learn_from(frames, lengths, middle=self.middle)


def from_features(network: SpeechNetwork, recipe: Recipe) -> FromFeatures:
    """Return what a recipe's training takes gradients through."""
    return FromFeatures(network, middle=recipe.training.intermediate > 0)


@dataclass(frozen=True)
class Objective:
    """What training makes small.

    A `teacher` hears what the network hears, without masks. `shares` are the classes' in training,
    where the loss is to be adjusted to them; `spoken` is how the labels sound, if that is learnt.
    """

    recipe: Recipe
    device: torch.device
    features: Features
    teacher: SpeechNetwork | None = None
    shares: Tensor | None = None
    spoken: Spoken | None = None

    def sums(self, network: nn.Module, batch: Batch, step: int) -> Sums:
        """Return what a batch costs in one step; chance follows from its number."""
        recipe, settings = self.recipe, self.recipe.training
        batch = replace(
            batch, log_mels=self._send(batch.log_mels), lengths=self._send(batch.lengths)
        )
        features, lengths, mixture = self._heard(self.features, batch, step)
        views = 2 if settings.consistency else 1
        frames = torch.cat(
            [self._masked(features, lengths, batch, view, step) for view in range(views)]
        )
        precision = computed_in(recipe, self.device)
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            learnt: Learnt = network(frames, lengths.repeat(views))
        labels, label_lengths = self._send(batch.labels), self._send(batch.label_lengths)
        said = labels
        if self.spoken is not None:
            labels = self.spoken.told_as[labels]
        log_probs, sizes = learnt.log_probs, learnt.lengths
        if self.shares is not None:
            log_probs = adjusted(log_probs, self.shares, settings.logit_adjustment)
        measure = two_view_sums if views == 2 else loss_sums
        sums = measure(log_probs, sizes, labels, label_lengths)
        if mixture:
            partners = measure(log_probs, sizes, labels[mixture.partners], label_lengths)
            sums = blended(sums, partners, mixture.share)
        if learnt.middle is not None:
            half_way = measure(learnt.middle, sizes, labels, label_lengths)
            sums = blended(sums, half_way, settings.intermediate)
        if learnt.presence is not None:
            missed = presence_loss(learnt.presence, labels, label_lengths)
            sums = replace(sums, missed=missed / views)
        if self.spoken is not None and learnt.sounds is not None:
            missed = self.spoken.loss(*learnt.sounds, said)
            sums = replace(sums, missed=missed / views)
        if self.teacher is None:
            return sums
        with torch.inference_mode():
            # The teacher's own mean and deviation: those of its training are not the network's.
            heard, lengths, _ = self._heard(self.teacher.features, batch, step)
            target, _ = self.teacher.from_features(heard, lengths)
        target = target.clone().repeat(views, 1, 1)
        return replace(sums, untaught=divergence(target, learnt.log_probs, sizes) / views)

    def _heard(
        self, features: Features, batch: Batch, step: int
    ) -> tuple[Tensor, Tensor, Mixture | None]:
        """Return the features and lengths of a batch as a network hears it, mixed or not."""
        log_mels, lengths = batch.log_mels, batch.lengths
        if not self.recipe.augment.mixup:
            return features.finish(log_mels, lengths), lengths, None
        mixture = self._mixture(features, log_mels, lengths, batch, step)
        return mixture.features, mixture.lengths, mixture

    def _mixture(
        self, features: Features, log_mels: Tensor, lengths: Tensor, batch: Batch, step: int
    ) -> Mixture:
        """Return a batch's features, mixed: the share is the step's, partners are the piece's."""
        recipe = self.recipe
        silence = float(np.log(recipe.features.floor))
        log_mels = torch.where(
            within(lengths, log_mels.shape[1]).unsqueeze(2), log_mels, log_mels.new_tensor(silence)
        )
        share = mixed_share(
            recipe.augment.mixup, np.random.default_rng([recipe.seed, step, 0, 0, 0])
        )
        chance = np.random.default_rng([recipe.seed, step, batch.rows[0], 0])
        return mix_up(features.finish(log_mels, lengths), lengths, share, chance)

    def _masked(
        self, features: Tensor, lengths: Tensor, batch: Batch, view: int, step: int
    ) -> Tensor:
        """Return a batch's features with the masks of one view of them."""
        augment, recipe = self.recipe.augment, self.recipe
        return spec_augment(
            features,
            lengths,
            augment,
            mask_frames=recipe.features.hops(augment.time_mask_seconds),
            chances=[
                np.random.default_rng([recipe.seed, step, row, 1 + view]) for row in batch.rows
            ],
        )

    def _send(self, tensor: Tensor) -> Tensor:
        """Move a batch's tensor to the device, without waiting for it where it can be so."""
        if self.device.type == "cuda":
            tensor = tensor.contiguous().pin_memory()  # rows that share memory cannot be pinned
        return tensor.to(self.device, non_blocking=True)
