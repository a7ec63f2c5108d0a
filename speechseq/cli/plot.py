"""speechseq plot: learning curves as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "learning curves of runs as a PNG picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="default: curves.png"
    )
    parser.add_argument("--force", action="store_true", help="write over the picture")


def run(arguments: argparse.Namespace) -> None:
    from speechseq.errors import ModelError
    from speechseq.model_file import RUN_RECIPE
    from speechseq.run_table import draw_curves

    for folder in arguments.runs:
        if not (folder / RUN_RECIPE).is_file():
            raise ModelError(f"{folder}: not a run folder; see 'speechseq runs'")
    draw_curves(arguments.runs, arguments.output, overwrite=arguments.force)
    print(arguments.output)
