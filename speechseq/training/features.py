"""Waveforms to frames: log-mels, MFCCs, PCEN, deltas, and mean and variance normalisation.

Every module maps ``(batch, frames, dims)`` and integer lengths to the same, and what stands
beyond an utterance's length never changes a frame within it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import torch
import torchaudio
from torch import Tensor, nn

from speechseq.errors import UsageError, choose
from speechseq.recipe import DELTA_WINDOW, FeatureSettings
from speechseq.training.nodes import Graph

LEAST_DEVIATION = 0.1
"""Smallest standard deviation CMVN divides by, so that silence stays finite."""


def within(lengths: Tensor, size: int) -> Tensor:
    """Return a mask (batch, size), true where a position is inside its utterance."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


class LogMel(nn.Module):
    """Log-mel filter-bank energies, natural logarithm.

    ``(batch, samples) + lengths (batch,) -> (batch, frames, mels) + lengths``, with
    ``frames = settings.frames(samples)``: windows are centred on every hop, on zeros beyond the
    ends. Matches ``log(librosa.feature.melspectrogram(pad_mode="constant") + floor)``.

    Raises:
        UsageError: so many mels that some filters lie between two Fourier bins.
    """

    frame_by_frame = True
    """Whether a frame's features need no other frame's: in a stream, a past would have to go on."""

    def __init__(self, settings: FeatureSettings):
        super().__init__()
        self.settings = settings
        self.dims = settings.mels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said better below
            self.spectrogram = torchaudio.transforms.MelSpectrogram(
                sample_rate=settings.rate,
                n_fft=settings.transform_samples,
                win_length=settings.window_samples,
                hop_length=settings.hop_samples,
                f_min=settings.low_hz,
                f_max=settings.top_hz,
                n_mels=settings.mels,
                norm="slaney" if settings.mel_scale == "slaney" else None,
                mel_scale=settings.mel_scale,
                center=True,
                pad_mode="constant",
                power=2.0,
            )
        if not self.filters.any(dim=0).all():
            raise UsageError(
                f"features: {settings.mels} mels leave filters empty with "
                f"{settings.transform_samples} Fourier points; lower mels or raise fft_samples"
            )

    @property
    def filters(self) -> Tensor:
        """The filter bank (bins, mels)."""
        return cast(Tensor, self.spectrogram.mel_scale.fb)

    @property
    def window(self) -> Tensor:
        """The window (window_samples,)."""
        return cast(Tensor, self.spectrogram.spectrogram.window)

    def log_mels(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mels and their lengths."""
        edge = self.settings.edge_samples
        samples = samples.masked_fill(~within(lengths, samples.shape[1]), 0.0)
        power = self.spectrogram(nn.functional.pad(samples, (edge, edge)))
        log_mels = (power + self.settings.floor).log().transpose(1, 2)
        return log_mels, self.settings.frames(lengths)

    def from_log_mels(self, log_mels: Tensor) -> Tensor:
        """Return the features of log-mels: themselves."""
        return log_mels

    def write(self, graph: Graph, log_mels: str) -> str:
        """Write `from_log_mels` into a graph."""
        return log_mels

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_mels(samples, lengths)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: the orthonormal DCT-II of natural log-mels.

    ``(batch, samples) + lengths (batch,) -> (batch, frames, coefficients) + lengths``.

    Source: Davis and Mermelstein 1980.
    """

    frame_by_frame = True
    dct: Tensor

    def __init__(self, settings: FeatureSettings):
        super().__init__()
        self.log_mel = LogMel(settings)
        self.dims = settings.coefficients
        dct = torchaudio.functional.create_dct(settings.coefficients, settings.mels, norm="ortho")
        self.register_buffer("dct", dct, persistent=False)

    def log_mels(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mels (batch, frames, mels) the coefficients come from."""
        return self.log_mel.log_mels(samples, lengths)

    def from_log_mels(self, log_mels: Tensor) -> Tensor:
        """Return the coefficients (batch, frames, coefficients) of log-mels."""
        return log_mels @ self.dct

    def write(self, graph: Graph, log_mels: str) -> str:
        """Write `from_log_mels` into a graph."""
        return graph.add("MatMul", log_mels, graph.constant(self.dct))

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_mels, lengths = self.log_mels(samples, lengths)
        return self.from_log_mels(log_mels), lengths


class PCEN(nn.Module):
    """Per-channel energy normalisation: mel energies over their own smoothed past, compressed.

    ``(batch, samples) + lengths (batch,) -> (batch, frames, mels) + lengths``. The past begins as
    if the first frame had always been there. Constants are those of `librosa.pcen`; energies are
    floored as log-mels' are.

    Source: Wang et al. 2017, Trainable frontend for robust and far-field keyword spotting;
    constants: Lostanlen et al. 2019, Per-channel energy normalization: why and how.
    """

    frame_by_frame = False

    def __init__(self, settings: FeatureSettings):
        super().__init__()
        self.log_mel = LogMel(settings)
        self.dims = settings.mels
        self.smoothing = pcen_smoothing(settings)

    def log_mels(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mels (batch, frames, mels) the energies come from."""
        return self.log_mel.log_mels(samples, lengths)

    def from_log_mels(self, log_mels: Tensor) -> Tensor:
        """Return the normalised energies (batch, frames, mels) of log-mels."""
        energies = log_mels.exp()
        past = torchaudio.functional.lfilter(
            energies.transpose(1, 2),
            log_mels.new_tensor([1.0, self.smoothing - 1]),
            log_mels.new_tensor([self.smoothing, 0.0]),
            clamp=False,
        ).transpose(1, 2)
        # What is left of the first frame is added, not taken off beforehand: where all terms are
        # positive, nothing cancels in a quiet that follows a loud start.
        frames = torch.arange(1, energies.shape[1] + 1, device=energies.device)
        past = past + energies[:, :1] * (1 - self.smoothing) ** frames[:, None]
        normalised = (log_mels - PCEN_GAIN * past.log()).exp()
        return (normalised + PCEN_BIAS) ** PCEN_POWER - PCEN_BIAS**PCEN_POWER

    def write(self, graph: Graph, log_mels: str) -> str:
        """Write `from_log_mels` into a graph: the past is a recurrent layer of an affine cell."""
        energies = graph.add("Transpose", graph.add("Exp", log_mels), perm=[1, 0, 2])
        start = graph.constant([0]), graph.constant([1]), graph.constant([0])
        first = graph.add("Slice", energies, *start)
        shares = self.smoothing, 1 - self.smoothing
        newest, kept = (torch.eye(self.dims)[None] * share for share in shares)
        smoothed = graph.add(
            "RNN",
            energies,
            graph.constant(newest),
            graph.constant(kept),
            "",
            "",
            first,
            hidden_size=self.dims,
            activations=["Affine"],
            activation_alpha=[1.0],
            activation_beta=[0.0],
        )
        smoothed = graph.add("Squeeze", smoothed, graph.constant([1]))
        past = graph.add("Log", graph.add("Transpose", smoothed, perm=[1, 0, 2]))
        gains = graph.add("Mul", past, graph.constant(PCEN_GAIN))
        normalised = graph.add("Exp", graph.add("Sub", log_mels, gains))
        raised = graph.add("Add", normalised, graph.constant(PCEN_BIAS))
        compressed = graph.add("Pow", raised, graph.constant(PCEN_POWER))
        return graph.add("Sub", compressed, graph.constant(PCEN_BIAS**PCEN_POWER))

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_mels, lengths = self.log_mels(samples, lengths)
        return self.from_log_mels(log_mels), lengths


PCEN_GAIN, PCEN_BIAS, PCEN_POWER = 0.98, 2.0, 0.5
PCEN_SECONDS = 0.4
"""Time constant of the smoothed past."""


def pcen_smoothing(settings: FeatureSettings) -> float:
    """Return the weight of the newest frame in the smoothed past, as `librosa.pcen` has it."""
    hops = PCEN_SECONDS / settings.hop_seconds
    return (math.sqrt(1 + 4 * hops**2) - 1) / (2 * hops**2)


def add_deltas(frames: Tensor, lengths: Tensor, order: int) -> Tensor:
    """Append regression deltas up to `order`: (batch, frames, dims · (order + 1)).

    Each utterance's own last frame is repeated beyond its end, so padding does not leak in.

    Source: Young et al., The HTK Book, equation 5.16.
    """
    parts = [frames]
    for _ in range(order):
        parts.append(_delta(parts[-1], lengths))
    return torch.cat(parts, dim=2)


def delta_kernel() -> Tensor:
    """Return the regression weights (DELTA_WINDOW,) of a delta."""
    reach = DELTA_WINDOW // 2
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return steps / steps.square().sum()


def _delta(frames: Tensor, lengths: Tensor) -> Tensor:
    reach, size = DELTA_WINDOW // 2, frames.shape[1]
    positions = torch.arange(-reach, size + reach, device=frames.device)
    positions = positions.clamp(min=0).minimum(lengths.unsqueeze(1) - 1)
    extended = frames.gather(1, positions.unsqueeze(2).expand(-1, -1, frames.shape[2]))
    kernel = delta_kernel().to(frames)
    windows = extended.unfold(1, DELTA_WINDOW, 1)
    return windows @ kernel


def masked_statistics(frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return each utterance's mean and standard deviation (batch, 1, dims) over its own frames."""
    mask = within(lengths, frames.shape[1]).unsqueeze(2).to(frames)
    count = lengths.clamp(min=1).view(-1, 1, 1).to(frames)
    mean = (frames * mask).sum(1, keepdim=True) / count
    # The sum of many equal frames is rounded; in silence CMVN would blow up what that leaves.
    mean = mean + ((frames - mean) * mask).sum(1, keepdim=True) / count
    variance = ((frames - mean).square() * mask).sum(1, keepdim=True) / count
    return mean, variance.sqrt()


class CMVN(nn.Module):
    """Mean and variance normalisation: by each utterance's own frames, or by the training set's.

    ``(batch, frames, dims) + lengths -> (batch, frames, dims)``. `kind` is none, utterance or
    global; global statistics are buffers (dims,), set once by `fit`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str, dims: int):
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("deviation", torch.ones(dims))

    def fit(self, mean: Tensor, deviation: Tensor) -> None:
        """Take the training set's mean and standard deviation (dims,)."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=LEAST_DEVIATION))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "none":
            return frames
        if self.kind == "global":
            return (frames - self.mean) / self.deviation
        mean, deviation = masked_statistics(frames, lengths)
        return (frames - mean) / deviation.clamp(min=LEAST_DEVIATION)


class Features(nn.Module):
    """All a recipe's `features` section asks for, waveform to normalised frames.

    ``(batch, samples) + lengths (batch,) -> (batch, frames, dims) + lengths``. The two halves,
    `log_mels` (cached by training) and `finish`, are the same computation in two steps.
    """

    def __init__(self, settings: FeatureSettings):
        super().__init__()
        self.settings = settings
        self.base = choose(FEATURES, settings.kind, "features.kind")(settings)
        self.dims: int = self.base.dims * (settings.deltas + 1)
        self.cmvn = CMVN(settings.cmvn, self.dims)

    def log_mels(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-mels (batch, frames, mels) and their lengths."""
        return self.base.log_mels(samples, lengths)

    def raw(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        """Return the features of log-mels before normalisation."""
        frames = self.base.from_log_mels(log_mels)
        return add_deltas(frames, lengths, self.settings.deltas)

    def finish(self, log_mels: Tensor, lengths: Tensor) -> Tensor:
        """Return the normalised features of log-mels."""
        return self.cmvn(self.raw(log_mels, lengths), lengths)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_mels, lengths = self.log_mels(samples, lengths)
        return self.finish(log_mels, lengths), lengths


FEATURES: dict[str, Any] = {"log_mel": LogMel, "mfcc": MFCC, "pcen": PCEN}
"""Feature modules by name; each also has `log_mels`, `from_log_mels` and `write`."""
