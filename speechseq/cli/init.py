"""speechseq init: a recipe for data of one's own."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from speechseq.cli.terminal import note
from speechseq.errors import UsageError

HELP = "a recipe for your own recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP}: look at them, propose splits, and write NAME/data.jsonl and a commented "
        "NAME/recipe.yaml to train."
    )
    parser.add_argument("name", metavar="NAME", help="of the recogniser, and of the folder to make")
    parser.add_argument(
        "--from",
        dest="place",
        type=Path,
        required=True,
        metavar="DATA",
        help="one folder a class, a CSV (path, text, speaker), or a manifest of JSON lines",
    )
    parser.add_argument("--base", default="", metavar="MODEL", help="start from this model")


def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.name)
    if folder.name in ("", "..") or "\\" in folder.name:  # a recipe has no such name
        raise UsageError(f"{arguments.name!r}: not a name; choose one, as for a folder")
    from speechseq.model_file import find_model
    from speechseq.proposal import propose, write_proposal

    if arguments.base:
        find_model(arguments.base)
    proposal = propose(arguments.place, folder.name, arguments.base)
    recipe = write_proposal(proposal, folder.name, folder)
    for line in (*proposal.head, *(f"mind: {warning}" for warning in proposal.warnings)):
        note(line)
    if proposal.better_base:
        again = f"{arguments.name.rstrip('/')}-on-{proposal.better_base}"
        note(
            "better, of so few clips a class (measured on 40 Arabic words: 10 of each with it beat "
            f"100 without): speechseq init {shlex.quote(again)} --from "
            f"{shlex.quote(str(arguments.place))} --base {proposal.better_base}"
        )
    run = shlex.quote(f"runs/{folder.name}")
    scored = f"speechseq evaluate {run} --split {shlex.quote(proposal.scored_split)}"
    note(f"now: speechseq train {shlex.quote(str(recipe))} && {scored}")
    print(recipe)
