"""speechseq export: a run to one ONNX file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import add_force, need_training, note, refuse_existing
from speechseq.errors import SpeechseqError

if TYPE_CHECKING:
    from speechseq.manifest import Utterance

HELP = "a run to one ONNX file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a training")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--int8", action="store_true", help="quantise, and measure what it costs")
    parser.add_argument("--card", type=Path, help="YAML of what the model's card should say")
    parser.add_argument("--manifest", type=Path, help="compare on these, not on validation")
    parser.add_argument("--split", default="", help="split of the manifest (default: validation)")
    parser.add_argument("--root", default="", help="place of the corpus")
    add_force(parser, "MODEL.onnx")


def run(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.force, arguments.output)
    need_training()
    from speechseq.training.export import export, read_card

    export(
        arguments.run,
        arguments.output,
        int8=arguments.int8,
        card=read_card(arguments.card) if arguments.card else None,
        utterances=_compared(arguments),
        note=note,
    )
    print(arguments.output)


def _compared(arguments: argparse.Namespace) -> list[Utterance]:
    """List what an export is compared on: a manifest, or the validation split if it is here."""
    from speechseq.manifest import read_split
    from speechseq.splits import load_split
    from speechseq.training.run_folder import read_run

    if arguments.manifest:
        return read_split(arguments.manifest, arguments.split, usual="validation")
    recipe, _ = read_run(arguments.run)
    settings = dataclasses.replace(recipe.data, root=arguments.root or recipe.data.root)
    try:
        return load_split(settings, "validation", recipe.seed)
    except SpeechseqError as error:
        if arguments.root:
            raise
        note(f"comparing on noise alone: {error}")
        return []
