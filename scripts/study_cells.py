"""Which cell when: RNN, GRU and LSTM on strings of 1 to 20 digits, asked for the first digit.

    python scripts/study_cells.py [--work runs/cells] [--strings 1200] [--epochs 30]

Composes the strings from FSDD's official splits, trains recipes/cells/memory.yaml for every cell,
direction and length, and writes recipes/cells/README.md, memory.png and gradients.png. Runs that
are there already are taken as they are, so a study can be stopped and gone on with.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import natural, one_line_errors, parser_of
from runs import cost, trained, write_table

from speechseq.compose import Composition, compose, write_strings
from speechseq.corpora import CORPORA
from speechseq.evaluation import Score, evaluate
from speechseq.manifest import Utterance, read_manifest, read_utterance, write_manifest
from speechseq.model_file import RUN_WEIGHTS
from speechseq.padding import pad
from speechseq.pictures import new_figure, save_png
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import hold_out
from speechseq.training.encoder import SpeechNetwork, load_network
from speechseq.training.run_folder import read_run

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "recipes" / "cells"
RECIPE = TARGET / "memory.yaml"
CELLS = ("rnn", "gru", "lstm")
LENGTHS = (1, 2, 5, 10, 20)
PROBED_LENGTH = 10
"""Digits in the strings that gradients are followed through."""

PROBED_STRINGS = 48
RATE = 8000
TEST_STRINGS = 300


@dataclass(frozen=True)
class Row:
    """What one cell, one or two directions, reached on strings of one length."""

    cell: str
    both: bool
    digits: int
    accuracy: Score
    parameters: int
    epoch_seconds: float
    real_time_factor: float

    @property
    def name(self) -> str:
        """Name the cell as papers do."""
        return ("Bi" if self.both else "") + self.cell.upper()


def compose_strings(work: Path, strings: int) -> None:
    """Write manifests of strings for every length, each labelled by its first digit."""
    corpus = CORPORA["fsdd"]
    utterances = corpus.utterances("train")
    settings = read_recipe(RECIPE).data
    learnt, held = hold_out(utterances, settings, seed=0)
    for digits in LENGTHS:
        parts = (("train", learnt, strings), ("validation", held, TEST_STRINGS))
        for seed, (split, clips, count) in enumerate(
            [*parts, ("test", corpus.utterances("test"), TEST_STRINGS)]
        ):
            _compose(work / f"strings_{digits}", split, clips, (digits, count, seed))


def _compose(
    folder: Path, split: str, clips: Sequence[Utterance], shape: tuple[int, int, int]
) -> None:
    digits, count, seed = shape
    target = folder / f"{split}.jsonl"
    if target.is_file():
        return
    how = Composition(
        strings=count, shortest=digits, longest=digits, gap_seconds=(0.0, 0.1), seed=seed
    )
    shutil.rmtree(folder / split, ignore_errors=True)  # of a study that was stopped there
    manifest = write_strings(compose(clips, RATE, how), folder / split, RATE)
    found = [replace(u, text=u.text.split()[0], split=split) for u in read_manifest(manifest)]
    write_manifest(target, found)


def run_of(work: Path, cell: str, both: bool, digits: int) -> Path:
    """Return the run folder of a cell, one or two directions, and a length."""
    return work / f"{'bi' if both else ''}{cell}_{digits}"


def train_all(work: Path, epochs: int) -> None:
    """Train every cell, direction and length that is not there yet."""
    for digits in LENGTHS:
        for cell in CELLS:
            for both in (False, True):
                settings = [
                    f"data.root={work / f'strings_{digits}'}",
                    f"model.cell={cell}",
                    f"model.bidirectional={str(both).lower()}",
                    f"training.epochs={epochs}",
                ]
                run = run_of(work, cell, both, digits)
                trained(read_recipe(RECIPE, settings), run, device="cpu")


def measure(work: Path) -> Iterable[Row]:
    """Yield every run's scores on the test strings of its length."""
    for digits in LENGTHS:
        test = read_manifest(work / f"strings_{digits}" / "test.jsonl")
        for cell in CELLS:
            for both in (False, True):
                run = run_of(work, cell, both, digits)
                report = evaluate(load(run), test)
                yield Row(cell, both, digits, report.accuracy, *cost(run), report.real_time_factor)


def gradients_through_time(network: SpeechNetwork, test: Sequence[Utterance]) -> np.ndarray:
    """Return how strongly each frame moves the loss: norms (steps,), the last frame first.

    The mean over strings of the norm of the loss' gradient by the recurrent layer's input at so
    many steps before the end.
    """
    seen: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[0], *inputs[1:])

    hook = network.encoder.layers[0].register_forward_pre_hook(keep)
    samples, lengths = map(torch.from_numpy, pad([read_utterance(u, RATE) for u in test]))
    frames, sizes = network.features(samples, lengths)
    log_probs, _ = network.from_features(frames, sizes)
    best = log_probs[:, 0].max(dim=1).values.sum()
    best.backward()  # type: ignore[no-untyped-call]
    hook.remove()
    steps = network.encoder.front_end(frames, sizes)[1].tolist()
    norms = seen[0].grad.norm(dim=2).numpy()  # type: ignore[union-attr]
    shortest = min(steps)
    return np.mean(
        [row[:size][::-1][:shortest] for row, size in zip(norms, steps, strict=True)], axis=0
    )


def gradients(work: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return gradients through time before and after training, for one direction of each cell."""
    test = read_manifest(work / f"strings_{PROBED_LENGTH}" / "test.jsonl")[:PROBED_STRINGS]
    found: dict[str, dict[str, np.ndarray]] = {}
    for cell in CELLS:
        run = run_of(work, cell, False, PROBED_LENGTH)
        recipe, vocabulary = read_run(run)
        trained = load_network(run / RUN_WEIGHTS, recipe, vocabulary)
        torch.manual_seed(0)
        fresh = SpeechNetwork(recipe, len(vocabulary)).eval()
        fresh.features.load_state_dict(trained.features.state_dict())
        found[cell] = {
            "before": gradients_through_time(fresh, test),
            "after": gradients_through_time(trained, test),
        }
    return found


# ---- pictures and table ----


def draw_memory(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy over the length of the strings."""
    figure = new_figure(path, 6.5, 4.2)
    axes = figure.add_subplot()
    for number, cell in enumerate(CELLS):
        for both in (False, True):
            own = [row for row in rows if row.cell == cell and row.both == both]
            axes.plot(
                [row.digits for row in own],
                [100 * row.accuracy.value for row in own],
                "o--" if both else "o-",
                color=f"C{number}",
                label=own[0].name,
            )
    axes.axhline(10, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(LENGTHS, [str(digits) for digits in LENGTHS])
    axes.set_ylim(0, 101)
    axes.set_xlabel("digits in the string")
    axes.set_ylabel("first digit right (%)")
    axes.legend(frameon=False, ncols=2)
    save_png(figure, path)


def draw_gradients(found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw the gradient's norm over steps before the end, on a logarithmic axis."""
    figure = new_figure(path, 9.0, 4.2)
    both = figure.subplots(1, 2, sharey=True)
    for axes, when in zip(both, ("before", "after"), strict=True):
        for cell, norms in found.items():
            axes.semilogy(norms[when] / norms[when][0], label=cell.upper())
        axes.set_title(f"{when} training")
        axes.set_xlabel("steps (of 40 ms) before the end")
    both[0].set_ylabel("gradient norm, last step = 1")
    both[0].legend(frameon=False)
    save_png(figure, path)


def table(rows: Sequence[Row]) -> str:
    """Return accuracy by length, and size and cost, as Markdown."""
    lines = [
        "| | " + " | ".join(f"{digits} digits" for digits in LENGTHS) + " |",
        "|---|" + "---|" * len(LENGTHS),
    ]
    for cell in CELLS:
        for both in (False, True):
            own = [row for row in rows if row.cell == cell and row.both == both]
            cells = (row.accuracy.percent(1) for row in own)
            lines.append(f"| {own[0].name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| | parameters | training, s an epoch of 20 digits | real-time factor |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row.digits == LENGTHS[-1]:
            lines.append(
                f"| {row.name} | {row.parameters:,} | {row.epoch_seconds:.1f} | "
                f"{row.real_time_factor:.5f} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/cells"))
    parser.add_argument("--strings", type=natural, default=1200, help="to learn from, each length")
    parser.add_argument("--epochs", type=natural, default=30)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    with one_line_errors():
        compose_strings(work, arguments.strings)
        train_all(work, arguments.epochs)
        rows = list(measure(work))
    draw_memory(rows, TARGET / "memory.png")
    draw_gradients(gradients(work), TARGET / "gradients.png")
    text = table(rows)
    write_table(TARGET / "README.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
