"""speechseq models: list the bundled models, or print a card."""

from __future__ import annotations

import argparse
import json

HELP = "list the bundled models, or print a card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="print this model's card")


def run(arguments: argparse.Namespace) -> None:
    from speechseq.model_file import bundled_names, read_model

    if arguments.model is not None:
        print(json.dumps(dict(read_model(arguments.model).card), ensure_ascii=False, indent=1))
        return
    for name in bundled_names():
        model = read_model(name)
        size = model.path.stat().st_size / 1e6
        corpus, licence = model.card.get("corpus", ""), model.card.get("licence", "")
        print(f"{name}\t{size:.1f} MB\t{corpus}\t{licence}")
