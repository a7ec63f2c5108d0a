"""Stream an epoch of many hours from shards: does memory stay flat, and what does it cost?

The corpus is made for it: clips of 1 to 15 s of tones in noise, as flac. Few are distinct; their
shards are linked under many names, so that the disk stays small (and its cache warm, so that this
measures decoding and features, not the disk). The same clips as single files, read without a
cache, stand beside it: a plain loop that reads, computes and pads batch after batch.

    python scripts/bench_shards.py --hours 100
    python scripts/bench_shards.py --hours 10 --steps 200
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from command_line import natural, one_line_errors, parser_of, positive

from speechseq.corpora.shards import index_path
from speechseq.manifest import Utterance, read_utterance
from speechseq.padding import pad
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.tokens import Vocabulary
from speechseq.training.data import Share, collate
from speechseq.training.distributed import World
from speechseq.training.features import LogMel
from speechseq.training.loop import prepare
from speechseq.training.sharding import Limit, write_shards
from speechseq.training.step import Training

RATE = 16000
DISTINCT = 800
"""Clips that differ; 1.8 hours of them."""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MARKS = (0.1, 0.5, 1.0)
"""Shares of the epoch at which memory is told."""


def make_clips(folder: Path, count: int) -> list[Utterance]:
    """Write clips of 1 to 15 s: a tone for each word, one after the other, in noise."""
    folder.mkdir(parents=True)
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        seconds = float(rng.uniform(1, 15))
        chosen = rng.integers(len(WORDS), size=max(int(2 * seconds), 1))
        hertz = np.repeat(300 + 200 * chosen, -(-round(seconds * RATE) // len(chosen)))
        samples = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
        samples = samples + 0.01 * rng.standard_normal(len(samples))
        path = folder / f"{number}.flac"
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        found.append(Utterance(str(path), 0.0, " ".join(WORDS[n] for n in chosen)))
    return found


def link_shards(index: Path, hours: float) -> None:
    """Link the shards of an index under new names until they hold so many hours."""
    tree = json.loads(index.read_text())
    made, seconds = list(tree["shards"]), 0.0
    tree["shards"] = []
    while seconds < hours * 3600:
        number = len(tree["shards"])
        shard = made[number % len(made)]
        name = f"linked-{number:06}.tar"
        (index.parent / name).symlink_to(index.parent / shard["file"])
        tree["shards"].append({**shard, "file": name})
        seconds += shard["seconds"]
    index.write_text(json.dumps(tree))


def small_recipe(folder: Path, buffer: int) -> Recipe:
    """Return a recipe for the shards: characters and a small network."""
    return recipe_from_dict(
        {
            "data": {"corpus": "shards", "root": str(folder), "buffer_utterances": buffer},
            "model": {"front_end": "stack", "time_stride": 4, "hidden": 64, "layers": 1},
            "training": {"epochs": 1},
        },
        "bench",
    )


def peak_megabytes() -> float:
    """Return the most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def line(name: str, value: str) -> None:
    """Print one result."""
    print(f"  {name:<28} {value}", flush=True)


def rate_line(name: str, utterances: int, frames: int, seconds: float) -> float:
    """Print what was reached; return utterances per second. A frame is 10 ms."""
    hours = frames / 360_000
    line(name, f"{utterances / seconds:.1f} utterances/s, {hours / seconds * 3600:.0f} h/h")
    return utterances / seconds


def bench_stream(training: Training) -> float:
    """Stream the epoch, without the network; print memory and pace."""
    data = training.data
    steps, began = data.steps_of(0), time.perf_counter()
    line("peak memory at the start", f"{peak_megabytes():.0f} MB")
    marks = {round(share * steps): share for share in MARKS}
    utterances = frames = 0
    for step, (batch,) in enumerate(data.batches(0, 0, Share()), start=1):
        utterances += len(batch.lengths)
        frames += int(batch.lengths.sum())
        if step in marks:
            line(f"peak memory after {marks[step]:.0%}", f"{peak_megabytes():.0f} MB")
    return rate_line("streamed", utterances, frames, time.perf_counter() - began)


def plain_batches(
    clips: list[Utterance], recipe: Recipe, vocabulary: Vocabulary, count: int
) -> Iterator[torch.Tensor]:
    """Yield the lengths of batches of single files, as they are read one after the other."""
    log_mel = LogMel(recipe.features)
    order = np.random.default_rng(0).integers(len(clips), size=count).tolist()
    for at in range(0, count, recipe.training.batch):
        chosen = [clips[number] for number in order[at : at + recipe.training.batch]]
        frames = []
        for utterance in chosen:
            samples = read_utterance(utterance, recipe.features.rate)
            with torch.inference_mode():
                clip, _ = log_mel(*map(torch.from_numpy, pad([samples])))
            frames.append(clip[0].numpy())
        yield collate(frames, [vocabulary.encode(u.text) for u in chosen]).lengths


def bench_plain(training: Training, clips: list[Utterance], count: int) -> float:
    """Read single files without a cache; print the pace."""
    began, utterances, frames = time.perf_counter(), 0, 0
    for lengths in plain_batches(clips, training.recipe, training.vocabulary, count):
        utterances, frames = utterances + len(lengths), frames + int(lengths.sum())
    return rate_line("single files, no cache", utterances, frames, time.perf_counter() - began)


def bench_steps(training: Training, steps: int) -> None:
    """Train some steps on the stream; print the pace."""
    began, utterances, frames = time.perf_counter(), 0, 0
    for pieces in training.batches():
        training.step(pieces)
        utterances += sum(len(piece.lengths) for piece in pieces)
        frames += sum(int(piece.lengths.sum()) for piece in pieces)
        if training.progress.step >= steps:
            break
    seconds = time.perf_counter() - began
    rate_line(f"{training.progress.step} steps of training", utterances, frames, seconds)
    line("peak memory then", f"{peak_megabytes():.0f} MB")


def bench(folder: Path, hours: float, steps: int, buffer: int) -> None:
    """Make the corpus, stream it, and read the same clips plainly."""
    clips = make_clips(folder / "clips", DISTINCT)
    shards = folder / "shards"
    index, _ = write_shards(clips, shards / "train-%06d.tar", limit=Limit(utterances=100))
    link_shards(index, hours)
    write_shards(clips[:16], shards / "validation-%06d.tar", limit=Limit(), seed=1)
    cpu = torch.device("cpu")
    training = prepare(
        small_recipe(shards, buffer), folder / "run", device=cpu, world=World(),
        resume=False, note=print, show=lambda what, done, of: None,
    )  # fmt: skip
    assert index == index_path(shards, "train")
    if steps:
        bench_steps(training, steps)
        return
    streamed = bench_stream(training)
    plain = bench_plain(training, clips, 4 * DISTINCT)
    line("ratio", f"{streamed / plain:.2f}")


def main() -> None:
    """Run it in a temporary folder."""
    parser = parser_of(__doc__)
    parser.add_argument("--hours", type=positive, default=100.0, help="of the epoch (default: 100)")
    parser.add_argument("--steps", type=int, default=0, help="train so many instead")
    parser.add_argument("--buffer", type=natural, default=2000, help="utterances (default: 2000)")
    parser.add_argument("--threads", type=natural, default=1, help="PyTorch's (default: 1)")
    arguments = parser.parse_args()
    if arguments.steps < 0:
        parser.error("--steps: 0 or more goes here")
    torch.set_num_threads(arguments.threads)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), arguments.hours, arguments.steps, arguments.buffer)


if __name__ == "__main__":
    main()
