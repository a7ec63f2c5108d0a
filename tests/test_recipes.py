"""Every recipe, and every corpus, trains two steps on synthesised audio and ships a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from layouts import make_layout

from speechseq.corpora import CORPORA
from speechseq.model_file import RUN_METRICS
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.recogniser import load
from speechseq.splits import corpus_options, training_splits
from speechseq.training.loop import train
from speechseq.training.pronunciations import read_pronunciations

FOLDER = Path(__file__).parent.parent / "recipes"
CARDS = sorted(FOLDER.glob("*/*.card.yaml"))
RECIPES = sorted(set(FOLDER.glob("*/*.yaml")) - set(CARDS))

SMALL = (
    "training.epochs=1", "model.hidden=8", "model.channels=4", "model.layers=2",
    "augment.speeds=[0.9, 1.0]",
)  # fmt: skip

LAYOUT_HAS = {
    "an4": ["data.validation_speakers=1", "data.same_words=[]"],
    "arabic_speech_commands": ["training.teacher=''"],
    "fsdd": ["data.same_words=[]"],
    "speech_commands": [
        "data.words=['yes', 'no']",
        "data.others=[]",
        "data.same_words=[]",
        "data.unknown_words=[]",
    ],
}
"""What the small trees of layouts.py have instead of what a recipe asks for."""

SPLITS = {
    "librispeech": {"train_split": "train-clean-100", "validation_split": "dev-clean"},
    "mini_librispeech": {"train_split": "train-clean-5", "validation_split": "dev-clean-2"},
}


def corpus_of(path: Path) -> str:
    """Return the corpus a recipe is for: its folder's, but what is composed is a manifest."""
    composed = {"cells/memory", "speech_commands/phones"}
    return "jsonl" if named(path) in composed else path.parent.name


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a corpus' tree once."""
    made: dict[str, Path] = {}

    def find(corpus: str) -> Path:
        if corpus not in made:
            made[corpus] = make_layout(corpus, tmp_path_factory.mktemp("corpora"))
        return made[corpus]

    return find


def trains(recipe: Recipe, run: Path) -> None:
    """Train one short epoch of at least two steps and use what comes of it."""
    notes: list[str] = []
    model = train(recipe, run, device="cpu", note=notes.append)
    (row,) = map(json.loads, (run / RUN_METRICS).read_text().splitlines())
    assert row["step"] >= 2
    assert row["loss"] > 0
    assert any("parity with PyTorch" in note for note in notes)
    assert not any(note.startswith("dropped") for note in notes)
    recogniser = load(model)
    clip = next(u for u in training_splits(recipe.data, recipe.seed)[0] if u.audio_filepath)
    assert recogniser.transcribe(clip.audio_filepath).duration > 0
    assert recipe.training.base or recogniser.recipe.model == recipe.model
    assert recogniser.recipe.data.root == ""


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_says_what_it_is_for_its_corpus(path: Path) -> None:
    recipe = read_recipe(path)
    assert path.read_text().startswith("# ")
    folder = path.parent.name
    assert recipe.name in (path.stem, folder, f"{folder}_{path.stem}")
    assert recipe.data.corpus == corpus_of(path)
    assert not recipe.data.root, "a place on the maker's disk"
    corpus = CORPORA[recipe.data.corpus]
    corpus_options(corpus, recipe.data)
    assert {recipe.data.train_split, recipe.data.test_split} <= set(
        corpus.splits
    ) or not corpus.folder
    assert read_recipe(path, ["seed=7"]).seed == 7


def base_of(path: Path) -> Path | None:
    """Return the recipe whose run a recipe goes on from."""
    base = read_recipe(path).training.base
    return {f"runs/{read_recipe(other).name}": other for other in RECIPES}.get(base)


def small(path: Path, root: Path) -> list[str]:
    """Return what makes a recipe train on a small tree."""
    corpus = corpus_of(path)
    overrides = [*SMALL, f"data.root={json.dumps(str(root))}", *LAYOUT_HAS.get(corpus, [])]
    data = read_recipe(path, overrides).data
    return [*overrides, f"training.batch={len(training_splits(data, 0)[0]) // 8 + 1}"]


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_trains(path: Path, place: Callable[[str], Path], tmp_path: Path) -> None:
    trains_with_its_bases(path, place, tmp_path / "run")


def trains_with_its_bases(path: Path, place: Callable[[str], Path], run: Path) -> None:
    overrides = small(path, place(corpus_of(path)))
    if base := base_of(path):
        before = run.with_name(f"before_{run.name}")
        trains_with_its_bases(base, place, before)
        overrides.append(f"training.base={before}")
    trains(read_recipe(path, overrides), run)


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_trains(corpus: str, place: Callable[[str], Path], tmp_path: Path) -> None:
    tree = {
        "data": {"corpus": corpus, "root": str(place(corpus)), **SPLITS.get(corpus, {})},
        "features": {"rate": 8000, "mels": 16, "low_hz": 60},
        "model": {"hidden": 8, "layers": 1},
        "training": {"epochs": 1, "batch": 2},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    recipe = read_recipe(path)
    size = len(training_splits(recipe.data, 0)[0]) // 3 + 1
    trains(read_recipe(path, [f"training.batch={size}"]), tmp_path / "run")


@pytest.mark.parametrize("path", CARDS, ids=named)
def test_a_card_belongs_to_a_recipe_and_is_plain_text(path: Path) -> None:
    card = yaml.safe_load(path.read_text())
    assert path.with_name(path.name.replace(".card", "")) in RECIPES
    assert json.loads(json.dumps(card)) == card


def test_there_are_recipes() -> None:
    assert {corpus_of(path) for path in RECIPES} <= set(CORPORA)
    assert FOLDER / "fsdd" / "digits.yaml" in RECIPES


def test_no_two_recipes_train_into_one_folder() -> None:
    names = [read_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


def test_no_word_taught_as_unknown_sounds_as_a_command() -> None:
    sounds = read_pronunciations(FOLDER / "speech_commands" / "pronunciations.txt")
    unknown = (FOLDER / "speech_commands" / "unknown_words.txt").read_text().split()
    recipe = read_recipe(FOLDER / "speech_commands" / "nine_classes.yaml")
    commands = {sounds[word] for word in recipe.data.words}
    assert len(commands) == 7
    assert not [word for word in unknown if sounds[word] in commands]
