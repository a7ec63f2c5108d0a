"""Build a bundled model: train its recipe, measure it, and export it with its card.

    python scripts/build_models.py digits [--run runs/digits]

An existing run folder is taken as it is. Writes speechseq/models/NAME.onnx and NAME.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from speechseq.errors import SpeechseqError
from speechseq.evaluation import Report, Score, evaluate
from speechseq.files import atomic_write
from speechseq.model_file import BUNDLED
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import load_split
from speechseq.training.encoder import load_network
from speechseq.training.export import card_of, export_network
from speechseq.training.loop import train
from speechseq.training.run_folder import MODEL, WEIGHTS, read_run

ROOT = Path(__file__).parents[1]

SOURCES = {
    "digits": (ROOT / "recipes" / "fsdd" / "digits.yaml", "test"),
    "commands-en": (ROOT / "recipes" / "speech_commands" / "nine_classes.yaml", "canonical-test"),
    "commands-ar": (ROOT / "recipes" / "arabic_speech_commands" / "commands.yaml", "validation"),
}
"""Bundled models: the recipe each comes from, whose card stands beside it, and the split that it is
measured on."""


def percent(score: Score) -> str:
    """Return a score with its interval."""
    return f"{100 * score.value:.2f} % ({100 * score.low:.2f}–{100 * score.high:.2f})"


def scores(report: Report, split: str) -> dict[str, str]:
    """Return what the card says of a report, 95 % intervals in brackets."""
    found = {f"{split} accuracy": percent(report.accuracy)}
    for name, score in (("WER", report.wer), ("CER", report.cer)):
        if score:
            found[f"{split} {name}"] = percent(score)
    found[f"{split} utterances"] = str(report.utterances)
    found["real-time factor, one thread"] = f"{report.real_time_factor:.4f}"
    return found


def markdown(card: dict[str, Any]) -> str:
    """Return a card as a page."""
    lines = [f"# {card['name']}", ""]
    for key, value in card.items():
        if isinstance(value, dict):
            lines += [f"- **{key}**:", *(f"  - {name}: {text}" for name, text in value.items())]
        elif key != "name":
            lines.append(f"- **{key}**: {value}")
    return "\n".join(lines) + "\n"


def build(name: str, run: Path) -> None:
    """Train (where `run` is not there), evaluate, export with the card.

    Raises:
        SpeechseqError: as training, evaluation and export.
    """
    source, split = SOURCES[name]
    if not (run / MODEL).is_file():
        train(read_recipe(source), run, note=lambda text: print(text, file=sys.stderr))
    recipe, vocabulary = read_run(run)
    report = evaluate(load(run), load_split(recipe.data, split, recipe.seed))
    text = yaml.safe_load(source.with_suffix(".card.yaml").read_text(encoding="utf-8"))
    network = load_network(run / WEIGHTS, recipe, len(vocabulary))
    measured = scores(report, split)
    card = card_of(network, recipe, {**text, "name": name, "seed": recipe.seed, "scores": measured})
    clips = load_split(recipe.data, "validation", recipe.seed)
    target = BUNDLED / f"{name}.onnx"
    export_network(network, recipe, vocabulary, target, card=card, utterances=clips)
    with atomic_write(BUNDLED / f"{name}.md") as file:
        file.write(markdown(card).encode())
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {measured}")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--run", type=Path, help="run folder (default: runs/NAME)")
    arguments = parser.parse_args()
    try:
        build(arguments.name, arguments.run or ROOT / "runs" / arguments.name)
    except SpeechseqError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
