"""Before training: splits made ready, what cannot be learnt named, and what is ahead said."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechseq.alignment import frames_needed
from speechseq.errors import DataError
from speechseq.manifest import Utterance, shared_speakers, statistics
from speechseq.recipe import Recipe
from speechseq.tokens import NO_TEXT, UNKNOWN, Vocabulary
from speechseq.training.augment import most_cut
from speechseq.training.data import Batches
from speechseq.training.encoder import SpeechNetwork, parameters
from speechseq.training.feature_cache import LogMels, cached_log_mels
from speechseq.training.notes import Note, Show
from speechseq.training.pronunciations import phones_of


@dataclass(frozen=True)
class Split:
    """One split ready for the network: utterances, their log-mels, labels and references."""

    utterances: Sequence[Utterance]
    log_mels: LogMels
    labels: Sequence[Sequence[int]]
    references: Sequence[str]


@dataclass(frozen=True)
class Ready:
    """All that training takes from its data, whether that is listed or streamed.

    `sample` is what global CMVN is set from, and the speeds it has; `says` is what preflight says
    of the training split; `sizes` are both splits', as numbers; `shares` the classes' in training,
    where the recipe asks for them.
    """

    vocabulary: Vocabulary
    data: Batches
    validation: Split
    sample: tuple[LogMels, Sequence[float]]
    says: Sequence[str]
    sizes: Mapping[str, Mapping[str, Any]]
    shares: torch.Tensor | None = None


RARE = 5
"""Tokens seen less often than this in training are named before it."""

RARE_NAMED = 20
"""So many of them, at most; of more it is said how many."""


def preflight(ready: Ready, recipe: Recipe, *, network: SpeechNetwork, steps: int) -> Iterator[str]:
    """Say what is about to be trained on what: data, label coverage, size."""
    yield from ready.says
    yield from unspeakable(recipe, ready.validation)
    frozen, epochs = recipe.training.frozen_epochs, recipe.training.epochs
    if frozen >= epochs:
        yield (
            f"mind: in all {epochs} epochs the new head learns alone (training.frozen_epochs "
            f"{frozen}); lower it, or train longer"
        )
    yield f"parameters: {parameters(network):,}; steps: {steps:,}"


def says_of(training: Split, validation: Split, vocabulary: Vocabulary) -> list[str]:
    """Say what a listed training split holds, and the validation split."""
    both = len(shared_speakers(training.utterances, validation.utterances))
    known = any(u.speaker for u in training.utterances)
    return [
        counted("train", training),
        counted("validation", validation),
        _coverage(training, vocabulary),
        f"speakers in both: {both if known else 'not known'}",
    ]


def size_of(utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Count utterances, their seconds and words; `sha256` is of them all, in their order."""
    digest = hashlib.sha256()
    for u in utterances:
        line = json.dumps([u.key, u.text, round(u.duration, 3), u.speaker])
        digest.update(f"{line}\n".encode())
    return {
        "utterances": len(utterances),
        "seconds": round(sum(u.duration for u in utterances), 3),
        "words": sum(len(u.text.split()) for u in utterances),
        "sha256": digest.hexdigest(),
    }


def counted(name: str, split: Split) -> str:
    """Say how much a split holds."""
    found = statistics(split.utterances)
    return (
        f"{name}: {found.utterances} utterances, {found.hours:.2f} h, "
        f"{found.speakers or 'unknown'} speakers"
    )


def _coverage(training: Split, vocabulary: Vocabulary) -> str:
    """Say how often the tokens occur, and name those that are too rare to be learnt."""
    counts = Counter(number for label in training.labels for number in label)
    if not counts:
        raise DataError(f"training: no utterance holds any of the {vocabulary.kind}")
    seen = {vocabulary.tokens[n]: counts[n] for n in range(len(vocabulary)) if counts[n]}
    apart = sum(n >= len(vocabulary) for n in counts)
    rare = [repr(token) for token, count in seen.items() if count < RARE]
    line = (
        f"{vocabulary.kind}: {len(seen)}, each {min(seen.values())} to {max(seen.values())} times"
    )
    line += f"; {UNKNOWN} is {apart} words apart, too" if apart else ""
    if not rare:
        return line
    more = f" and {len(rare) - RARE_NAMED} more" if len(rare) > RARE_NAMED else ""
    return f"{line}; under {RARE} times: {', '.join(rare[:RARE_NAMED])}{more}"


def vocabulary_of(recipe: Recipe, utterances: Sequence[Utterance]) -> Vocabulary:
    """Collect the tokens of the training texts, and the space where utterances are joined."""
    texts = [utterance.text for utterance in utterances]
    if spells_joins(recipe):
        spoken = (text for text in texts if text.strip() and text not in NO_TEXT)
        texts.append(" ".join([next(spoken, "")] * 2))
    vocabulary = Vocabulary.from_texts(
        recipe.data.tokens, texts, lexicon=not recipe.decoding.freely
    )
    if not recipe.data.pronunciations:
        return vocabulary
    phones = phones_of(Path(recipe.data.pronunciations), vocabulary.labels)
    return replace(vocabulary, phones=phones)


def spells_joins(recipe: Recipe) -> bool:
    """Tell whether joined utterances need a space spelt between them."""
    return recipe.augment.join > 1 and recipe.data.tokens == "characters"


def space_of(recipe: Recipe, vocabulary: Vocabulary) -> list[int]:
    """Return what stands between the labels of joined utterances."""
    return [vocabulary.tokens.index(" ")] if spells_joins(recipe) else []


def none_of(recipe: Recipe, vocabulary: Vocabulary) -> list[int]:
    """Return the classes that are none of the words, unknown first.

    Raises:
        DataError: clips are to be spliced, and there is no class for what comes of it.
    """
    if recipe.augment.splice and UNKNOWN not in vocabulary.tokens:
        raise DataError(
            f"augment.splice: makes clips of class {UNKNOWN}; there is none, set it to 0"
        )
    told = [vocabulary.tokens.index(name) for name in NO_TEXT if name in vocabulary.tokens]
    return [*told, *range(len(vocabulary), len(vocabulary.told_as))]


def make_split(
    recipe: Recipe,
    vocabulary: Vocabulary,
    utterances: Sequence[Utterance],
    speeds: Sequence[float],
    show: Show,
    *,
    told: bool = False,
) -> Split:
    """Spell the texts (a text that cannot be spelt stops here, by name), then get the log-mels.

    With `told` words apart are labelled as what they are told as: to be measured, not learnt.
    """
    labels = []
    for utterance in utterances:
        try:
            text = vocabulary.normalise(utterance.text) if told else utterance.text
            labels.append(vocabulary.encode(text))
        except DataError as error:
            raise DataError(f"{utterance.audio_filepath}: {error}") from None
    log_mels = cached_log_mels(
        utterances,
        recipe.features,
        speeds,
        ram_gigabytes=recipe.data.cache_ram_gigabytes,
        progress=show,
    )
    references = [vocabulary.normalise(utterance.text) for utterance in utterances]
    return Split(utterances, log_mels, labels, references)


def drop_infeasible(recipe: Recipe, split: Split, note: Note) -> Split:
    """Drop, and name, utterances that CTC cannot learn: too few frames, or no text."""
    keep = []
    shortest = split.log_mels.lengths.min(axis=1).tolist()
    for number, (utterance, label) in enumerate(zip(split.utterances, split.labels, strict=True)):
        if lack := lack_of(recipe, utterance, label, shortest[number]):
            note(f"dropped {utterance.audio_filepath}: {lack}")
        else:
            keep.append(number)
    if not keep:
        raise DataError("training: no utterance has frames enough for its text; check the texts")
    log_mels = LogMels(
        split.log_mels.frames, split.log_mels.starts[keep], split.log_mels.lengths[keep]
    )
    return Split(
        [split.utterances[n] for n in keep],
        log_mels,
        [split.labels[n] for n in keep],
        [split.references[n] for n in keep],
    )


def lack_of(recipe: Recipe, utterance: Utterance, label: Sequence[int], frames: int) -> str:
    """Say why CTC cannot learn a label from so many frames; nothing where it can."""
    # The shortest that augmentation may leave of it.
    frames -= 2 * most_cut(frames, recipe.features, recipe.augment.cut_seconds)
    frames = recipe.model.output_frames(frames)
    if recipe.model.head != "ctc" or utterance.text in NO_TEXT:
        return ""
    if label and frames >= frames_needed(label):
        return ""
    needs = f"{frames} frames for {utterance.text!r}, which needs {frames_needed(label)}"
    return needs + ("" if label else " and holds no token")


def unspeakable(recipe: Recipe, split: Split) -> Iterator[str]:
    """Say how many of a split's texts have too few frames; they are wrong, and in no loss."""
    uncut = replace(recipe, augment=replace(recipe.augment, cut_seconds=0.0))
    frames = split.log_mels.lengths[:, 0].tolist()
    of = zip(split.utterances, split.labels, frames, strict=True)
    lacks = [(u.audio_filepath, lack_of(uncut, u, label, n)) for u, label, n in of]
    named = [f"{path}: {lack}" for path, lack in lacks if lack]
    if named:
        yield f"validation: {len(named)} texts cannot be spelt in their clips' frames; {named[0]}"


def fit_cmvn(
    network: SpeechNetwork, log_mels: LogMels, speeds: Sequence[float], clips: int = 4000
) -> None:
    """Set global CMVN from every so manieth training clip: all of few, `clips` or more of many."""
    if network.features.cmvn.kind != "global":
        return
    device = network.features.cmvn.mean.device
    plain = min(range(len(speeds)), key=lambda speed: abs(speeds[speed] - 1))
    sums = torch.zeros(2, network.features.dims, dtype=torch.float64)
    count = 0
    for number in range(0, len(log_mels.lengths), max(len(log_mels.lengths) // clips, 1)):
        clip = torch.from_numpy(np.array(log_mels.clip(number, plain))).unsqueeze(0).to(device)
        frames = network.features.raw(clip, torch.tensor([clip.shape[1]], device=device))
        frames = frames[0].cpu().double()
        sums += torch.stack([frames.sum(0), frames.square().sum(0)])
        count += len(frames)
    mean, square = sums / count
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    network.features.cmvn.fit(mean.float().to(device), deviation.float().to(device))
