"""speechseq runs: a table of what was trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from speechseq.cli.terminal import note
from speechseq.errors import SomeInputsFailed, SpeechseqError

HELP = "a table of the runs: model, size, best validation error, time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="searched for runs (default: runs)"
    )
    parser.add_argument(
        "-f", "--format", choices=("txt", "json"), default="txt", help="default: txt"
    )


def run(arguments: argparse.Namespace) -> None:
    from speechseq.run_table import find_runs, summarise, table_text

    summaries, failed = [], 0
    for folder in find_runs(arguments.folders or [Path("runs")]):
        try:
            summaries.append(summarise(folder))
        except SpeechseqError as error:
            note(f"speechseq: {error}")
            failed += 1
    if arguments.format == "json":
        print(json.dumps([summary.to_dict() for summary in summaries], indent=1))
    else:
        print(table_text(summaries))
    if failed:
        raise SomeInputsFailed(f"{failed} runs could not be read; they are named above")
