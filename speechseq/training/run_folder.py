"""The folder of a run: resolved recipe, vocabulary, versions, weights, and reading them back."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from speechseq import __version__
from speechseq.errors import DataError, ModelError
from speechseq.files import atomic_write
from speechseq.manifest import MANIFEST
from speechseq.model_file import (
    RUN_DATA,
    RUN_METRICS,
    RUN_MODEL,
    RUN_RECIPE,
    RUN_WEIGHTS,
    bundled_names,
)
from speechseq.recipe import MANIFEST_SETTINGS, DataSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser
from speechseq.tokens import Vocabulary
from speechseq.training.encoder import choose_device, load_network, torch_network

RECIPE = RUN_RECIPE
VOCABULARY = "vocabulary.json"
VERSIONS = "versions.json"
WEIGHTS = RUN_WEIGHTS
METRICS = RUN_METRICS
BAD_BATCH = "bad_batch.jsonl"
MODEL = RUN_MODEL


def begin_run(
    run: Path, recipe: Recipe, vocabulary: Vocabulary, sizes: Mapping[str, Mapping[str, float]]
) -> None:
    """Make a run folder with what a training starts from; `sizes` say how much each split holds.

    Raises:
        ModelError: a run is there already.
    """
    refuse_run(run)
    recipe = _placed(recipe)
    versions = {
        "speechseq": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    for name, text in (
        (VOCABULARY, json.dumps(vocabulary.to_dict(), ensure_ascii=False)),
        (VERSIONS, json.dumps(versions)),
        (RUN_DATA, json.dumps(sizes)),
        (RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)),
    ):
        with atomic_write(run / name) as file:
            file.write(text.encode())


def refuse_other_data(run: Path, sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a DataError where the data are not those that a run began with.

    What was learnt from might be validated on, and an epoch would not go on where it stopped.
    """
    try:
        began = json.loads((run / RUN_DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # a run of before it was written down
    for split, size in sizes.items():
        before = began.get(split) if isinstance(began, dict) else None
        if not isinstance(before, dict):
            raise ModelError(f"{run / RUN_DATA}: damaged; train again")
        if any(before.get(name, value) != value for name, value in size.items()):
            raise DataError(
                f"{run}: began with other data, or in another order "
                f"({before.get('utterances')} utterances of {split}, now {size['utterances']}); "
                f"bring them back, or train anew"
            )


def holds_run(run: Path) -> bool:
    """Tell whether a run was begun in a folder."""
    return (run / RECIPE).exists()


def begun_with(run: Path, recipe: Recipe) -> bool:
    """Tell whether the run in a folder, if there is one, was begun with this recipe.

    Raises:
        ModelError: the run is damaged.
    """
    return holds_run(run) and read_run(run)[0] == _placed(recipe)


def _placed(recipe: Recipe) -> Recipe:
    """Return a recipe whose places are found from anywhere: a run may be resumed from elsewhere."""
    data, training = recipe.data, recipe.training
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(
            data, root=_place(data.root), noise=_place(data.noise), **_manifests(data)
        ),
        training=dataclasses.replace(
            training, base=_model_place(training.base), teacher=_model_place(training.teacher)
        ),
    )


def _manifests(data: DataSettings) -> dict[str, Any]:
    """Return the settings that name corpora or manifests, these by their places."""
    return {
        setting: tuple(_place(n) if n.endswith(MANIFEST) else n for n in getattr(data, setting))
        for setting in MANIFEST_SETTINGS
    }


def _place(name: str) -> str:
    return str(Path(name).absolute()) if name else ""


def _model_place(name: str) -> str:
    """Return where a model is, seen from anywhere; nothing and bundled models stay as they are."""
    return name if name in bundled_names() else _place(name)


def refuse_run(run: Path) -> None:
    """Raise a ModelError where a run is already."""
    if holds_run(run):
        raise ModelError(f"{run}: holds a run already; name another with -o, or --resume it")


def read_run(run: Path) -> tuple[Recipe, Vocabulary]:
    """Read the resolved recipe and the vocabulary of a run folder.

    Raises:
        ModelError: it is not a run folder, or damaged.
    """
    try:
        tree = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
        tokens = json.loads((run / VOCABULARY).read_text(encoding="utf-8"))
        recipe = recipe_from_dict(tree, str(run / RECIPE))
        return recipe, Vocabulary.from_dict(tokens)
    except OSError as error:
        raise ModelError(f"{run}: not a run folder ({error.strerror}); train into it") from None
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ModelError(f"{run}: damaged ({' '.join(str(error).split())}); train again") from None


def load_run(run: Path, device: str = "auto") -> Recogniser:
    """Return the recogniser of a run's best weights, run by PyTorch on a device.

    Raises:
        ModelError: not a run folder, damaged, or the device is not there.
    """
    where = choose_device(device)
    recipe, vocabulary = read_run(run)
    network = load_network(run / WEIGHTS, recipe, vocabulary.told_as)
    return Recogniser(torch_network(network, where), vocabulary, recipe)
