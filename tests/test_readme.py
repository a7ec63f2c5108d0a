"""What the READMEs say can be typed, can be typed; what they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from speechseq.cli import COMMANDS, build_parser
from speechseq.model_file import bundled_names, read_model
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recipe_file import read_recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("recipes/**/README.md")),
]


def commands(page: Path) -> list[list[str]]:
    """Every `speechseq …` line of a page's shell blocks, split as a shell would."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    parts = [
        part.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        for part in re.split(r"&&|\||;", line)
    ]
    found = [shlex.split(part, comments=True) for part in parts if part.startswith("speechseq ")]
    return [words for words in found if words]


def test_there_are_commands_to_check() -> None:
    assert len(commands(ROOT / "README.md")) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse_and_name_what_exists(page: Path) -> None:
    for words in commands(page):
        parsed, left = build_parser().parse_known_args(words[1:])
        assert parsed.command in COMMANDS
        assert not [word for word in left if word.startswith("-")], words
        for word in words:
            if word.startswith(("recipes/", "data/samples/")):
                assert (ROOT / word).exists(), f"{page}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page}: {target}"
    for path in re.findall(r"`((?:recipes|scripts|speechseq|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{page}: {path}"


def test_no_figure_is_left_to_fill_in() -> None:
    for page in PAGES:
        assert not re.findall(r"@[A-Z_]+@|TODO|XXX", page.read_text()), page


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    recipe = read_recipe(tmp_path / "mine.yaml")
    assert recipe.data.corpus == "folder"
    assert recipe == recipe_from_dict(recipe.to_dict(), "again")
    assert recipe != Recipe(name="mine")


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_models_score_stands_in_the_readme(name: str) -> None:
    """What its card says was measured; a row of the README's table says the same."""
    told = re.findall(r"([\d.]+ %) (\([\d.]+–[\d.]+)", str(read_model(name).card["scores"]))
    rows = [x for x in (ROOT / "README.md").read_text().splitlines() if x.startswith("| ")]
    rows = [row for row in rows if f"`{name}`" in row or "the same" in row]
    assert any(all(part in row for part in score) for row in rows for score in told), told


def test_every_recipe_is_in_its_folders_readme() -> None:
    for recipe in ROOT.glob("recipes/*/*.yaml"):
        page = recipe.parent / "README.md"
        if recipe.parent.name == "mini_librispeech":
            page = ROOT / "recipes" / "librispeech" / "README.md"
        if not recipe.name.endswith(".card.yaml"):
            assert recipe.name in page.read_text(), f"{recipe} is in no README"
