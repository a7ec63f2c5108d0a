"""speechseq evaluate: a model to scores."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import Bar, add_device, open_recogniser
from speechseq.errors import SomeInputsFailed, UsageError

if TYPE_CHECKING:
    from speechseq.manifest import Utterance
    from speechseq.recogniser import Recogniser

HELP = "a model to scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="bundled name, model file or run folder")
    parser.add_argument("--split", help="split of the corpus (default: test)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--corpus", help="corpus (default: the one the model was trained on)")
    where.add_argument("--manifest", type=Path, help="JSON lines to score instead of a corpus")
    parser.add_argument("--root", default="", help="place of the corpus")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything here")
    parser.add_argument("--png", type=Path, help="draw the confusion matrix here")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from speechseq.evaluation import draw_confusion, evaluate, report_text
    from speechseq.files import atomic_write

    recogniser = open_recogniser(arguments.model, arguments.device)
    utterances = _evaluated(arguments, recogniser)
    bar = Bar()
    report = evaluate(recogniser, utterances, progress=lambda done, of: bar("evaluate", done, of))
    print(report_text(report))
    if arguments.output:
        with atomic_write(arguments.output) as file:
            file.write(json.dumps(report.to_dict(), ensure_ascii=False, indent=1).encode())
    if arguments.png:
        draw_confusion(report, arguments.png)
    if report.failed:
        raise SomeInputsFailed(f"{len(report.failed)} of {len(utterances)} could not be read")


def _evaluated(arguments: argparse.Namespace, recogniser: Recogniser) -> list[Utterance]:
    from speechseq.manifest import read_manifest
    from speechseq.recipe import DataSettings
    from speechseq.splits import load_split

    if arguments.manifest:
        utterances = read_manifest(arguments.manifest)
        chosen = [u for u in utterances if arguments.split in (None, u.split)]
        if not chosen:
            raise UsageError(f"{arguments.manifest}: no utterance of split {arguments.split!r}")
        return chosen
    settings = recogniser.recipe.data
    if arguments.corpus and arguments.corpus != settings.corpus:
        settings = DataSettings(corpus=arguments.corpus)
    settings = dataclasses.replace(settings, root=arguments.root)
    return load_split(settings, arguments.split or settings.test_split, recogniser.recipe.seed)
