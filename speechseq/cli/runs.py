"""speechseq runs: a table of what was trained."""

from __future__ import annotations

import argparse
import json

from speechseq.cli.terminal import note
from speechseq.errors import SomeInputsFailed

HELP = "a table of the runs: model, size, best validation error, time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="*", metavar="FOLDER", help="searched for runs (default: runs)"
    )
    parser.add_argument(
        "-f", "--format", choices=("txt", "json"), default="txt", help="default: txt"
    )


def run(arguments: argparse.Namespace) -> None:
    from speechseq.run_table import read_runs, table_text

    summaries, errors = read_runs(arguments.inputs or ["runs"])
    if not summaries and len(errors) == 1:
        raise errors[0]
    for error in errors:
        note(f"speechseq: {error}")
    if arguments.format == "json":
        values = [summary.to_dict() for summary in summaries]
        text = json.dumps(values, ensure_ascii=False, indent=1)
        print(text.encode(errors="backslashreplace").decode(), flush=True)
    elif summaries:
        print(table_text(summaries), flush=True)
    if errors:
        raise SomeInputsFailed(f"{len(errors)} could not be read; they are named above")
