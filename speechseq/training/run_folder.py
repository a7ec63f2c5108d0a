"""The folder of a run: resolved recipe, vocabulary, versions, weights, and reading them back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from speechseq import __version__
from speechseq.errors import DataError, ModelError
from speechseq.files import atomic_write, cache_folder, writing
from speechseq.manifest import MANIFEST
from speechseq.model_file import (
    RUN_DATA,
    RUN_RECIPE,
    RUN_VOCABULARY,
    RUN_WEIGHTS,
    bundled_names,
)
from speechseq.recipe import MANIFEST_SETTINGS, DataSettings, Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recipe_file import parse_yaml
from speechseq.recogniser import Recogniser
from speechseq.tokens import Vocabulary
from speechseq.training.checkpoint import has_checkpoint
from speechseq.training.encoder import choose_device, load_network, torch_network

VERSIONS = "versions.json"
BAD_BATCH = "bad_batch.jsonl"

_SETTINGS = "settings"
"""Where RUN_DATA keeps the recipe that a run began with."""

MAY_CHANGE = (
    "name",
    "data.root",
    "data.noise",
    "data.pronunciations",
    "data.cache_ram_gigabytes",
    *(f"data.{name}" for name in MANIFEST_SETTINGS),
    "training.base",
    "training.teacher",
    "training.keep_checkpoints",
    "decoding",
)
"""What of a run's recipe may be another when it is resumed: places, and what no weight follows
from. Whether the data are the same is seen by themselves."""


def begin_run(
    run: Path, recipe: Recipe, vocabulary: Vocabulary, sizes: Mapping[str, Mapping[str, float]]
) -> None:
    """Make a run folder with what a training starts from; `sizes` say how much each split holds.

    Raises:
        ModelError: a run, or a recipe that is no run's, is there already.
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
        (RUN_VOCABULARY, json.dumps(vocabulary.to_dict(), ensure_ascii=False)),
        (VERSIONS, json.dumps(versions)),
        (RUN_DATA, json.dumps({**sizes, _SETTINGS: recipe.to_dict()})),
        (RUN_RECIPE, yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)),
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


def refuse_other_settings(run: Path, recipe: Recipe) -> None:
    """Raise a ModelError where a run's recipe is not the one it began with, as somebody edited it.

    Weights of another shape would not fit, and what it says of how it was trained would be false.
    """
    try:
        began = json.loads((run / RUN_DATA).read_text(encoding="utf-8"))[_SETTINGS]
        before = dict(_flat(began))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # a run of before it was written down
    for key, value in _flat(json.loads(json.dumps(recipe.to_dict()))):
        section = key.partition(".")[0]
        if before.get(key, value) != value and not {key, section} & {*MAY_CHANGE}:
            raise ModelError(
                f"{run / RUN_RECIPE}: {key} is {value}, and was {before[key]} when the run began; "
                f"set it back, or train into another folder"
            )


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a recipe's settings by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", setting) for key, setting in value.items())
        else:
            yield name, value


def holds_run(run: Path) -> bool:
    """Tell whether a run was begun in a folder: `init` writes a recipe, too, but no vocabulary."""
    return (run / RUN_RECIPE).exists() and (run / RUN_VOCABULARY).exists()


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
            data,
            root=_place(data.root),
            noise=_place(data.noise),
            pronunciations=_place(data.pronunciations),
            **_manifests(data),
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


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep others on this machine from training in a folder meanwhile.

    Windows cannot, nor can a disk without locks.

    Raises:
        ModelError: another process trains in it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    # Beside the features, as the folder of a run that may yet be refused is not to be made.
    name = hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:32]
    lock = cache_folder() / "locks" / name
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "ab")  # noqa: SIM115 (closed below)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"{run}: another process is training in it; wait for it, or name another with -o"
            ) from None
        except OSError:
            pass  # as many networks' disks are
        yield


def refuse_run(run: Path) -> None:
    """Raise a ModelError where no run can be begun.

    A run is there already, or what is left of one, or a recipe that one would write over, or
    nothing can be written.
    """
    if holds_run(run):
        raise ModelError(f"{run}: holds a run already; name another with -o, or --resume it")
    if (run / RUN_RECIPE).exists():
        raise ModelError(f"{run}: holds a recipe that is no run's; name another folder with -o")
    if has_checkpoint(run):  # --resume would take up what another run learnt
        raise ModelError(f"{run}: holds another run's checkpoints; name another folder with -o")
    there = next(place for place in (run, *run.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ModelError(f"{there}: no folder that can be written to; name another with -o")


def read_run(run: Path) -> tuple[Recipe, Vocabulary]:
    """Read the resolved recipe and the vocabulary of a run folder.

    Raises:
        ModelError: it is not a run folder, or damaged.
    """
    try:
        tree = parse_yaml((run / RUN_RECIPE).read_text(encoding="utf-8"))
        tokens = json.loads((run / RUN_VOCABULARY).read_text(encoding="utf-8"))
        recipe = recipe_from_dict(tree, str(run / RUN_RECIPE))
        return recipe, Vocabulary.from_dict(tokens)
    except OSError as error:
        raise ModelError(f"{run}: not a run folder ({error.strerror}); train into it") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ModelError(f"{run}: damaged ({' '.join(str(error).split())}); train again") from None


def load_run(run: Path, device: str = "auto") -> Recogniser:
    """Return the recogniser of a run's best weights, run by PyTorch on a device.

    Raises:
        ModelError: not a run folder, damaged, or the device is not there.
    """
    where = choose_device(device)
    recipe, vocabulary = read_run(run)
    network = load_network(run / RUN_WEIGHTS, recipe, vocabulary)
    return Recogniser(torch_network(network, where), vocabulary, recipe)
