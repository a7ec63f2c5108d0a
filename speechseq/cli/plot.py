"""speechseq plot: learning curves as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import add_force, check_png, each_once, note, refuse_existing
from speechseq.errors import SomeInputsFailed, SpeechseqError

if TYPE_CHECKING:
    from speechseq.run_plot import Curves

HELP = "learning curves of runs as a PNG picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="default: curves.png"
    )
    add_force(parser, "the picture")


def run(arguments: argparse.Namespace) -> None:
    output = arguments.output
    check_png(output)
    refuse_existing(arguments.force, output)
    from speechseq.run_plot import draw_curves

    curves, failed = _read(arguments.inputs)
    if curves:
        draw_curves(curves, output, overwrite=arguments.force)
        print(output, flush=True)
    if failed:
        raise SomeInputsFailed(
            f"{failed} of {failed + len(curves)} runs failed; they are named above"
        )


def _read(names: Sequence[str]) -> tuple[list[Curves], int]:
    """Read each run once; those that fail are noted and counted."""
    from speechseq.run_plot import legend_names, read_curves

    runs = each_once(names)
    curves, failed = [], 0
    for name, legend in zip(runs, legend_names(runs), strict=True):
        try:
            curves.append(read_curves(name, legend))
        except SpeechseqError as error:
            if len(runs) == 1:
                raise
            failed += 1
            note(f"speechseq: {error}")
    return curves, failed
