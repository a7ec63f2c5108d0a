"""Learning curves: what is drawn of which run, and what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from test_run_table import Call, call, make_run, row

from speechseq.errors import ModelError, SpeechseqError
from speechseq.run_plot import LEGEND_CHARACTERS, Curves, draw_curves, legend_names, read_curves

__all__ = ["call"]  # a fixture
PNG = b"\x89PNG\r\n\x1a\n"


class Drawn:
    """The figure that is drawn next, kept to be looked into."""

    figure: Any = None

    @property
    def panels(self) -> dict[str, Any]:
        return {axes.get_title(): axes for axes in self.figure.axes}

    @property
    def legend(self) -> list[str]:
        return [text.get_text() for text in self.figure.legends[0].get_texts()]

    def lines(self, title: str) -> list[tuple[list[float], list[float]]]:
        """Epochs and values of each line of a panel; NaN as None."""
        return [
            (list(line.get_xdata()), [None if math.isnan(y) else y for y in line.get_ydata()])
            for line in self.panels[title].get_lines()
        ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    seen, write = Drawn(), agg.FigureCanvasAgg.print_png

    def keep(canvas: Any, file: Any) -> None:
        write(canvas, file)
        seen.figure = canvas.figure

    monkeypatch.setattr(agg.FigureCanvasAgg, "print_png", keep)
    return seen


def rows(*errors: float | None) -> list[dict[str, Any]]:
    return [
        {**row(epoch, error), "learning_rate": 0.001 * epoch, "gradient_norm": 2.0}
        for epoch, error in enumerate(errors, 1)
    ]


def test_the_panels_hold_what_the_metrics_say(drawn: Drawn, tmp_path: Path) -> None:
    """Rows without a validation, as with validate_every 2, leave points out, not epochs."""
    path = tmp_path / "new" / "curves.png"
    draw_curves([Curves("a", rows(None, 0.5, None, 0.25, None, 0.5))], path)
    assert path.read_bytes().startswith(PNG)
    error = drawn.lines("validation error (%)")
    assert error == [([2, 4, 6], [50, 25, 50]), ([4], [25])]  # a curve and its best epoch
    training, validation, best = drawn.lines("loss: training (dashed), validation")
    assert training == ([1, 2, 3, 4, 5, 6], [2.0] * 6)
    assert validation == ([2, 4, 6], [1.0] * 3)
    assert best == ([4], [1.0])
    ((epochs, rates),) = drawn.lines("learning rate")
    assert (epochs[-1], rates[-1]) == (6, 0.006)
    assert len(drawn.lines("gradient norm")) == 1
    assert drawn.legend == ["a: 25.00 % at 4"]


@pytest.mark.parametrize("count", [2, 10, 11, 30])
def test_each_run_has_its_colour(drawn: Drawn, tmp_path: Path, count: int) -> None:
    draw_curves([Curves(f"r{n}", rows(0.5, 0.25)) for n in range(count)], tmp_path / "c.png")
    for axes in drawn.figure.axes:
        colours = {line.get_color() for line in axes.get_lines()}
        assert len(colours) == count
    handles = [handle.get_color() for handle in drawn.figure.legends[0].get_lines()]
    rates = [line.get_color() for line in drawn.panels["learning rate"].get_lines()]
    assert handles == rates


@pytest.mark.parametrize(
    "values",
    [
        rows(0.5),
        rows(None, None),
        rows(0.0, 0.0),
        [{**one, "loss": math.nan, "gradient_norm": math.inf} for one in rows(0.5, 0.25)],
        [{**one, "loss": 3e38, "validation_error": 3e38} for one in rows(0.5, 0.25)],
        [{**one, "loss": 0.0, "validation_loss": 0.0, "gradient_norm": 0.0} for one in rows(0.5)],
        [{"epoch": 1.0, "seconds": 1.0}],
    ],
    ids=[
        "one epoch",
        "never validated",
        "no error",
        "not finite",
        "as large as a float",
        "nothing to log",
        "bare",
    ],
)
def test_odd_runs_are_drawn_without_a_warning(
    drawn: Drawn, tmp_path: Path, values: list[dict[str, Any]]
) -> None:
    draw_curves([Curves("a", values)], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    for axes in drawn.figure.axes:
        assert all(tick.is_integer() for tick in axes.get_xticks())


def test_a_single_epoch_can_be_seen(drawn: Drawn, tmp_path: Path) -> None:
    draw_curves([Curves("a", rows(0.5))], tmp_path / "c.png")
    for axes in drawn.figure.axes:
        assert all(line.get_marker() not in ("", "None") for line in axes.get_lines())


@pytest.mark.parametrize("name", ["_hidden", "a$b$c_^", "n" * 300, "m" * 60, "a\nb"])
def test_the_legend_shows_any_name_whole_or_its_end(
    drawn: Drawn, tmp_path: Path, name: str
) -> None:
    draw_curves([Curves("plain", rows(0.5)), Curves(name, rows(None))], tmp_path / "c.png")
    _, shown = drawn.legend
    assert len(shown) <= LEGEND_CHARACTERS
    assert shown == name.replace("\n", "\\n") or shown.lstrip("…") == name[-len(shown) + 1 :]
    box = drawn.figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn.figure.bbox.x1


def test_names_are_folders_unless_two_share_one() -> None:
    assert legend_names(["runs/a", "x/../runs/b/"]) == ["a", "b"]
    assert legend_names(["one/a", "two/a", "b"]) == ["one/a", "two/a", "b"]
    assert legend_names(["."]) == [Path.cwd().name]


def test_runs_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", *rows(None, 0.5))
    curves = read_curves(run, "b")
    assert curves.name == "b"
    assert curves.points("validation_error") == ([2.0], [0.5])
    with pytest.raises(ModelError, match=r"not a run folder \(no recipe.yaml\)"):
        read_curves(tmp_path, "b")
    with pytest.raises(ModelError, match="no epoch is done"):
        read_curves(make_run(tmp_path / "new"), "b")


def test_the_command_draws_each_run_once(drawn: Drawn, tmp_path: Path, call: Call) -> None:
    one, two = (make_run(tmp_path / name, *rows(0.5)) for name in ("one", "two"))
    picture = tmp_path / "c.png"
    code, out, err = call("plot", one, "-o", picture, two, f"{one}/")
    assert (code, out, err) == (0, f"{picture}\n", "")
    assert drawn.legend == ["one: 50.00 % at 1", "two: 50.00 % at 1"]


def test_curves_png_is_the_default_and_is_not_written_over(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    make_run(Path("a"), *rows(0.5))
    Path("curves.png").write_text("mine")
    said = "speechseq: curves.png: is there already; --force writes over it\n"
    assert call("plot", "a") == (2, "", said)
    assert Path("curves.png").read_text() == "mine"
    assert call("plot", "a", "--force") == (0, "curves.png\n", "")
    assert Path("curves.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in Path().iterdir()) == ["a", "curves.png"]


def test_bad_runs_are_named_and_the_others_drawn(drawn: Drawn, tmp_path: Path, call: Call) -> None:
    good, new = make_run(tmp_path / "good", *rows(0.5)), make_run(tmp_path / "new")
    picture = tmp_path / "c.png"
    code, out, err = call("plot", new, good, tmp_path / "none", "-o", picture)
    assert (code, out) == (3, f"{picture}\n")
    assert drawn.legend == ["good: 50.00 % at 1"]
    first, second, last = err.splitlines()
    assert first.startswith(f"speechseq: {new}: no epoch is done")
    assert second.startswith(f"speechseq: {tmp_path / 'none'}: not a run folder")
    assert last == "speechseq: 2 of 3 runs failed; they are named above"


def test_nothing_is_drawn_of_bad_runs_alone(tmp_path: Path, call: Call) -> None:
    picture = tmp_path / "c.png"
    code, out, err = call("plot", tmp_path, "-o", picture)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert call("plot", tmp_path, tmp_path / "x", "-o", picture)[:2] == (3, "")
    assert not picture.exists()


def test_another_ending_is_refused(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "a", *rows(0.5))
    code, _, err = call("plot", run, "-o", tmp_path / "c.pdf")
    assert code == 2
    assert err == f"speechseq: {tmp_path / 'c.pdf'}: a PNG is drawn; end its name in .png\n"


def test_without_matplotlib_it_is_one_line(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run, picture = make_run(tmp_path / "a", *rows(0.5)), tmp_path / "c.png"
    said = f"{picture}: pictures need matplotlib; pip install '.[train]' in the clone"
    with pytest.raises(SpeechseqError, match="pictures need matplotlib"):
        draw_curves([read_curves(run, "a")], picture)
    assert call("plot", run, "-o", picture) == (1, "", f"speechseq: {said}\n")
    assert not picture.exists()
