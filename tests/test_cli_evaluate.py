"""speechseq evaluate: which utterances are scored, the report, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from conftest import RATE, Call, tone

from speechseq.audio import write_wav
from speechseq.corpora import CORPORA
from speechseq.manifest import Utterance, write_manifest


def test_evaluating_on_the_corpus(
    call: Call, fails: Callable[..., str], run: Path, corpus: Path, tmp_path: Path
) -> None:
    report, picture = tmp_path / "report.json", tmp_path / "confusion.png"
    words = ["evaluate", run, "--root", corpus, "-o", report, "--png", picture]
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert out.startswith("40 utterances")
    for part in ("accuracy", "95 % interval", "WER", "CER", "real-time factor", "recall", "said"):
        assert part in out
    found = json.loads(report.read_text())
    assert found["utterances"] == len(found["items"]) == 40
    assert found["accuracy"]["value"] > 0.7
    assert picture.read_bytes().startswith(b"\x89PNG")
    for flags in (["-o", report], ["--png", picture]):
        said = fails(2, "evaluate", run, "--root", corpus, *flags)
        assert f"{flags[1]}: is there already; --force writes over it" in said
    assert call(*words, "--force")[0] == 0
    said = fails(2, "evaluate", run, "--root", corpus, "-o", tmp_path, "--force")
    assert f"{tmp_path}: a folder; name a file" in said


def test_evaluating_on_a_manifest(
    call: Call, fails: Callable[..., str], run: Path, corpus: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "own.jsonl"
    utterances = CORPORA["fsdd"].read(corpus)
    write_manifest(manifest, utterances)
    for flags in ([], ["--split", "test"]):
        _, out, _ = call("evaluate", run, "--manifest", manifest, *flags)
        assert out.startswith("40 utterances")
    err = fails(2, "evaluate", run, "--manifest", manifest, "--split", "tst")
    assert "no utterance of split 'tst'" in err
    (tmp_path / "bad.wav").write_bytes(b"")
    bad = Utterance(str(tmp_path / "bad.wav"), 1.0, "one", split="test")
    write_manifest(manifest, [*[u for u in utterances if u.split == "test"][:5], bad])
    code, out, err = call("evaluate", run, "--manifest", manifest)
    assert code == 3
    assert out.startswith("5 utterances")
    assert "bad.wav" in out
    assert err == "speechseq: 1 of 6 could not be read\n"


def test_other_data_are_scored_whole(call: Call, fails, run: Path, tmp_path: Path) -> None:
    """Nothing of it was held out, as nothing of it was learnt from."""
    for label in ("one", "two"):
        (tmp_path / "new" / label).mkdir(parents=True)
        for number in range(10):
            path = tmp_path / "new" / label / f"{number}.wav"
            write_wav(path, tone(300.0, 0.4, seed=number), RATE)
    words = ["evaluate", run, "--corpus", "folder", "--root", tmp_path / "new"]
    for more in ([], ["--split", "train"]):
        assert call(*words, *more)[1].startswith("20 utterances")
    assert "no utterance of split 'test'" in fails(2, *words, "--split", "test")


def two_tones(folder: Path) -> None:
    """Twenty clips of two classes."""
    for label, hertz in (("low", 300.0), ("high", 900.0)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            write_wav(folder / label / f"{number}.wav", tone(hertz, 0.4, seed=number), RATE)


def train_on_mine(call: Call) -> None:
    """Train the run `run` on the folder `mine`, a fifth of it held out."""
    two_tones(Path("mine"))
    Path("r.yaml").write_text(
        "data: {corpus: folder, root: mine, tokens: classes, validation_fraction: 0.2}\n"
        "model: {head: classify, hidden: 4, layers: 1}\nfeatures: {rate: 8000, mels: 20}\n"
        "training: {epochs: 1}\n"
    )
    assert call("train", "r.yaml", "-o", "run", "--device", "cpu")[0] == 0


def test_what_training_heard_of_other_data_is_said(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_on_mine(call)
    two_tones(Path("new"))
    call("data", "prepare", "folder", "--root", "mine", "-o", "manifests")
    (manifest,) = Path("manifests").iterdir()
    heard = "mind: training heard 16 clips of {}, too"
    folder = call("evaluate", "run", "--corpus", "folder", "--root", "mine")
    assert folder[1].startswith("20 utterances") and heard.format("mine") in folder[2]
    assert heard.format(manifest) in call("evaluate", "run", "--manifest", manifest)[2]
    assert "mind" not in call("evaluate", "run", "--corpus", "folder", "--root", "new")[2]


def test_what_was_held_out_stays_so_where_data_moved(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train_on_mine(call)
    Path("mine").rename("moved")
    held = call("evaluate", "run", "--root", "moved", "--split", "validation")[1]
    assert held.startswith("4 utterances")
    words = ["evaluate", "run", "--corpus", "folder", "--root", "moved"]
    assert call(*words)[1].startswith("20 utterances")
    monkeypatch.setenv("SPEECHSEQ_CORPORA", "nowhere")
    assert "mine" not in call("evaluate", "run", "--corpus", "yesno")[2], "it lies elsewhere"


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ("train test", ""),
        ("train train+test", "mind: training heard 1 clips of test, too; new ones may be"),
        ("train=ann test=bob", ""),
        ("train=ann test=ann", "mind: training heard 1 speakers of test, too; new ones may be"),
        ("train=ann train+test=ann", "mind: training heard 1 clips and 1 speakers of test, too;"),
    ],
)
def test_what_training_heard_of_the_test_split_is_said(
    call: Call, run: Path, tmp_path: Path, splits: str, said: str
) -> None:
    utterances = []
    for number, one in enumerate(splits.split()):
        path = tmp_path / f"{number}.wav"
        write_wav(path, tone(300.0, 0.4), RATE)
        names, _, speaker = one.partition("=")
        utterances += [
            Utterance(str(path), 0.4, "one", speaker, split=split) for split in names.split("+")
        ]
    write_manifest(tmp_path / "data.jsonl", utterances)
    copy = shutil.copytree(run, tmp_path / "run")
    settings = f"corpus: jsonl, root: {tmp_path / 'data.jsonl'}, tokens: words"
    (copy / "recipe.yaml").write_text(f"data: {{{settings}, validation_fraction: 0}}\n")
    model = onnx.load(copy / "model.onnx")
    (recipe,) = (prop for prop in model.metadata_props if prop.key == "speechseq.recipe")
    told = json.loads(recipe.value)
    told["data"] |= {"corpus": "jsonl", "validation_fraction": 0.0}
    recipe.value = json.dumps(told)
    onnx.save(model, copy / "model.onnx")
    code, out, err = call("evaluate", copy)
    assert code == 0 and out.startswith("1 utterances")
    assert err.startswith(said) and err.count("\n") == bool(said)
    assert call("evaluate", copy, "--split", "train")[2] == ""


def test_evaluating_what_is_not_there(
    fails: Callable[..., str], run: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ["evaluate", run, "--root"]
    assert "no split 'dev'" in fails(2, *words, corpus, "--split", "dev")
    assert "no such file or folder" in fails(1, *words, tmp_path / "gone")
    assert "corpus: unknown corpus 'fsd'; did you mean 'fsdd'?" in fails(
        2, "evaluate", run, "--corpus", "fsd"
    )
    assert "no such model file" in fails(1, "evaluate", "nothing")
