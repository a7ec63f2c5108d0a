"""From samples to text: a network, whoever runs it, a vocabulary and a recipe's settings."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from speechseq.audio import read_audio, read_blocks
from speechseq.decoding import Hypothesis, decoder_for
from speechseq.errors import ModelError, SpeechseqError, UsageError
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
from speechseq.model_file import (
    DEFAULT_MODEL,
    ModelFile,
    read_model,
)
from speechseq.onnx_network import onnx_hear_on, onnx_network
from speechseq.padding import by_length, pad
from speechseq.recipe import Recipe
from speechseq.recognition import (
    Listener,
    Network,
    Recognition,
    Word,
    WordFinder,
    frame_seconds,
    text_of,
)
from speechseq.segments import Confidence, Segment, Segmenter
from speechseq.sound_files import Source
from speechseq.spotting import Spotter
from speechseq.stream_frames import LATENCY_MS, CarriedFrames, Frames, HearOn, frames_within
from speechseq.streaming import Settler, Stream
from speechseq.tokens import UNKNOWN, Vocabulary

WINDOWS_AT_ONCE = 4
"""Windows in one run of the network."""

BATCH_SECONDS = 8.0
"""Short recordings in one run of the network; for small networks more is slower, not faster."""

MILLISECONDS = 1000.0

MOST_LATENCY_MS = 60_000.0
"""Who can wait for longer waits for all, as `inf` says."""

CLIPS_SECONDS = 600.0
"""Short recordings kept to be sorted by length."""


class Recogniser:
    """Turns audio into text; it never asks which library runs its network.

    `hear_on` runs it from where it was, if it can go on from frame to frame.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: Vocabulary,
        recipe: Recipe,
        hear_on: HearOn | None = None,
    ):
        self.network = network
        self.vocabulary = vocabulary
        self.recipe = recipe
        self.hear_on = hear_on
        self._decode = decoder_for(vocabulary, recipe.decoding.decoder)
        self._words = WordFinder(vocabulary, recipe)

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
        spotting = own.spotting_confidence if least_confidence is None else least_confidence
        changed = replace(
            own,
            decoder=decoder or own.decoder,
            least_confidence=least,
            spotting_confidence=spotting,
        )
        recipe = replace(self.recipe, decoding=changed)
        return Recogniser(self.network, self.vocabulary, recipe, self.hear_on)

    @property
    def rate(self) -> int:
        """Samples per second the network takes."""
        return self.recipe.features.rate

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame of log-probabilities to the next."""
        return frame_seconds(self.recipe)

    @property
    def streams(self) -> bool:
        """Whether this model gives frames while somebody speaks: see `stream_frames`."""
        return self.vocabulary.is_sequence and self.recipe.features.cmvn != "utterance"

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
                text=text_of(words),
                words=words,
                confidence=segment.hypothesis.confidence,
                duration=(segment.last - segment.first) * self.frame_seconds,
            )

    def stream(self, *, latency_ms: float = LATENCY_MS) -> Listener:
        """Return what recognises mono samples at `rate` as they come.

        What it says is sure, and never changes; of the frames it is made of, each is sure at most
        `latency_ms` after it was spoken, for so much audio behind it a network of two directions
        may hear: the more, the fewer errors, and with `inf` it hears all and errs as `transcribe`.
        A network of one direction hears but what its front end needs (see `reach`), and gives the
        same frames as `transcribe`. A classifier spots its words among other sounds: it hears
        `decoding.clip_seconds` again and again, whatever the latency.

        Raises:
            UsageError: the latency is no time, or the model normalises whole utterances.
        """
        if not self.vocabulary.is_sequence:
            _check_latency(latency_ms)
            return Spotter(self._classify, self.vocabulary, self.recipe)
        frames = self.stream_frames(latency_ms=latency_ms)
        settler = Settler(
            self.vocabulary, self._decode, self.frame_seconds, freely=self.recipe.decoding.freely
        )
        return Stream(frames, settler, self._words, self.rate)

    def stream_frames(self, *, latency_ms: float = LATENCY_MS) -> Frames:
        """Return the frames of a stream, which are its log-probabilities.

        Raises:
            UsageError: as `stream`.
        """
        _check_latency(latency_ms)
        if not self.vocabulary.is_sequence:
            raise UsageError("stream: a classifier gives no frames; use stream or transcribe")
        if not self.streams:
            raise UsageError("stream: features.cmvn utterance needs the whole; use transcribe")
        if self.hear_on:
            return CarriedFrames(self.hear_on, self.recipe, len(self.vocabulary))
        return frames_within(
            self._hear, self.recipe, len(self.vocabulary), latency_ms / MILLISECONDS
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

    def _classify(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probabilities (clips, classes) of clips of equal length."""
        return np.exp(self.network(*pad(clips))[0][:, 0])

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        """Return the log-probabilities (frames, tokens) of samples (samples,), however many."""
        most = round(LONG_SECONDS * self.rate)
        if len(samples) <= most:
            return self.network(*pad([samples]))[0][0]
        blocks = (samples[begin : begin + most] for begin in range(0, len(samples), most))
        return np.concatenate(list(self.log_probs(windows(blocks, self.recipe))))

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
        return Recognition(text_of(words), tuple(words), confidence.value, taken.seconds)

    def _segments(self, taken: Counted, skip_silence: bool) -> Iterator[Segment]:
        if not self.vocabulary.is_sequence:
            raise ModelError("blocks: a classifier hears wholes; give it each one by itself")
        floor = NoiseFloor(self.rate) if skip_silence else None
        segments = Segmenter(
            self.vocabulary, self._decode, self.frame_seconds, spells=self.recipe.decoding.freely
        )
        return segments(self.log_probs(windows(taken, self.recipe), floor=floor))

    def _recognition(self, log_probs: np.ndarray, duration: float) -> Recognition:
        hypothesis = self._decode(log_probs)
        if self.vocabulary.is_sequence:
            words = self._words(hypothesis, duration)
            return Recognition(text_of(words), words, hypothesis.confidence, duration)
        return self._class(hypothesis, log_probs[0], duration)

    def _class(self, best: Hypothesis, log_probs: np.ndarray, duration: float) -> Recognition:
        """Return the class as the only word; none, or unknown, where it is not sure enough."""
        label, confidence = self.vocabulary.tokens[best.tokens[0]], best.confidence
        if confidence < self.recipe.decoding.least_confidence:
            if UNKNOWN not in self.vocabulary.tokens:
                return Recognition("", (), confidence, duration)
            label = UNKNOWN
            confidence = float(np.exp(log_probs[self.vocabulary.tokens.index(UNKNOWN)]))
        word = Word(label, 0.0, duration, confidence)
        return Recognition(text_of([word]), (word,), confidence, duration)


def _check_latency(latency_ms: float) -> None:
    if not (0 <= latency_ms <= MOST_LATENCY_MS or latency_ms == math.inf):
        raise UsageError(
            f"latency {latency_ms:g}: milliseconds, 0 to {MOST_LATENCY_MS:g} or inf, go here"
        )


def from_model_file(model: ModelFile) -> Recogniser:
    """Return the recogniser of an open model file."""
    return Recogniser(onnx_network(model), model.vocabulary, model.recipe, onnx_hear_on(model))


def load(
    name: str | os.PathLike[str] = DEFAULT_MODEL, *, device: str = "cpu", threads: int = 1
) -> Recogniser:
    """Return the recogniser that a bundled name, a model file or a run folder stands for.

    Raises:
        ModelError: there is no such model, it is damaged, or the device is not there.
    """
    return from_model_file(read_model(name, device=device, threads=threads))
