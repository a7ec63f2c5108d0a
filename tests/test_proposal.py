"""speechseq init: splits, task and recipe from one's own data, and that it trains unchanged."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE, TONES, tone
from test_held_out import parts, utterances

from speechseq.audio import read_audio, write_wav
from speechseq.cli import main
from speechseq.corpora import CORPORA
from speechseq.errors import DataError
from speechseq.held_out import are_classes, split
from speechseq.manifest import (
    Utterance,
    read_manifest,
    write_manifest,
)
from speechseq.model_file import read_model
from speechseq.own_data import corpus_of
from speechseq.proposal import BASE, BASE_RATE, propose, recipe_text, write_proposal
from speechseq.recipe import Recipe
from speechseq.recipe_file import read_recipe
from speechseq.tokens import SILENCE
from speechseq.training.noise import noise_log_mels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder a class, 60 clips of three tones, without speakers."""
    for label, hertz in TONES.items():
        (tmp_path / "mine" / label).mkdir(parents=True)
        for number in range(20):
            path = tmp_path / "mine" / label / f"{number}.wav"
            write_wav(path, tone(hertz, 0.3, seed=number), RATE)
    return tmp_path / "mine"


# Splits


def test_recordings_of_noise_are_mixed_in(folder: Path, tmp_path: Path) -> None:
    (folder / "_background_noise_").mkdir()
    write_wav(folder / "_background_noise_" / "hum.wav", tone(50.0, 1.0), RATE)
    proposal = propose(folder, "mine")
    recipe = read_recipe(write_proposal(proposal, "mine", tmp_path / "new"))
    assert recipe.data.noise == str(folder / "_background_noise_")
    noises = [noise_log_mels(r, CORPORA["jsonl"]) for r in (recipe, _quiet(recipe))]
    assert len(noises[0]) == len(noises[1]) + 1


def _quiet(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, noise=""))


# Task


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        (utterances(60, texts=5), True),
        (utterances(60, texts=5, seconds=6.0), False),
        (utterances(60, texts=40), False),
        (utterances(60, texts=1), False),
    ],
)
def test_few_short_texts_are_classes(clips: list[Utterance], expected: bool) -> None:
    assert are_classes(clips) == expected


def test_layouts_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert corpus_of(folder) == "folder"
    for name, kind in (("a.csv", "csv"), ("a.jsonl", "jsonl")):
        (tmp_path / name).touch()
        assert corpus_of(tmp_path / name) == kind
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.csv").touch()
    assert corpus_of(tmp_path / "lists") == "csv"
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder of clips nor \.csv nor \.jsonl"):
        corpus_of(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        corpus_of(tmp_path / "nowhere")


def test_sentences_are_spelt_and_few_words_are_a_lexicon(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        path = tmp_path / f"{number}.wav"
        write_wav(path, tone(400, 4.0, seed=number), RATE)
        text = " ".join(rng.choice(["turn", "left", "right", "on", "off"], 4))
        rows.append(Utterance(str(path), 4.0, text, f"s{number % 6}"))
    write_manifest(tmp_path / "mine.jsonl", rows)
    proposal = propose(tmp_path / "mine.jsonl", "mine")
    recipe = written(proposal, tmp_path)
    assert recipe.data.tokens == "characters"
    assert recipe.model.head == "ctc"
    assert recipe.decoding.decoder == "lexicon"
    assert recipe.features.rate == 8000


def written(proposal, tmp_path: Path):
    path = tmp_path / "proposed.yaml"
    path.write_text(recipe_text(proposal, "mine: #1", tmp_path / "a b.jsonl"), encoding="utf-8")
    recipe = read_recipe(path)
    assert recipe.name == "mine: #1"
    assert recipe.data.root == str(tmp_path / "a b.jsonl")
    return recipe


@pytest.mark.parametrize("clips", [60, 900, 3000, 20_000])
def test_the_network_grows_with_the_data(clips: int) -> None:
    from speechseq.proposal import _model, _training

    sizes = [_model(n, n * 1.0, True)["hidden"][0] for n in (clips, clips * 10)]
    assert sizes[0] <= sizes[1]
    steps = _training(clips, clips * 1.0, True, "")
    assert 15 <= steps["epochs"][0] <= 200
    assert _training(clips, clips * 1.0, True, "digits")["frozen_epochs"][0] >= 1


# The command


def test_init_writes_what_trains_unchanged(
    folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "tones", "--from", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out == "tones/recipe.yaml\n"
    assert "no speakers are known" in err
    assert "under 30 clips to learn from: high 17, low 17, mid 17" in err
    manifest = read_manifest(tmp_path / "tones" / "data.jsonl")
    assert Counter(u.split for u in manifest) == {"train": 51, "validation": 9}
    small = ["training.epochs=2", "model.hidden=8", "augment.speeds=[1.0]"]
    assert main(["train", "tones/recipe.yaml", *small, "--device", "cpu"]) == 0
    assert main(["evaluate", "runs/tones", "--split", "validation"]) == 0
    sizes = json.loads((tmp_path / "runs" / "tones" / "data.json").read_text())
    assert sizes["train"]["utterances"] == len(parts(manifest)["train"])


def test_init_with_a_base_keeps_the_bases_network(folder: Path, tmp_path: Path) -> None:
    recipe = written(propose(folder, "mine", "digits"), tmp_path)
    assert recipe.training.base == "digits"
    assert recipe.training.frozen_epochs >= 1
    text = (tmp_path / "proposed.yaml").read_text()
    assert "hidden" not in text
    assert "features:" not in text


def test_init_writes_over_nothing(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "tones", "--from", str(folder)]) == 0
    before = (tmp_path / "tones" / "recipe.yaml").read_bytes()
    assert main(["init", "tones", "--from", str(folder)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "tones" / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--from", "nowhere"], 1, "nowhere: no such file or folder"),
        (["--from", "mine", "--base", "digitz"], 1, "did you mean 'digits'"),
        ([], 2, "--from"),
    ],
)
def test_init_says_what_is_wrong(
    folder: Path, tmp_path: Path, arguments, code: int, says: str, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "tones", *arguments]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "tones").exists()


def test_init_says_which_split_to_score_on(
    folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "few", "--from", str(folder)]) == 0
    few = propose(folder, "few")
    assert few.scored_split == "validation"
    said = "speechseq evaluate runs/few --split validation"
    assert said in capsys.readouterr().err
    more = dataclasses.replace(few, utterances=split(utterances(400))[0])
    assert more.scored_split == "test"


def test_silence_in_a_manifest_is_no_file(tones: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [dataclasses.replace(u, split="train") for u in read_manifest(tones)]
    still = [Utterance("", 0.4, SILENCE, "", split="train") for _ in range(12)]
    write_manifest(tmp_path / "mine.jsonl", [*still, *found])
    assert main(["init", "quiet", "--from", "mine.jsonl"]) == 0
    written_ones = read_manifest(tmp_path / "quiet" / "data.jsonl")
    assert sum(not u.audio_filepath for u in written_ones) == 12
    write_manifest(tmp_path / "still.jsonl", still * 20)
    assert main(["init", "still", "--from", "still.jsonl"]) == 1
    assert "nothing but silence" in capsys.readouterr().err


def test_a_name_that_is_a_file_is_said(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    assert main(["init", "taken", "--from", str(folder)]) == 1
    assert "taken: cannot be written" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_label_ends_no_comment(folder: Path) -> None:
    proposal = propose(folder, "mine")
    hostile = dataclasses.replace(proposal, warnings=["few of turn\non: 1\u2028x: 2"])
    text = recipe_text(hostile, "mine", Path("data.jsonl"))
    assert "# Mind: few of turn on: 1 x: 2.\n" in text


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode")
def test_names_that_are_no_unicode_are_said(folder: Path, tmp_path: Path) -> None:
    clips = list((folder / "low").iterdir())
    clips[0].rename(folder / "low" / os.fsdecode(b"caf\xe9.wav"))
    clips[1].rename(folder / os.fsdecode(b"caf\xe9.wav"))  # is not used
    proposal = propose(folder, "mine")
    recipe = write_proposal(proposal, "mine", tmp_path / "new")
    assert r"caf\udce9.wav first" in recipe.read_text(encoding="utf-8")
    assert read_recipe(recipe).data.root == str(recipe.with_name("data.jsonl"))
    assert set(read_manifest(recipe.with_name("data.jsonl"))) == set(proposal.utterances)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "mine" / "yes" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, tone(300, 0.3, seed=number), RATE)
    with pytest.raises(DataError, match="holds nothing but 'yes'; add other classes, such as _unk"):
        propose(tmp_path / "mine", "mine")


def test_too_little_to_hold_some_out(tmp_path: Path) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    write_wav(tmp_path / "mine" / "a" / "1.wav", tone(300, 0.3), RATE)
    with pytest.raises(DataError, match="too few to hold some out; record more"):
        propose(tmp_path / "mine", "mine")


def test_splits_of_the_data_that_share_audio_are_refused(folder: Path, tmp_path: Path) -> None:
    clips = [dataclasses.replace(u, split="train") for u in CORPORA["folder"].read(folder)]
    part = dataclasses.replace(clips[0], split="dev", offset=0.1, duration=0.1)
    write_manifest(tmp_path / "mine.jsonl", [*clips, part])
    with pytest.raises(
        DataError, match=r"train and validation share 1 clips, .*; list each in one"
    ):
        propose(tmp_path / "mine.jsonl", "mine")


@pytest.mark.parametrize(
    ("speakers", "unknown", "given", "how", "mind"),
    [
        (
            3,
            0,
            False,
            "evenly over the texts; too few speakers:",
            "3 speakers are heard in several",
        ),
        (6, 0, False, "by speakers: no speaker is heard in two:", ""),
        (6, 2, False, "by speakers:", "the speakers of 2 of 60 clips are not known, so scores"),
        (6, 20, False, "evenly over the texts; too many speakers are not known:", "4 speakers are"),
        (0, 0, False, "evenly over the texts; speakers are not known:", "no speakers are known"),
        (6, 1, True, "as the data has them:", "first, and the speakers of 1 of 60 clips are not"),
    ],
)
def test_what_is_said_of_speakers_is_so(
    speakers: int, unknown: int, given: bool, how: str, mind: str, folder: Path, tmp_path: Path
) -> None:
    clips = [
        dataclasses.replace(
            u,
            speaker=f"s{n % speakers}" if speakers and n >= unknown else "",
            split="dev" if given and n % 5 == 0 else "train",
        )
        for n, u in enumerate(CORPORA["folder"].read(folder))
    ]
    write_manifest(tmp_path / "mine.jsonl", clips)
    proposal = propose(tmp_path / "mine.jsonl", "mine")
    assert proposal.head[1] == f"Splits (data.jsonl) {how}"
    said = [line for line in proposal.warnings if "speakers" in line]
    assert len(said) == bool(mind)
    assert mind in "".join(said)


@pytest.mark.parametrize("blank", [1, 60])
def test_clips_without_a_class_are_counted(blank: int, folder: Path, tmp_path: Path) -> None:
    clips = CORPORA["folder"].read(folder)
    clips = [dataclasses.replace(u, text=" " * (n < blank) or u.text) for n, u in enumerate(clips)]
    write_manifest(tmp_path / "mine.jsonl", clips)
    says = rf"0\.wav: has no text \({blank} of 60 clips have none\); write what is said, or drop it"
    with pytest.raises(DataError, match=says):
        propose(tmp_path / "mine.jsonl", "mine")


@pytest.mark.parametrize("label", ["", "_unknown_", "_silence_"])
def test_where_nothing_stands_for_other_sounds_it_is_said(label: str, folder: Path) -> None:
    if label:
        (folder / "low").rename(folder / label)
    said = [w for w in propose(folder, "mine").warnings if "every sound will be heard as" in w]
    assert len(said) == (not label)
    assert all("other speech with the text _unknown_ (of folders, one of" in line for line in said)


def test_of_few_clips_a_base_is_the_better_start(
    folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_model(BASE).recipe.features.rate == BASE_RATE
    assert propose(folder, "mine").better_base == "", "it hears 16 kHz"
    for path in folder.glob("*/*.wav"):
        write_wav(path, read_audio(path, BASE_RATE), BASE_RATE)
    assert propose(folder, "mine", BASE).better_base == ""
    assert main(["init", "tones", "--from", str(folder)]) == 0
    err = capsys.readouterr().err
    command = shlex.split(err.partition("without): ")[2].partition("\n")[0])
    assert command[:3] == ["speechseq", "init", "tones-on-commands-en"]
    assert main(command[1:]) == 0
    assert read_recipe(tmp_path / command[2] / "recipe.yaml").training.base == BASE


def test_a_proposal_is_whole_or_not_there(folder: Path, tmp_path: Path) -> None:
    proposal = propose(folder, "mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data.jsonl").write_text("mine\n")
    with pytest.raises(DataError, match=r"data\.jsonl: is there already"):
        write_proposal(proposal, "mine", tmp_path / "out")
    assert not (tmp_path / "out" / "recipe.yaml").exists()
