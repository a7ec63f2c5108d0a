"""Every table: each entry is documented, and the recipe's choices are the tables' names."""

from __future__ import annotations

import dataclasses
import re

import pytest
from layouts import LAYOUTS

from speechseq.cli import COMMANDS
from speechseq.corpora import CORPORA
from speechseq.decoding import DECODERS
from speechseq.errors import UsageError, choose
from speechseq.outputs import WRITERS
from speechseq.recipe import Recipe
from speechseq.recipe_checks import CHOICES
from speechseq.tokens import KINDS
from speechseq.training.encoder import CELLS
from speechseq.training.features import FEATURES
from speechseq.training.front_ends import FRONT_ENDS
from speechseq.training.heads import HEADS

CODE_TABLES = {
    "features.kind": FEATURES,
    "model.cell": CELLS,
    "model.front_end": FRONT_ENDS,
    "model.head": HEADS,
    "decoders": DECODERS,
    "writers": WRITERS,
}
CODE = [(table, name, entry) for table, t in CODE_TABLES.items() for name, entry in t.items()]

NAMED_TABLES = {
    "features.kind": FEATURES,
    "model.cell": CELLS,
    "model.front_end": FRONT_ENDS,
    "model.head": HEADS,
    "data.tokens": KINDS,
}


@pytest.mark.parametrize(("table", "name", "entry"), CODE)
def test_every_entry_has_a_docstring(table: str, name: str, entry: object) -> None:
    assert (entry.__doc__ or "").strip(), f"{table} {name}"
    assert name == name.lower()


@pytest.mark.parametrize("setting", NAMED_TABLES)
def test_a_recipe_chooses_among_all_entries_of_a_table(setting: str) -> None:
    assert set(CHOICES[setting]) == set(NAMED_TABLES[setting])
    assert len(set(CHOICES[setting])) == len(CHOICES[setting])


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_says_what_it_is(name: str) -> None:
    corpus = CORPORA[name]
    assert corpus.name == name
    assert corpus.title
    assert (corpus.read.__doc__ or "").strip()
    assert name in LAYOUTS, "give the new corpus a layout in tests/layouts.py"
    defaults = {field.name for field in dataclasses.fields(Recipe().data)}
    assert set(corpus.options) <= defaults
    if corpus.folder:
        assert corpus.licence
        assert corpus.homepage.startswith(("https://", "http://"))
        assert corpus.made_by or (len(corpus.splits) >= 2 and corpus.archives)
    for archive in corpus.archives:
        assert archive.url.startswith(("https://", "http://"))
        assert archive.file_name.endswith((".tar.gz", ".zip"))
        assert re.fullmatch(r"([0-9a-f]{64})?", archive.sha256)


def test_folders_are_shared_only_by_editions_of_one_corpus() -> None:
    folders = [corpus.folder for corpus in CORPORA.values() if corpus.folder]
    twice = {folder for folder in folders if folders.count(folder) > 1}
    assert len(twice) <= 1
    shared = [name for name, corpus in CORPORA.items() if corpus.folder in twice]
    assert all("librispeech" in name for name in shared)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.HELP
    assert (command.__doc__ or "").startswith(f"speechseq {name}: ")
    assert callable(command.add_arguments)
    assert callable(command.run)


@pytest.mark.parametrize("table", CODE_TABLES)
def test_a_misspelt_entry_is_answered_with_the_nearest(table: str) -> None:
    name = max(CODE_TABLES[table], key=len)
    with pytest.raises(
        UsageError, match=f"{table}: unknown {table.split('.')[-1]} .*did you mean.*{name}"
    ):
        choose(CODE_TABLES[table], f"{name}x", table)
