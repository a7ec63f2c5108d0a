"""What a recipe's settings may be, alone and together, and recipes from plain values.

What is read from a file, of a user or inside a model, becomes a `Recipe` here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from speechseq.decoding import DECODERS
from speechseq.errors import UsageError, brief, nearest
from speechseq.recipe import Recipe

CHOICES: dict[str, tuple[str, ...]] = {
    "data.tokens": ("characters", "words", "classes"),
    "features.kind": ("log_mel", "mfcc", "pcen"),
    "features.mel_scale": ("htk", "slaney"),
    "features.cmvn": ("none", "utterance", "global"),
    "model.front_end": ("none", "stack", "conv"),
    "model.cell": ("rnn", "gru", "lstm"),
    "model.head": ("ctc", "classify"),
    "model.pooling": ("last", "mean", "attention"),
    "training.precision": ("fp32", "bf16", "fp16"),
    "training.weights": ("best", "last"),
    "training.schedule": ("one_cycle", "cosine"),
    "decoding.decoder": tuple(DECODERS),
}
"""The words a setting may be."""

BOUNDS: dict[str, tuple[float, float]] = {
    "data.validation_speakers": (0, 1_000_000),
    "data.validation_fraction": (0.0, 0.9),
    "data.cache_ram_gigabytes": (0.0, 1e6),
    "data.buffer_utterances": (1, 10_000_000),
    "data.others_share": (0.0, 0.9),
    "data.clips_per_class": (0, 10_000_000),
    "features.rate": (1000, 192_000),
    "features.window_seconds": (0.001, 1.0),
    "features.hop_seconds": (0.001, 1.0),
    "features.fft_samples": (0, 65536),
    "features.mels": (2, 512),
    "features.low_hz": (0.0, 96_000.0),
    "features.high_hz": (0.0, 96_000.0),
    "features.floor": (1e-12, 1.0),
    "features.coefficients": (1, 512),
    "features.deltas": (0, 2),
    "features.edge_seconds": (0.0, 10.0),
    "model.time_stride": (1, 8),
    "model.channels": (1, 4096),
    "model.conv_blocks": (0, 32),
    "model.layers": (1, 32),
    "model.hidden": (1, 8192),
    "model.projection": (0, 8192),
    "model.attention_heads": (1, 64),
    "model.dropout": (0.0, 0.95),
    "model.phones": (0.0, 10.0),
    "augment.vocal_tract": (0.0, 0.5),
    "augment.join": (1, 32),
    "augment.join_gap_seconds": (0.0, 10.0),
    "augment.join_overlap_seconds": (0.0, 1.0),
    "augment.splice": (0.0, 1.0),
    "augment.mixup": (0.0, 100.0),
    "augment.cut_seconds": (0.0, 1.0),
    "augment.margin_seconds": (0.0, 10.0),
    "augment.reverberation_probability": (0.0, 1.0),
    "augment.reverberation_seconds": (0.05, 10.0),
    "augment.filter_db": (0.0, 30.0),
    "augment.shift_seconds": (0.0, 10.0),
    "augment.gain_db": (0.0, 60.0),
    "augment.noise_probability": (0.0, 1.0),
    "augment.noise_low_db": (-40.0, 100.0),
    "augment.noise_high_db": (-40.0, 100.0),
    "augment.noise_alone": (0.0, 1.0),
    "augment.eventful_noises": (0, 1000),
    "augment.frequency_masks": (0, 32),
    "augment.frequency_mask_width": (1, 512),
    "augment.time_masks": (0, 32),
    "augment.time_mask_seconds": (0.0, 10.0),
    "training.epochs": (1, 100_000),
    "training.batch": (1, 65_536),
    "training.accumulate": (1, 65_536),
    "training.stop_after_skips": (1, 100_000),
    "training.learning_rate": (1e-9, 10.0),
    "training.weight_decay": (0.0, 10.0),
    "training.warm_up": (0.0, 0.9),
    "training.clip_norm": (1e-6, 1e6),
    "training.label_smoothing": (0.0, 0.9),
    "training.consistency": (0.0, 100.0),
    "training.intermediate": (0.0, 0.9),
    "training.auxiliary": (0.0, 100.0),
    "training.logit_adjustment": (0.0, 10.0),
    "training.frozen_epochs": (0, 100_000),
    "training.teacher_weight": (0.0, 1.0),
    "training.ema": (0.0, 0.99999),
    "training.patience": (0, 100_000),
    "training.validate_every": (1, 100_000),
    "training.keep_checkpoints": (1, 1000),
    "decoding.least_confidence": (0.0, 1.0),
    "decoding.clip_seconds": (0.2, 10.0),
    "decoding.spotting_confidence": (0.0, 1.0),
}
"""The least and the greatest value of each number."""


def recipe_from_dict(tree: Mapping[str, Any], where: str) -> Recipe:
    """Build a checked recipe from plain values, as read from YAML or a model file's JSON.

    Raises:
        UsageError: an unknown key (the nearest one is named), a value of the wrong type or range.
    """
    if not isinstance(tree, Mapping):
        raise UsageError(f"{where}: not a mapping; write 'section:' and its keys below it")
    recipe = _build(Recipe, tree, where, "")
    _check_together(recipe, where)
    return recipe


def _build(cls: type, tree: Mapping[str, Any], where: str, prefix: str) -> Any:
    kinds = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in kinds:
            raise UsageError(f"{where}: unknown key {brief(name)}{nearest(str(key), kinds)}")
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, Mapping | None):
                raise UsageError(
                    f"{where}: {name!r} is {brief(value)}; a section of keys goes here"
                )
            values[key] = _build(typing.cast(type, kinds[key]), value or {}, where, f"{name}.")
        else:
            values[key] = _value(kinds[key], value, where, name)
    return cls(**values)


def _value(kind: Any, value: Any, where: str, name: str) -> Any:
    """Turn one YAML value into the type of its field, or say what goes there."""
    if isinstance(kind, types.GenericAlias):
        item_kind = typing.get_args(kind)[0]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(item_kind, item, where, name) for item in items)
    if kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        value = _number(value)
    if kind is str and isinstance(value, bool):
        raise UsageError(f"{where}: {name!r} is read as {value} by YAML; put quotes around it")
    if type(value) is not kind:
        raise UsageError(f"{where}: {name!r} is {brief(value)}; {_TYPE_NAMES[kind]} goes here")
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{where}: {name!r} is {brief(value)}{nearest(value, CHOICES[name])}")
    if name in BOUNDS and not BOUNDS[name][0] <= value <= BOUNDS[name][1]:
        low, high = BOUNDS[name]
        raise UsageError(f"{where}: {name!r} is {value!r}; a number from {low} to {high} goes here")
    return value


_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _number(value: str | int) -> float | str | int:
    """Read what YAML 1.1 takes for text, too: 1e-3 has no dot, so PyYAML leaves it a string."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _check_together(recipe: Recipe, where: str) -> None:
    """Check what only shows when several settings are seen together."""
    for problems in (_of_name, _of_features, _of_model, _of_augmentation, _of_learning):
        for problem in problems(recipe):
            raise UsageError(f"{where}: {problem}")


def _of_name(recipe: Recipe) -> Iterator[str]:
    name = recipe.name
    if name in ("", ".", "..") or not {*"/\\\0"}.isdisjoint(name):
        yield f"name {brief(name)} calls no folder, as a run's is; write one without / and \\"


def _of_features(recipe: Recipe) -> Iterator[str]:
    features = recipe.features
    if features.hop_samples < 1 or features.window_samples < 2:
        yield "features.hop_seconds and window_seconds are under a sample; raise them"
    if features.transform_samples < features.window_samples:
        yield (
            f"features.fft_samples {features.fft_samples} is shorter than the window of "
            f"{features.window_samples} samples; raise it or leave it 0"
        )
    if features.fft_samples % 2:
        yield f"features.fft_samples {features.fft_samples} is odd; set an even number"
    if not features.low_hz < features.top_hz <= features.rate / 2:
        yield (
            f"features.low_hz {features.low_hz:g} and high_hz {features.top_hz:g} must rise and "
            f"stay under half the rate, {features.rate / 2:g}; correct them"
        )
    if features.kind == "mfcc" and features.coefficients > features.mels:
        yield "features.coefficients is more than features.mels; lower it"


def _of_model(recipe: Recipe) -> Iterator[str]:
    features, model = recipe.features, recipe.model
    if (model.head == "ctc") != (recipe.data.tokens != "classes"):
        yield (
            f"model.head {model.head} does not go with data.tokens {recipe.data.tokens}; "
            f"ctc takes characters or words, classify takes classes"
        )
    if model.front_end == "none" and model.time_stride != 1:
        yield "model.time_stride needs model.front_end stack or conv; choose one"
    if model.conv_blocks and model.front_end != "conv":
        yield "model.conv_blocks are of model.front_end conv; choose that, or set 0"
    if model.front_end == "conv" and (features.kind == "mfcc" or features.deltas):
        yield "model.front_end conv needs neighbouring frequencies; use log_mel without deltas"
    last = model.head == "classify" and model.pooling == "last"
    if last and model.bidirectional and model.projection:
        yield "model.projection mixes both directions' last states; use pooling mean"
    if model.attention_heads > 1 and (model.head != "classify" or model.pooling != "attention"):
        yield "model.attention_heads are for model.head classify with pooling attention; set 1"
    if model.front_end == "conv" and model.time_stride > 4:
        yield "model.time_stride over 4 would step over frames; lower it or use front_end stack"


def _of_augmentation(recipe: Recipe) -> Iterator[str]:
    features, model, augment = recipe.features, recipe.model, recipe.augment
    if augment.vocal_tract and features.mel_scale != "htk":
        yield "augment.vocal_tract warps HTK mels; use features.mel_scale htk"
    if augment.join > 1 and model.head != "ctc":
        yield "augment.join makes strings, which need model.head ctc; set it to 1"
    if augment.splice and model.head != "classify":
        yield "augment.splice makes clips of no class, which need model.head classify; set it to 0"
    if augment.noise_alone and (model.head != "ctc" or not augment.noise_probability):
        yield (
            "augment.noise_alone needs model.head ctc and augment.noise_probability above 0; "
            "set it to 0"
        )
    if augment.eventful_noises and not augment.noise_probability:
        yield "augment.eventful_noises needs augment.noise_probability above 0; set it to 0"
    if augment.mixup and model.head != "classify":
        yield "augment.mixup mixes classes, which need model.head classify; set it to 0"
    if not augment.speeds or not all(0.25 <= speed <= 4 for speed in augment.speeds):
        yield "augment.speeds holds a factor outside 0.25 to 4; correct it"
    if augment.noise_low_db > augment.noise_high_db:
        yield "augment.noise_low_db is above noise_high_db; swap them"


def _of_learning(recipe: Recipe) -> Iterator[str]:
    model, training = recipe.model, recipe.training
    if not 0 <= recipe.seed < 2**32:  # the generators of numpy and PyTorch take no other
        yield f"seed {recipe.seed} is not from 0 to {2**32 - 1}; choose one that is"
    decoding = recipe.decoding
    if not decoding.freely and recipe.data.tokens != "characters":
        yield (
            f"decoding.decoder {decoding.decoder} spells words in characters; use data.tokens "
            f"characters"
        )
    if training.logit_adjustment and model.head != "classify":
        yield "training.logit_adjustment evens out classes, which need model.head classify; set 0"
    if training.intermediate and (model.head != "ctc" or model.layers < 2):
        yield "training.intermediate needs model.head ctc and two model.layers or more; set it to 0"
    if recipe.data.unknown_words and recipe.data.tokens != "classes":
        yield "data.unknown_words are classes, which need data.tokens classes; leave them out"
    if training.auxiliary and model.head != "ctc" and not model.phones:
        yield "training.auxiliary beside classes spells their phones; set model.phones, too, or 0"
    if model.phones and not (model.head == "classify" and training.auxiliary):
        yield (
            "model.phones are of model.head classify, learnt by training.auxiliary; set both, or 0"
        )
    if bool(model.phones) != bool(recipe.data.pronunciations):
        yield "model.phones and data.pronunciations need each other; set both, or none"
    if training.frozen_epochs and not training.base:
        yield "training.frozen_epochs waits for nothing without training.base; set it to 0"
