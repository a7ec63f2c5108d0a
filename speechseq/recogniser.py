"""From samples to text: a network, whoever runs it, a vocabulary and a recipe's settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from speechseq.audio import Source, read_audio, read_blocks
from speechseq.decoding import Hypothesis, decoder_for
from speechseq.errors import AudioError, ModelError, SpeechseqError
from speechseq.long_audio import (
    LONG_SECONDS,
    Counted,
    NoiseFloor,
    Progress,
    Window,
    batches,
    certain_blanks,
    whole_or_blocks,
    windows,
)
from speechseq.model_file import DEFAULT_MODEL, INPUTS, OUTPUTS, ModelFile, read_model
from speechseq.recipe import Recipe
from speechseq.segments import Confidence, Segment, Segmenter
from speechseq.tokens import UNKNOWN, Vocabulary

WINDOWS_AT_ONCE = 4
"""Windows in one run of the network."""

BATCH_SECONDS = 8.0
"""Short recordings in one run of the network; for small networks more is slower, not faster."""

CLIPS_SECONDS = 600.0
"""Short recordings kept to be sorted by length."""

FREE_DECODER = "greedy"
"""The decoder that spells whatever it hears; any other finds whole words."""

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

    def decoding_with(
        self, decoder: str | None = None, least_confidence: float | None = None
    ) -> Recogniser:
        """Return this recogniser with another decoder, by its name, or another least confidence.

        Raises:
            UsageError: there is no such decoder.
            DataError: the model's vocabulary lacks what it needs.
        """
        own = self.recipe.decoding
        least = own.least_confidence if least_confidence is None else least_confidence
        changed = replace(own, decoder=decoder or own.decoder, least_confidence=least)
        return Recogniser(self.network, self.vocabulary, replace(self.recipe, decoding=changed))

    @property
    def rate(self) -> int:
        """Samples per second the network takes."""
        return self.recipe.features.rate

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame of log-probabilities to the next."""
        return self.recipe.features.hop_samples * self.recipe.model.time_stride / self.rate

    def transcribe(
        self,
        source: Source | np.ndarray,
        *,
        skip_silence: bool = False,
        progress: Progress | None = None,
    ) -> Recognition:
        """Recognise an audio file (a path, its bytes, a binary stream) or samples at `rate`.

        What is longer than LONG_SECONDS is heard in windows: see `transcribe_blocks`, and for the
        two options, too. A classifier hears everything as a whole, and at most MAX_SECONDS.

        Raises:
            AudioError: it is not usable audio.
        """
        read = self._read(source)
        if isinstance(read, np.ndarray):
            return self.transcribe_batch([read])[0]
        return self._transcribe_long(read, skip_silence, progress)

    def transcribe_many(
        self, sources: Sequence[Source], *, skip_silence: bool = False
    ) -> list[Recognition | SpeechseqError]:
        """Recognise files in batches by length; in place of a failed one's result is its error."""
        found: dict[int, Recognition | SpeechseqError] = {}
        clips: dict[int, np.ndarray] = {}
        held = 0
        for number, source in enumerate(sources):
            try:
                read = self._read(source)
                if isinstance(read, np.ndarray):
                    clips[number] = read
                    held += len(read)
                else:
                    found[number] = self._transcribe_long(read, skip_silence)
            except SpeechseqError as error:
                found[number] = error
            if held > CLIPS_SECONDS * self.rate:
                found |= self._transcribe_clips(clips)
                clips, held = {}, 0
        found |= self._transcribe_clips(clips)
        return [found[number] for number in range(len(sources))]

    def transcribe_blocks(
        self,
        blocks: Iterable[np.ndarray],
        *,
        skip_silence: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Recognition]:
        """Recognise mono samples that come in blocks (samples,) at `rate`, in bounded memory.

        Yields segments with their words' times from the start, and their own durations. Together
        they are what the whole would give, but for a model with features.cmvn utterance: it
        normalises each window by itself. With `skip_silence`, windows in which nothing stands out
        of the noise are not heard. `progress` is told the seconds taken in so far.

        Raises:
            AudioError: there is no sample, or a block is not one-dimensional.
            ModelError: the model is a classifier.
        """
        taken = Counted(blocks, self.rate, progress)
        for segment in self._segments(taken, skip_silence):
            words = self._words(segment.hypothesis, taken.seconds)
            yield Recognition(
                text=_text(words),
                words=words,
                confidence=segment.hypothesis.confidence,
                duration=(segment.last - segment.first) * self.frame_seconds,
            )

    def log_probs(
        self, pieces: Iterable[Window], *, floor: NoiseFloor | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the log-probabilities (frames, tokens) of each window's own frames.

        Windows that `floor` covers do not go through the network.
        """
        for batch in batches(pieces, WINDOWS_AT_ONCE):
            heard = [n for n, w in enumerate(batch) if not (floor and floor.covers(w.samples))]
            rows = self.network(*pad([batch[n].samples for n in heard]))[0] if heard else ()
            found = dict(zip(heard, rows, strict=True))
            for number, window in enumerate(batch):
                if number in found:
                    yield found[number][window.first : window.last]
                else:
                    yield certain_blanks(window.frames, len(self.vocabulary))

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

    def _read(self, source: Source | np.ndarray) -> np.ndarray | Iterator[np.ndarray]:
        """Return all samples (samples,) of a short recording, and blocks of a long one."""
        most = round(LONG_SECONDS * self.rate)
        if isinstance(source, np.ndarray):
            short = source.ndim != 1 or len(source) <= most or not self.vocabulary.is_sequence
            return source if short else (source[n : n + most] for n in range(0, len(source), most))
        if not self.vocabulary.is_sequence:
            return read_audio(source, self.rate)
        return whole_or_blocks(read_blocks(source, self.rate), most)

    def _transcribe_clips(
        self, clips: Mapping[int, np.ndarray]
    ) -> dict[int, Recognition | SpeechseqError]:
        """Recognise numbered short recordings; an error is that of the clip that has it alone."""
        found: dict[int, Recognition | SpeechseqError] = {}
        sizes = {number: len(clip) for number, clip in clips.items()}
        for batch in by_length(sizes, round(BATCH_SECONDS * self.rate)):
            try:
                together = self.transcribe_batch([clips[number] for number in batch])
                found |= zip(batch, together, strict=True)
            except SpeechseqError as error:
                if len(batch) == 1:
                    found[batch[0]] = error
                for number in batch if len(batch) > 1 else ():
                    found |= self._transcribe_clips({number: clips[number]})
        return found

    def _transcribe_long(
        self,
        blocks: Iterable[np.ndarray],
        skip_silence: bool,
        progress: Progress | None = None,
    ) -> Recognition:
        taken = Counted(blocks, self.rate, progress)
        words: list[Word] = []
        confidence = Confidence()
        for segment in self._segments(taken, skip_silence):
            words += self._words(segment.hypothesis, taken.seconds)
            confidence.add(segment)
        return Recognition(_text(words), tuple(words), confidence.value, taken.seconds)

    def _segments(self, taken: Counted, skip_silence: bool) -> Iterator[Segment]:
        if not self.vocabulary.is_sequence:
            raise ModelError("blocks: a classifier hears wholes; give it each one by itself")
        floor = NoiseFloor(self.rate) if skip_silence else None
        freely = self.recipe.decoding.decoder == FREE_DECODER
        segments = Segmenter(self.vocabulary, self._decode, self.frame_seconds, spells=freely)
        return segments(self.log_probs(windows(taken, self.recipe), floor=floor))

    def _recognition(self, log_probs: np.ndarray, duration: float) -> Recognition:
        hypothesis = self._decode(log_probs)
        sequence = self.vocabulary.is_sequence
        words = (self._words if sequence else self._class)(hypothesis, duration)
        return Recognition(_text(words), words, hypothesis.confidence, duration)

    def _class(self, hypothesis: Hypothesis, duration: float) -> tuple[Word, ...]:
        """Return the class as the only word."""
        label = self.vocabulary.tokens[hypothesis.tokens[0]]
        sure = hypothesis.confidence >= self.recipe.decoding.least_confidence
        if not sure and UNKNOWN in self.vocabulary.tokens:
            label = UNKNOWN
        return (Word(label, 0.0, duration, hypothesis.confidence),)

    def _words(self, hypothesis: Hypothesis, duration: float) -> tuple[Word, ...]:
        """Gather the tokens between spaces (each token, where tokens are words) into sure words."""
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
        found = (self._word(hypothesis, group, duration) for group in words if group)
        return tuple(w for w in found if w.confidence >= self.recipe.decoding.least_confidence)

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


def _text(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)


def by_length(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Yield the numbers of clips, the longest first, in batches of at most `most` padded samples.

    A longer clip is a batch of its own.
    """
    order = sorted(sizes, key=sizes.__getitem__, reverse=True)
    begun = 0
    while begun < len(order):
        size = max(most // sizes[order[begun]], 1)
        yield order[begun : begun + size]
        begun += size


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
