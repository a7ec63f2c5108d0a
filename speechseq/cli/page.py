"""speechseq page: recognition in the browser, as a folder that any web server can serve."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import note
from speechseq.errors import UsageError

if TYPE_CHECKING:
    from speechseq.model_file import ModelFile

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
    if os.path.lexists(folder) and not arguments.force:
        raise UsageError(f"{folder}: is there already; --force writes over it")
    from speechseq.server.site import need_runtime, write_site

    need_runtime()
    write_site(folder, _open_models(arguments.inputs), overwrite=arguments.force)
    note(f"now: python -m http.server -b 127.0.0.1 -d {folder}")
    print(folder)


def _open_models(inputs: list[str]) -> dict[str, ModelFile]:
    """Open each model under its bundled name, its file's stem or its folder's name."""
    from speechseq.model_file import DEFAULT_MODEL, read_model

    models: dict[str, ModelFile] = {}
    for model in inputs or [DEFAULT_MODEL]:
        path = Path(model)
        name = path.resolve().name if path.is_dir() else path.stem
        if name in models:
            raise UsageError(f"{model}: a second model called {name!r}; rename one of them")
        models[name] = read_model(model)
    return models
