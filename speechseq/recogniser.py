"""From samples to text: a network, whoever runs it, a vocabulary and a recipe's settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from speechseq.audio import Source, read_audio
from speechseq.decoding import Hypothesis, decoder_for
from speechseq.errors import AudioError, ModelError
from speechseq.model_file import DEFAULT_MODEL, INPUTS, OUTPUTS, ModelFile, read_model
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary

Network = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``samples (batch, samples), lengths -> log_probs (batch, frames, tokens), lengths``, arrays."""


@dataclass(frozen=True)
class Word:
    """A recognised word; `start` and `end` are seconds, `confidence` is a probability."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Recognition:
    """What was recognised in `duration` seconds of audio."""

    text: str
    words: tuple[Word, ...]
    confidence: float
    duration: float


class Recogniser:
    """Turns audio into text; it never asks which library runs its network."""

    def __init__(self, network: Network, vocabulary: Vocabulary, recipe: Recipe):
        self.network = network
        self.vocabulary = vocabulary
        self.recipe = recipe
        self._decode = decoder_for(vocabulary, recipe.decoding.decoder)

    def decoding_with(self, decoder: str) -> Recogniser:
        """Return this recogniser with another decoder, by its name in `DECODERS`.

        Raises:
            UsageError: there is no such decoder.
            DataError: the model's vocabulary lacks what it needs.
        """
        recipe = replace(self.recipe, decoding=replace(self.recipe.decoding, decoder=decoder))
        return Recogniser(self.network, self.vocabulary, recipe)

    @property
    def rate(self) -> int:
        """Samples per second the network takes."""
        return self.recipe.features.rate

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame of log-probabilities to the next."""
        return self.recipe.features.hop_samples * self.recipe.model.time_stride / self.rate

    def transcribe(self, source: Source | np.ndarray) -> Recognition:
        """Recognise an audio file (a path, its bytes, a binary stream) or samples at `rate`.

        Raises:
            AudioError: it is not usable audio.
        """
        samples = source if isinstance(source, np.ndarray) else read_audio(source, self.rate)
        return self.transcribe_batch([samples])[0]

    def transcribe_batch(self, clips: Sequence[np.ndarray]) -> list[Recognition]:
        """Recognise clips of mono float32 samples (samples,) at `rate`, in one run of the network.

        Raises:
            AudioError: a clip is empty or not one-dimensional.
        """
        if not clips:
            return []
        log_probs, frames = self.network(*pad(clips))
        return [
            self._recognition(log_probs[row, :size], len(clip) / self.rate)
            for row, (clip, size) in enumerate(zip(clips, frames, strict=True))
        ]

    def _recognition(self, log_probs: np.ndarray, duration: float) -> Recognition:
        hypothesis = self._decode(log_probs)
        if self.vocabulary.is_sequence:
            words = self._words(hypothesis, duration)
        else:
            label = self.vocabulary.tokens[hypothesis.tokens[0]]
            words = (Word(label, 0.0, duration, hypothesis.confidence),)
        return Recognition(
            text=self.vocabulary.decode(hypothesis.tokens),
            words=words,
            confidence=hypothesis.confidence,
            duration=duration,
        )

    def _words(self, hypothesis: Hypothesis, duration: float) -> tuple[Word, ...]:
        """Gather the tokens between spaces (each token, where tokens are words) into words."""
        words = []
        group: list[int] = []
        by_character = self.vocabulary.kind == "characters"
        for position, token in enumerate(hypothesis.tokens):
            if by_character and self.vocabulary.tokens[token] == " ":
                words.append(group)
                group = []
            elif by_character:
                group.append(position)
            else:
                words.append([position])
        words.append(group)
        return tuple(self._word(hypothesis, group, duration) for group in words if group)

    def _word(self, hypothesis: Hypothesis, group: list[int], duration: float) -> Word:
        first, last = group[0], group[-1]
        confidences = [hypothesis.token_confidences[position] for position in group]
        return Word(
            text=self.vocabulary.decode([hypothesis.tokens[position] for position in group]),
            start=self._seconds(hypothesis.starts[first], duration),
            end=self._seconds(hypothesis.ends[last], duration),
            confidence=float(np.exp(np.mean(np.log(np.maximum(confidences, 1e-30))))),
        )

    def _seconds(self, frame: int, duration: float) -> float:
        """Return when a frame begins, in the utterance without the silence put around it."""
        seconds = frame * self.frame_seconds - self.recipe.features.edge_seconds
        return round(min(max(seconds, 0.0), duration), 3)


def pad(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack clips into (batch, samples) float32, zeros behind the short ones, and their lengths.

    Raises:
        AudioError: a clip is empty or not one-dimensional.
    """
    for number, clip in enumerate(clips):
        if clip.ndim != 1 or not clip.size:
            raise AudioError(f"clip {number}: shape {clip.shape}; mono samples (samples,) go here")
    lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
    samples = np.zeros((len(clips), lengths.max()), dtype=np.float32)
    for row, clip in enumerate(clips):
        samples[row, : len(clip)] = clip
    return samples, lengths


def onnx_network(model: ModelFile) -> Network:
    """Return the network of a model file, run by onnxruntime."""

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            log_probs, frames = model.session.run(
                list(OUTPUTS), dict(zip(INPUTS, (samples, lengths), strict=True))
            )
        except Exception as error:  # onnxruntime's exceptions share no public class
            reason = str(error).split("\n")[0][:200]
            raise ModelError(f"{model.path}: cannot be run ({reason}); export it again") from None
        return log_probs, frames

    return run


def from_model_file(model: ModelFile) -> Recogniser:
    """Return the recogniser of an open model file."""
    return Recogniser(onnx_network(model), model.vocabulary, model.recipe)


def load(
    name: str | os.PathLike[str] = DEFAULT_MODEL, *, device: str = "cpu", threads: int = 1
) -> Recogniser:
    """Return the recogniser that a bundled name, a model file or a run folder stands for.

    Raises:
        ModelError: there is no such model, it is damaged, or the device is not there.
    """
    return from_model_file(read_model(name, device=device, threads=threads))
