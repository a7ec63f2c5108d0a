"""speechseq page: recognition in the browser, as a folder that any web server can serve."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from speechseq.cli.terminal import by_name, note
from speechseq.errors import UsageError

HELP = "a web page that recognises in the browser, as a folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="MODEL",
        help="bundled name, model file or run (default: digits)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="write over what is in the folder")


def run(arguments: argparse.Namespace) -> None:
    folder = arguments.output
    if folder.exists() and not arguments.force:
        raise UsageError(f"{folder}: is there already; --force writes over what is in it")
    from speechseq.model_file import read_model
    from speechseq.server.site import write_site

    models = {name: read_model(model) for name, model in by_name(arguments.inputs).items()}
    write_site(folder, models, overwrite=arguments.force)
    note(f"now: python -m http.server -b 127.0.0.1 -d {shlex.quote(str(folder))}")
    print(folder)
