"""The shipped file: the network's graph, proved equal to the network, then written.

The graph is written by hand (`training.graph`); the parity gate here holds the two together.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import helper
from torch import nn

from speechseq.corpora import CORPORA
from speechseq.errors import GateFailed, UsageError
from speechseq.evaluation import evaluate
from speechseq.files import atomic_write
from speechseq.manifest import Utterance, read_utterance
from speechseq.model_file import RUN_WEIGHTS, metadata, open_model
from speechseq.padding import pad
from speechseq.recipe import Recipe
from speechseq.recipe_file import parse_yaml
from speechseq.recogniser import Recogniser, from_model_file, load
from speechseq.tokens import Vocabulary
from speechseq.training.eight_bits import in_eight_bits
from speechseq.training.encoder import SpeechNetwork, load_network, parameters, torch_network
from speechseq.training.graph import build_graph
from speechseq.training.notes import Note
from speechseq.training.run_folder import read_run

TOLERANCE = 1e-4
"""Largest difference of a log-probability that the parity gate lets through."""

LIKELY = -5.0
"""Tokens less likely than that, under 1 %, may differ in proportion to their log-probability."""

ROUNDED = 1e-6
"""Samples are moved by such a share to see how far rounding alone takes a network on a clip.

On noise some are that unsteady: what a sum's order changes in a feature comes out a hundredfold.
"""

PARITY_BATCHES = (1, 3, 8)
STREAM_BLOCKS = 7

MOST_INT8_LOSS = 0.01
"""Largest loss of accuracy (for sequences: rise of WER), as a share of 1, int8 may bring."""


@dataclass(frozen=True)
class Parity:
    """How far two networks are apart: the largest difference of a log-probability, and texts.

    Below LIKELY a difference counts as its share of the log-probability, times LIKELY; on a clip
    where rounding alone (ROUNDED) takes the first network further than TOLERANCE, as its share of
    twice that, times TOLERANCE.
    """

    clips: int
    largest_difference: float
    different_texts: int


def parity(one: Recogniser, other: Recogniser, clips: Sequence[np.ndarray]) -> Parity:
    """Run two recognisers on clips (samples,) in batches of several sizes and compare.

    If the other can go on from frame to frame, what it gives as a stream is compared, too.
    """
    largest, different = 0.0, 0
    for size in PARITY_BATCHES:
        for at in range(0, len(clips), size):
            batch = pad(clips[at : at + size])
            log_probs, lengths = one.network(*batch)
            others, other_lengths = other.network(*batch)
            if not np.array_equal(lengths, other_lengths):
                return Parity(len(clips), float("inf"), len(clips))
            for row, length in enumerate(lengths):
                gap = _gap(log_probs[row, :length], others[row, :length])
                if gap > TOLERANCE:
                    gap *= TOLERANCE / max(TOLERANCE, 2 * _unsteadiness(one, clips[at + row]))
                largest = max(largest, gap)
            texts = [r.transcribe_batch(clips[at : at + size]) for r in (one, other)]
            different += sum(a.text != b.text for a, b in zip(*texts, strict=True))
    for clip in clips if other.hear_on else ():
        largest = max(largest, _gap(one.network(*pad([clip]))[0][0], _streamed(other, clip)))
    return Parity(len(clips), largest, different)


def _unsteadiness(recogniser: Recogniser, clip: np.ndarray) -> float:
    """Return how far a network's log-probabilities move when its samples move by ROUNDED."""
    moves = 1 + ROUNDED * np.random.default_rng(0).standard_normal(len(clip))
    still, moved = (recogniser.network(*pad([c]))[0][0] for c in (clip, clip * moves))
    return _gap(still, moved)


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference, as `Parity` counts it; inf if there is no telling."""
    if one.shape != other.shape:
        return float("inf")
    gap = float((np.abs(one - other) / np.maximum(np.maximum(one, other) / LIKELY, 1.0)).max())
    return gap if np.isfinite(gap) else float("inf")


def _streamed(recogniser: Recogniser, clip: np.ndarray) -> np.ndarray:
    """Return the log-probabilities (frames, tokens) of a clip that comes in STREAM_BLOCKS parts."""
    frames = recogniser.stream_frames()
    blocks = np.array_split(clip, STREAM_BLOCKS)
    return np.concatenate([*map(frames.hear, blocks), frames.finish()])


def parity_clips(
    rate: int, utterances: Sequence[Utterance] = (), count: int = 24
) -> list[np.ndarray]:
    """Return clips to compare on: real ones, spread over the list, and noise of many lengths."""
    rng = np.random.default_rng(0)
    chosen = utterances[:: max(len(utterances) // count, 1)][:count]
    clips = [read_utterance(utterance, rate) for utterance in chosen]
    for seconds in (0.001, 0.02, 0.11, 0.5, 1.0, 1.7, 3.1):
        level = 10 ** rng.uniform(-3, -0.5)
        clips.append(
            (level * rng.standard_normal(max(round(seconds * rate), 1))).astype(np.float32)
        )
    clips.append(np.zeros(rate, np.float32))
    return [clips[number] for number in rng.permutation(len(clips))]


def export_network(
    network: SpeechNetwork,
    recipe: Recipe,
    vocabulary: Vocabulary,
    path: Path,
    *,
    card: Mapping[str, Any],
    utterances: Sequence[Utterance] = (),
    target: Path | None = None,
) -> Parity:
    """Build the graph, prove that it computes what the network computes, then write it.

    What becomes of it is called `target` in messages, where it is not what is written.

    Raises:
        GateFailed: a log-probability differs by more than TOLERANCE, or a text; nothing is written.
    """
    model = build_graph(network)
    helper.set_model_props(model, metadata(vocabulary, recipe, card, weights_hash(network)))
    data = model.SerializeToString()
    theirs = Recogniser(torch_network(network, torch.device("cpu")), vocabulary, recipe)
    ours = from_model_file(open_model(data, path))
    found = parity(theirs, ours, parity_clips(recipe.features.rate, utterances))
    if found.largest_difference > TOLERANCE or found.different_texts:
        raise GateFailed(
            f"{target or path}: not written; its graph and the network differ by "
            f"{found.largest_difference:.1e} (allowed {TOLERANCE:.0e}), {found.different_texts} "
            f"texts differ; please report this recipe"
        )
    with atomic_write(path) as file:
        file.write(data)
    return found


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def card_of(network: SpeechNetwork, recipe: Recipe, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every model says of itself; `extra` is laid over it."""
    corpus = CORPORA[recipe.data.corpus]
    return {
        "name": recipe.name,
        "corpus": corpus.title,
        "licence": corpus.licence,
        "homepage": corpus.homepage,
        "parameters": parameters(network),
        "date": datetime.date.today().isoformat(),
        **extra,
    }


def export_run(
    network: SpeechNetwork,
    recipe: Recipe,
    vocabulary: Vocabulary,
    path: Path,
    *,
    utterances: Sequence[Utterance] = (),
    note: Note = lambda text: None,
    card: Mapping[str, Any] | None = None,
    target: Path | None = None,
) -> Path:
    """Export a trained network to `path` and say how it went; `target` as in `export_network`.

    Raises:
        GateFailed: as `export_network`.
    """
    network = network.to("cpu").eval()
    card = card_of(network, recipe, card or {})
    found = export_network(
        network, recipe, vocabulary, path, card=card, utterances=utterances, target=target
    )
    note(
        f"{target or path}: {path.stat().st_size / 1e6:.2f} MB; "
        f"parity with PyTorch on {found.clips} clips: "
        f"largest difference {found.largest_difference:.1e}, texts equal"
    )
    return path


def export(
    run: Path,
    path: Path,
    *,
    int8: bool = False,
    card: Mapping[str, Any] | None = None,
    utterances: Sequence[Utterance] = (),
    note: Note = lambda text: None,
) -> Path:
    """Export a run folder's best weights; with `int8` quantise them and measure what it costs.

    `card` is what the model should say of itself; `utterances` are compared on.

    Raises:
        ModelError: `run` is not a run folder.
        GateFailed: parity fails, or int8 loses too much accuracy; nothing is written.
    """
    recipe, vocabulary = read_run(run)
    network = load_network(run / RUN_WEIGHTS, recipe, vocabulary)
    if not int8:
        return export_run(
            network, recipe, vocabulary, path, utterances=utterances, note=note, card=card
        )
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export_run(
            network,
            recipe,
            vocabulary,
            whole,
            utterances=utterances,
            note=note,
            card=card,
            target=path,
        )
        quantise(whole, small)
        _compare(whole, small, path, utterances, note)
        with atomic_write(path) as file:
            file.write(small.read_bytes())
    return path


def read_card(path: Path) -> dict[str, Any]:
    """Read a YAML file of what a model should say of itself.

    Raises:
        UsageError: it cannot be read, or is no mapping.
    """
    try:
        card = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path}: not a readable YAML card ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(card, dict):
        raise UsageError(f"{path}: not a mapping; write 'key: text' lines")
    return card


def quantise(source: Path, target: Path) -> None:
    """Write a model file anew with its weights in 8 bits (`eight_bits`), and say so in its card."""
    small = in_eight_bits(onnx.load(source))
    props = [_int8_card(prop) for prop in small.metadata_props]
    del small.metadata_props[:]
    small.metadata_props.extend(props)
    onnx.save(small, target)


def _int8_card(prop: onnx.StringStringEntryProto) -> onnx.StringStringEntryProto:
    """Say in the card what the weights are."""
    if prop.key == "speechseq.card":
        card = {**json.loads(prop.value), "weights": "int8"}
        prop = onnx.StringStringEntryProto(key=prop.key, value=json.dumps(card, ensure_ascii=False))
    return prop


def _compare(
    whole: Path, small: Path, path: Path, utterances: Sequence[Utterance], note: Note
) -> None:
    """Say how an int8 file differs in size, speed and accuracy; too great a loss stops it."""
    sizes = [file.stat().st_size / 1e6 for file in (whole, small)]
    note(f"{path}: {sizes[0]:.2f} -> {sizes[1]:.2f} MB")
    if not utterances:
        raise GateFailed(f"{path}: not written; int8 must be measured, give it a --manifest")
    one, other = (evaluate(load(str(file), threads=1), utterances) for file in (whole, small))
    note(
        f"{path}: accuracy {100 * one.accuracy.value:.2f} -> {100 * other.accuracy.value:.2f} % on "
        f"{other.utterances} utterances, real-time factor {one.real_time_factor:.4f} -> "
        f"{other.real_time_factor:.4f} on one thread"
    )
    loss = one.accuracy.value - other.accuracy.value
    if one.wer and other.wer:
        loss = other.wer.value - one.wer.value
        note(f"{path}: WER {100 * one.wer.value:.2f} -> {100 * other.wer.value:.2f} %")
    if loss > MOST_INT8_LOSS:
        raise GateFailed(
            f"{path}: not written; int8 loses {100 * loss:.2f} points of accuracy or WER "
            f"(allowed {100 * MOST_INT8_LOSS:g}); ship the 32-bit file"
        )
