"""speechseq forecast: how good more recordings would make it."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechseq.cli.terminal import add_force, check_png, each_once, note, refuse_existing

HELP = "how good more recordings would make it, from runs on less of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP}. Fits error = a · clips^-b through runs on parts of the data "
        "(data.clips_per_class=10, 30, 100 …) and says what more would give."
    )
    parser.add_argument("inputs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("-o", "--output", type=Path, metavar="PNG", help="draw a picture, too")
    add_force(parser, "the picture")


def run(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output:
        check_png(output)
    refuse_existing(arguments.force, output)
    from speechseq.forecast import draw_forecast, fit_laws, forecast_text, read_point, weaknesses

    laws = fit_laws([read_point(name) for name in each_once(arguments.inputs)])
    for weakness in weaknesses(laws):
        note(f"mind: {weakness}")
    print(forecast_text(laws))
    if output:
        draw_forecast(laws, output, overwrite=arguments.force)
