"""speechseq train: a recipe to a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from speechseq.cli.terminal import Bar, add_device, need_training
from speechseq.errors import UsageError

HELP = "a recipe to a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "speechseq/recipe.py describes every setting and its default, recipes/README.md the "
        "recipes to begin with."
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="RECIPE.yaml [key=value …]", help="e.g. training.epochs=5"
    )
    parser.add_argument("-o", "--output", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--base", metavar="MODEL", help="start from this model's weights")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from speechseq.recipe import Recipe
    from speechseq.recipe_file import read_recipe

    if bool(arguments.inputs) == bool(arguments.resume):
        raise UsageError("train: give a recipe, or --resume RUN, and not both; see train --help")
    if arguments.resume and arguments.output:
        raise UsageError("train: --resume goes on in its own folder; leave -o out")
    if arguments.resume and arguments.base:
        raise UsageError("train: --resume goes on with its own weights; leave --base out")
    if arguments.inputs:
        _refuse_folder(Path(arguments.inputs[0]))
    base = [f"training.base={json.dumps(arguments.base)}"] if arguments.base else []
    recipe = (
        Recipe()
        if arguments.resume
        else read_recipe(arguments.inputs[0], [*arguments.inputs[1:], *base])
    )
    run = arguments.resume or arguments.output or Path("runs") / recipe.name
    need_training()
    from speechseq.training.distributed import from_environment
    from speechseq.training.loop import train

    bar = Bar()
    model = train(
        recipe,
        run,
        device=arguments.device,
        resume=arguments.resume is not None,
        note=bar.note,
        show=bar,
    )
    if from_environment().writes:
        print(model)


def _refuse_folder(recipe: Path) -> None:
    """Refuse a folder in place of the recipe in it, as `init` makes one."""
    from speechseq.model_file import RUN_RECIPE

    if (recipe / RUN_RECIPE).is_file():
        raise UsageError(f"{recipe}: is a folder; did you mean {recipe / RUN_RECIPE}?")
