"""speechseq forecast: the law through runs on parts of the data."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from speechseq.cli import main
from speechseq.errors import DataError, ModelError
from speechseq.forecast import Point, draw_forecast, fit_laws, forecast_text, read_point


def points(factor: float, exponent: float, *, validated: int = 10**7, start: str = "from scratch"):
    return [
        Point(f"runs/{clips}", start, clips, factor * clips**-exponent, validated)
        for clips in (400, 1200, 4000)
    ]


@pytest.mark.parametrize(("factor", "exponent"), [(2.0, 0.5), (30.0, 1.1), (0.4, 0.2)])
def test_a_power_law_is_found_again(factor: float, exponent: float) -> None:
    (law,) = fit_laws(points(factor, exponent))
    assert law.exponent == pytest.approx(exponent, rel=1e-3)
    assert law(32_000) == pytest.approx(factor * 32_000**-exponent, rel=1e-2)
    low, high = law.interval(32_000)
    assert low <= law(32_000) <= high
    assert high - low < 0.1 * law(32_000)


def test_few_validation_clips_make_it_uncertain() -> None:
    widths = []
    for validated in (100, 10_000):
        (law,) = fit_laws(points(2.0, 0.5, validated=validated))
        low, high = law.interval(8000)
        widths.append(high - low)
    assert widths[0] > 3 * widths[1]


def test_no_error_at_all_is_no_trouble() -> None:
    found = [Point("a", "from scratch", 100, 0.1, 50), Point("b", "from scratch", 400, 0.0, 50)]
    (law,) = fit_laws(found)
    assert 0 < law(1600) < 0.05


def test_an_error_is_never_over_one() -> None:
    (law,) = fit_laws([Point("a", "s", 10, 0.9, 500), Point("b", "s", 1000, 0.3, 500)])
    assert law(1) == 1.0
    assert law.interval(1)[1] == 1.0


def test_errors_of_words_beyond_one_are_drawn_as_such() -> None:
    (law,) = fit_laws([Point("a", "s", 300, 1.2, 4000), Point("b", "s", 1200, 1.01, 4000)])
    low, high = law.interval(9600)
    assert low < law(9600) < high < 1


def test_each_way_to_start_has_its_own_law() -> None:
    both = points(2.0, 0.5) + points(0.5, 0.4, start="from digits")
    one, other = fit_laws(both)
    assert (one.start, other.start) == ("from scratch", "from digits")
    text = forecast_text([one, other])
    assert "  8,000 clips  about 2.24 %" in text
    assert "4.0 times the clips halve the errors" in text


def test_runs_that_err_equally_are_said_to() -> None:
    alike = [Point(str(n), "from scratch", n, 0.05, 240) for n in (400, 1200)]
    (law,) = fit_laws(alike)
    assert "more clips did not help here" in forecast_text([law])


def test_more_clips_that_do_not_help_are_said_to() -> None:
    laws = fit_laws([Point("a", "s", 10, 0.2, 5000), Point("b", "s", 100, 0.3, 5000)])
    assert "more clips did not help here; nothing can be forecast" in forecast_text(laws)


def test_one_size_is_not_enough() -> None:
    with pytest.raises(DataError, match=r"needs runs on two sizes of data or more"):
        fit_laws([Point("a", "s", 10, 0.2, 50), Point("b", "s", 10, 0.3, 50)])


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that makes a run folder as a training leaves it."""

    def make(name: str, clips: int, error: float, base: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(f"name: x\ntraining: {{base: '{base}'}}\n")
        sizes = {"train": {"utterances": clips}, "validation": {"utterances": 200}}
        (folder / "data.json").write_text(json.dumps(sizes))
        (folder / "vocabulary.json").write_text('{"tokens": ["no", "yes"]}')
        row = {"epoch": 1, "seconds": 1.0, "validation_error": error, "validation_loss": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    return make


def test_points_are_read_from_runs(run) -> None:
    folder = run("a", 40, 0.25)
    assert read_point(folder) == Point(str(folder), "from scratch", 40, 0.25, 200, ("folder",))
    assert read_point(run("b", 40, 0.25, "models/digits.onnx")).start == "from models/digits.onnx"


def test_runs_that_learnt_other_things_say_nothing_of_each_other(run) -> None:
    points = [read_point(run("a", 40, 0.25)), read_point(run("b", 80, 0.2))]
    assert len(fit_laws(points)) == 1
    other = dataclasses.replace(points[1], task=("no", "yes"))
    with pytest.raises(DataError, match="learnt other things than"):
        fit_laws([points[0], other])


@pytest.mark.parametrize("corpus", ["folder", "jsonl", "csv"])
def test_other_data_of_ones_own_say_nothing_either(run, corpus: str) -> None:
    points = []
    for number, (clips, root) in enumerate([(40, "a"), (80, "a"), (160, "b")]):
        folder = run(f"r{number}", clips, 0.25)
        (folder / "recipe.yaml").write_text(f"data: {{corpus: {corpus}, root: {root}}}\n")
        points.append(read_point(folder))
    assert len(fit_laws(points[:2])) == 1
    with pytest.raises(DataError, match=r"r2: learnt other things than .*r0; forecast"):
        fit_laws(points)
    alike = [dataclasses.replace(point, checksum="validated alike") for point in points]
    assert len(fit_laws(alike)) == 1


def test_a_public_corpus_may_lie_anywhere(run) -> None:
    points = []
    for clips in (40, 80):
        folder = run(f"r{clips}", clips, 0.25)
        (folder / "recipe.yaml").write_text(f"data: {{corpus: fsdd, root: at {clips}}}\n")
        points.append(read_point(folder))
    assert len(fit_laws(points)) == 1


def test_clips_of_other_corpora_do_not_count_as_ones_own(run) -> None:
    folder = run("a", 40, 0.25)
    (folder / "recipe.yaml").write_text("data: {same_words: [synthetic_words]}\n")
    with pytest.raises(ModelError, match="learnt from synthetic_words, too"):
        read_point(folder)


@pytest.mark.parametrize(("tokens", "counted"), [("words", 700), ("classes", 200)])
def test_errors_are_of_words_or_of_clips(tokens: str, counted: int, run) -> None:
    folder = run("a", 40, 0.25)
    head = "classify" if tokens == "classes" else "ctc"
    (folder / "recipe.yaml").write_text(f"data: {{tokens: {tokens}}}\nmodel: {{head: {head}}}\n")
    sizes = json.loads((folder / "data.json").read_text())
    sizes["validation"]["words"] = 700
    (folder / "data.json").write_text(json.dumps(sizes))
    assert read_point(folder).validated == counted


def test_runs_that_say_too_little(run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a run folder"):
        read_point(tmp_path / "nowhere")
    folder = run("a", 40, 0.25)
    none, many = {"utterances": 0, "words": 0}, {"utterances": 1e999, "words": 1e999}
    for sizes in (
        {}, {"train": [1], "validation": [1]}, {"train": none, "validation": none},
        {"train": many, "validation": many},
        {"train": {"utterances": 10**30}, "validation": {"utterances": 200}},
        {"train": {"utterances": 40}, "validation": {"utterances": 10**30}},
    ):  # fmt: skip
        (folder / "data.json").write_text(json.dumps(sizes))
        with pytest.raises(ModelError, match="does not say what it learnt from"):
            read_point(folder)
    folder = run("v", 40, 0.25)
    for name, text in (
        ("vocabulary.json", '{"tokens": 5}'), ("vocabulary.json", "[" * 100_000),
        ("data.json", "[" * 100_000),
    ):  # fmt: skip
        (folder / name).write_text(text)
        with pytest.raises(ModelError, match="does not say what it learnt from"):
            read_point(folder)
    for error in (-3, math.nan):
        with pytest.raises(ModelError, match="was not validated yet"):
            read_point(run(f"error {error}", 40, error))
    folder = run("b", 40, 0.25)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(ModelError, match="was not validated yet"):
        read_point(folder)


def test_the_command_prints_and_draws(run, tmp_path: Path, capsys) -> None:
    runs = [str(run(f"r{clips}", clips, error)) for clips, error in ((40, 0.4), (160, 0.2))]
    picture = tmp_path / "f.png"
    assert main(["forecast", *runs, "-o", str(picture)]) == 0
    assert "320 clips  about 14" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["forecast", *runs, "-o", str(picture)]) == 2
    assert main(["forecast", *runs, "-o", str(picture), "--force"]) == 0
    assert main(["forecast", *runs, "-o", str(tmp_path / "f.jpg")]) == 2
    assert main(["forecast", runs[0]]) == 1
    assert "two sizes of data" in capsys.readouterr().err


def test_the_command_minds_what_is_weak(run, tmp_path: Path, capsys) -> None:
    runs = [run(f"r{clips}", clips, error) for clips, error in ((40, 0.4), (160, 0.2), (640, 0.1))]
    for folder in runs:
        (folder / "model.onnx").touch()
    assert main(["forecast", *map(str, runs)]) == 0
    assert capsys.readouterr().err == ""
    (runs[0] / "model.onnx").unlink()
    few = {"train": {"utterances": 160}, "validation": {"utterances": 99}}
    (runs[1] / "data.json").write_text(json.dumps(few))
    assert main(["forecast", *map(str, [*runs[:2], runs[0] / "."])]) == 0
    out, err = capsys.readouterr()
    assert out.count("  40 clips") == 1, "a run counts once"
    unfinished, sizes, validated = err.splitlines()
    assert unfinished.startswith(f"mind: {runs[0]}: its training is not finished;")
    assert sizes.startswith("mind: from scratch: 2 sizes of data show no law")
    assert validated.startswith("mind: from scratch: its errors are of 99 validation words or")


def test_pictures_differ_with_the_laws(tmp_path: Path) -> None:
    for name, exponent in (("a", 0.5), ("b", 0.2)):
        draw_forecast(fit_laws(points(2.0, exponent)), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
