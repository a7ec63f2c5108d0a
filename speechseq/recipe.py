"""A recipe: every setting of a training, as frozen dataclasses.

They hold the only defaults there are; a recipe file (`recipe_file`) writes down what differs, and
`recipe_checks` says what a value may be. The resolved recipe travels in the run folder and inside
the model file.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any

Count = typing.TypeVar("Count", bound=Any)

DELTA_WINDOW = 5
"""Frames under the regression that gives a delta."""


def shortened(frames: Count, stride: int) -> Count:
    """Return how many frames a stride leaves: one for each `stride` begun."""
    return -(-frames // stride)


MANIFEST_SETTINGS = ("others", "same_words", "unknown_words")
"""Settings of `DataSettings` that name corpora, or manifests by their places."""


@dataclass(frozen=True)
class DataSettings:
    """Which speech to learn from, and how its texts become tokens.

    With `corpus: jsonl`, `csv` or `folder`, `root` is the user's file or folder. Where the corpus
    has no validation split of its own, one is taken out of the training split: all utterances of
    `validation_speakers` speakers, or else `validation_fraction` of the utterances; 0 trains on
    all of them, a final run that needs `training.weights: last`. `words`,
    `unknown`, `silence` and `held_out_speaker` are for the corpora that name them as options.
    With `corpus: shards` training streams, and holds `buffer_utterances` at a time to mix them.
    `others` are corpora, or manifests (files ending in .jsonl), whose training speech is to be
    recognised as none of the words: as the class `_unknown_`, or as no text; so many of their clips
    as make `others_share` of all. No utterance that holds one of `without_words` is learnt from or
    chosen by: they are to be measured as words never heard. `same_words` are corpora or manifests
    whose training speech is learnt from, too, where it is of the same classes, or of no other
    words. `unknown_words` are corpora or manifests of single words: each that is none of the
    classes is learnt by itself, and told as `_unknown_`; the others are same words.
    `pronunciations` is a file of classes' and unknown words' phones (`model.phones`).
    `clips_per_class` takes no more than so many training clips of each text; 0 takes all. `noise`
    is a folder of recordings to mix in, beside the corpus' own where it has any.
    """

    corpus: str = "folder"
    root: str = ""
    train_split: str = "train"
    validation_split: str = "validation"
    validation_speakers: int = 0
    validation_fraction: float = 0.1
    test_split: str = "test"
    tokens: str = "characters"
    words: tuple[str, ...] = ()
    unknown: bool = False
    silence: bool = False
    held_out_speaker: str = ""
    cache_ram_gigabytes: float = 4.0
    buffer_utterances: int = 2000
    others: tuple[str, ...] = ()
    others_share: float = 0.2
    without_words: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    pronunciations: str = ""
    same_words: tuple[str, ...] = ()
    clips_per_class: int = 0
    noise: str = ""


@dataclass(frozen=True)
class FeatureSettings:
    """Waveform to frames. Frequencies in hertz, durations in seconds.

    `kind` is log_mel, mfcc or pcen (mel energies over their own past). `fft_samples` 0 stands for
    the next power of two of the window. `edge_seconds` of silence are put before and after each
    utterance, so that sounds cut at the edge still have frames around them. `cmvn` is none,
    utterance or global.
    """

    kind: str = "log_mel"
    rate: int = 16000
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    fft_samples: int = 0
    mels: int = 40
    low_hz: float = 20.0
    high_hz: float = 0.0
    mel_scale: str = "htk"
    floor: float = 1e-6
    coefficients: int = 13
    deltas: int = 0
    cmvn: str = "global"
    edge_seconds: float = 0.0

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_seconds * self.rate)

    @property
    def window_samples(self) -> int:
        """Samples under one window."""
        return round(self.window_seconds * self.rate)

    @property
    def edge_samples(self) -> int:
        """Samples of silence put before and after each utterance."""
        return round(self.edge_seconds * self.rate)

    @property
    def edge_frames(self) -> int:
        """Frames whose centres lie in the silence at one end."""
        return self.edge_samples // self.hop_samples

    @property
    def transform_samples(self) -> int:
        """Points of the Fourier transform."""
        return self.fft_samples or 2 ** math.ceil(math.log2(max(self.window_samples, 2)))

    @property
    def top_hz(self) -> float:
        """Upper edge of the filter bank: `high_hz`, or half the rate."""
        return self.high_hz or self.rate / 2

    def frames(self, samples: Count) -> Count:
        """Return how many frames `samples` give: one centred on every hop, both edges included.

        Counts are integers, or arrays or tensors of them.
        """
        return (samples + 2 * self.edge_samples) // self.hop_samples + 1

    def hops(self, seconds: float) -> int:
        """Return how many frames are nearest to a stretch of so many seconds."""
        return round(seconds / self.hop_seconds)


@dataclass(frozen=True)
class ModelSettings:
    """The network between features and log-probabilities.

    `front_end` is none, stack (of `time_stride` frames) or conv (two 3 x 3 convolutions that
    halve the frequencies each and shorten time `time_stride` times, and `conv_blocks` residual
    pairs of convolutions). `cell` is rnn, gru or lstm. `projection` 0 means none. `head` is ctc or
    classify; `pooling` (last, mean, attention) is for classify, and attention may have several
    heads. `skip_input` adds the textbook's V x_t to the output. With `phones` a classifier tells
    sounds apart, too, and that many times the log-probability of its own is added to each class.
    """

    front_end: str = "none"
    time_stride: int = 1
    channels: int = 32
    conv_blocks: int = 0
    cell: str = "lstm"
    layers: int = 2
    hidden: int = 128
    bidirectional: bool = True
    projection: int = 0
    layer_norm: bool = False
    residual: bool = False
    dropout: float = 0.0
    head: str = "ctc"
    pooling: str = "last"
    attention_heads: int = 1
    skip_input: bool = False
    phones: float = 0.0

    @property
    def conv_strides(self) -> tuple[int, int]:
        """Strides in time of the front end's two convolutions; four is halved twice."""
        return (2, 2) if self.time_stride == 4 else (self.time_stride, 1)

    def output_frames(self, frames: Count) -> Count:
        """Return how many frames leave the front end: one for each `time_stride` begun.

        Counts are integers, or arrays or tensors of them.
        """
        return shortened(frames, self.time_stride)


@dataclass(frozen=True)
class AugmentSettings:
    """What training does to its own utterances, and to no others.

    `speeds` are playback factors, one cached copy each. `vocal_tract` is the largest share by
    which a speaker's formants are moved up or down, the tempo staying as it is. `join` strings up
    to so many utterances together (CTC only) with gaps of up to `join_gap_seconds`, or overlaps of
    up to `join_overlap_seconds`. Half of the ends lose up to `cut_seconds` of their sound, a tenth
    of the clip at most. Up to `margin_seconds` of silence are put before and behind.
    `reverberation_probability` of the utterances sound as in a room, whose reverberation time is
    up to `reverberation_seconds`. Each utterance comes through a microphone of its own: a filter
    whose gains over six bands, smooth between them, have a standard deviation of `filter_db`.
    `splice` adds so many examples for each utterance that are none of the words: the beginning of
    one and the end of another, of words whose first and last letters differ (classes with
    `_unknown_` only). `mixup` is the alpha of the
    Beta distribution from which comes how much of another clip each one holds, its class likewise
    (classes only); 0 mixes none. `shift_seconds` moves an utterance either way inside its length.
    `noise_probability` of the utterances get noise at a level between `noise_low_db` and
    `noise_high_db` signal-to-noise ratio: made noise, and the corpus' own recordings where it has
    any. So many of the made ones as `eventful_noises` are knocks, voiced calls and bursts over a
    faint hiss. `noise_alone` adds so many examples for each example that are noise and no text (CTC
    only). `gain_db` is the largest change of level either way. Masks are SpecAugment's; their width
    in time is seconds.
    """

    speeds: tuple[float, ...] = (1.0,)
    vocal_tract: float = 0.0
    join: int = 1
    join_gap_seconds: float = 0.3
    join_overlap_seconds: float = 0.0
    splice: float = 0.0
    mixup: float = 0.0
    cut_seconds: float = 0.0
    margin_seconds: float = 0.0
    reverberation_probability: float = 0.0
    reverberation_seconds: float = 0.6
    filter_db: float = 0.0
    shift_seconds: float = 0.0
    gain_db: float = 0.0
    noise_probability: float = 0.0
    noise_low_db: float = 5.0
    noise_high_db: float = 30.0
    noise_alone: float = 0.0
    eventful_noises: int = 0
    frequency_masks: int = 0
    frequency_mask_width: int = 8
    time_masks: int = 0
    time_mask_seconds: float = 0.1


@dataclass(frozen=True)
class TrainingSettings:
    """How the weights are found.

    `batch` is the utterances of a step over all processes; each process takes its share in
    `accumulate` pieces, so that neither changes what is learnt, dropout's draws aside. `precision`
    is fp32, bf16 or fp16; `tf32` lets GPUs round the factors of fp32 products. After
    `stop_after_skips` steps in a row without a finite gradient training stops. `schedule` is
    one_cycle or cosine. `ema` 0 keeps no averaged weights. The `weights` kept are the best by
    validation, or the last. `patience` is the number of validations without a better score after
    which training stops; 0 never stops early. `consistency` is the weight of agreement between two
    views of each utterance, masked differently; 0 makes but one. `intermediate` is the share of
    the loss that falls on the layer half-way, read through the same head (CTC only). `auxiliary`
    is the weight of a second task: beside CTC, to tell from the mean of all states which tokens are
    in the text; beside classes, to spell their phones (CTC). `logit_adjustment` is for classes of
    unequal number: in the loss alone, so many times the log of its share in training is added to
    each class' score, so that the network itself favours none. `base` is a model (bundled name,
    file or run) to start from: its features, front end and recurrent layers; the head is new,
    unless the tokens are the same, and learns alone for `frozen_epochs`. `teacher` is a larger
    model of the same features and tokens, whose log-probabilities are learnt with
    `teacher_weight`, the texts with the rest.
    """

    epochs: int = 30
    batch: int = 32
    accumulate: int = 1
    precision: str = "fp32"
    tf32: bool = False
    stop_after_skips: int = 10
    learning_rate: float = 0.002
    weight_decay: float = 0.01
    schedule: str = "one_cycle"
    warm_up: float = 0.15
    clip_norm: float = 5.0
    label_smoothing: float = 0.0
    consistency: float = 0.0
    intermediate: float = 0.0
    auxiliary: float = 0.0
    logit_adjustment: float = 0.0
    base: str = ""
    frozen_epochs: int = 0
    teacher: str = ""
    teacher_weight: float = 0.5
    ema: float = 0.998
    weights: str = "best"
    patience: int = 0
    validate_every: int = 1
    keep_checkpoints: int = 2


@dataclass(frozen=True)
class DecodingSettings:
    """How log-probabilities become text; of classes the best one is, where it is sure enough.

    `decoder` greedy takes the best token of every frame; lexicon, for characters, spells the words
    of the training texts and no others. Words of less than `least_confidence` are left out, and so
    is a class of less, or is `_unknown_`, where the model has that. A classifier hears
    `clip_seconds` of a stream at a time, which is about as long as the clips it was trained on, and
    says a word from `spotting_confidence` on, the mean probability over some looks.
    """

    decoder: str = "greedy"
    least_confidence: float = 0.0
    clip_seconds: float = 1.0
    spotting_confidence: float = 0.6

    @property
    def freely(self) -> bool:
        """Whether tokens are spelt as they are heard; any other decoder finds whole words."""
        return self.decoder == "greedy"


@dataclass(frozen=True)
class Recipe:
    """Everything a training depends on, beside the data itself."""

    name: str = "recipe"
    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)

    @property
    def step_samples(self) -> int:
        """Samples from one frame of log-probabilities to the next."""
        return self.features.hop_samples * self.model.time_stride

    def to_dict(self) -> dict[str, Any]:
        """Return the whole recipe as plain JSON values."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
