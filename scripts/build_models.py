"""Build a bundled model: train its recipe, measure it, and export it with its card.

    python scripts/build_models.py digits [--run runs/digits_final]

An existing run folder is taken as it is; one that a script makes of trained ones must be there.
Writes speechseq/models/NAME.onnx and NAME.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import one_line_errors, parser_of
from runs import trained

from speechseq.errors import ModelError
from speechseq.evaluation import Report, evaluate
from speechseq.files import atomic_write
from speechseq.model_file import BUNDLED, read_model
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import load_split
from speechseq.training.export import export, read_card
from speechseq.training.run_folder import holds_run, read_run

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Source:
    """What a bundled model comes from: a recipe under recipes/, whose card stands beside it.

    It is measured on `split`. A final run, which has heard all there is, is measured on none: its
    card says how its like did. `int8` makes it a quarter as large. `made` names the run that a
    script makes of trained ones, where that is bundled: it is not trained here.
    """

    place: str
    split: str = ""
    int8: bool = False
    made: str = ""

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return ROOT / "recipes" / f"{self.place}.yaml"

    @property
    def card(self) -> Path:
        """The card's file."""
        return ROOT / "recipes" / f"{self.place}.card.yaml"


SOURCES = {
    "digits": Source("fsdd/digits_final", "test"),
    "digits-live": Source("fsdd/one_direction_voices", "test"),
    "commands-en": Source(
        "speech_commands/nine_classes_final", "canonical-test", made="nine_classes_weighed"
    ),
    "commands-ar": Source("arabic_speech_commands/commands", "validation"),
    "commands-ar-small": Source("arabic_speech_commands/small", "validation"),
    "commands-ar-tiny": Source("arabic_speech_commands/tiny", "validation"),
    "an4": Source("an4/final", int8=True, made="an4_final_blended"),
}
"""The bundled models."""


def scores(report: Report, split: str) -> dict[str, str]:
    """Return what the card says of a report, 95 % intervals in brackets."""
    found = {f"{split} accuracy": report.accuracy.percent()}
    for name, score in (("WER", report.wer), ("CER", report.cer)):
        if score:
            found[f"{split} {name}"] = score.percent()
    found[f"{split} utterances"] = str(report.utterances)
    found["real-time factor, one thread"] = f"{report.real_time_factor:.4f}"
    return found


def markdown(card: Mapping[str, Any]) -> str:
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
        SpeechseqError: as training, evaluation and export; a run that is made is not there.
    """
    source = SOURCES[name]
    card = read_card(source.card)
    if not source.made:
        trained(read_recipe(source.recipe), run, device="auto", note=_note)
    elif not holds_run(run):
        raise ModelError(f"{run}: no run is there; make it so: {card['command']}")
    recipe, _ = read_run(run)
    card |= {"name": name, "seed": recipe.seed}
    target = BUNDLED / f"{name}.onnx"
    clips = load_split(recipe.data, "validation", recipe.seed)
    if source.split:
        # What is shipped is measured: 8-bit weights are others than the run's.
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / target.name
            export(run, trial, int8=source.int8, card=card, utterances=clips, note=_note)
            report = evaluate(load(trial), load_split(recipe.data, source.split, recipe.seed))
        card["scores"] = scores(report, source.split)
    export(run, target, int8=source.int8, card=card, utterances=clips, note=_note)
    with atomic_write(BUNDLED / f"{name}.md") as file:
        file.write(markdown(read_model(target).card).encode())
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {card['scores']}")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--run", type=Path, help="run folder (default: that of the recipe)")
    arguments = parser.parse_args()
    with one_line_errors():
        source = SOURCES[arguments.name]
        own = source.made or read_recipe(source.recipe).name
        build(arguments.name, arguments.run or ROOT / "runs" / own)
    return 0


if __name__ == "__main__":
    sys.exit(main())
