"""The curves of results, and their intervals."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from guidegraph.nodes.table import Table
from guidegraph_lab.report.curves import CurveChoice, long_plots, sweep_plots, table_plots
from guidegraph_lab.report.html import table as html_table
from guidegraph_lab.report.plots import draw_curves
from guidegraph_lab.report.read import parse_cell, read_csv
from guidegraph_lab.report.series import Plot, Series, mean_interval, select_distinguishing, t_quantile
from guidegraph_lab.sweep.table import as_csv


def test_quantiles_equal_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    freedom = [*range(1, 200), 10_000]
    np.testing.assert_allclose([t_quantile(n) for n in freedom], stats.t.ppf(0.975, freedom), atol=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_a_mean_has_the_interval_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [1.0, 2.5, 2.0, 4.0]
    mean, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    np.testing.assert_allclose((mean, low, high), (np.mean(values), *expected), rtol=1e-6)
    alone = mean_interval([3.0])
    assert alone[0] == 3.0
    assert math.isnan(alone[1])


def test_seeds_are_repetitions_and_other_parameters_distinguish_lines() -> None:
    cells = Table(
        {
            "scale": [1, 1, 2, 2, 1, 1, 2, 2],
            "kind": ["a"] * 4 + ["b"] * 4,
            "seed": [0, 1] * 4,
            "fid": [1.0, 3.0, 4.0, 4.0, 0.0, 2.0, None, 8.0],
            "same": [1] * 8,
        }
    )
    (plot,) = sweep_plots(cells, ["scale", "kind", "seed"], ["fid", "same"])
    assert (plot.x, plot.y, plot.ticks) == ("scale", "fid", [])
    assert [s.name for s in plot.series] == ["kind = a", "kind = b"]
    assert (plot.series[0].x, plot.series[0].y) == ([1.0, 2.0], [2.0, 4.0])
    assert plot.series[0].high[0] == pytest.approx(2 + 12.706204736)
    assert plot.series[1].y == [1.0, 8.0]
    assert math.isnan(plot.series[1].low[1])


def test_too_many_lines_are_split_into_plots() -> None:
    rows = [(x, a, b) for x in range(4) for a in range(2) for b in range(4)]
    columns = dict(zip(("x", "a", "b"), map(list, zip(*rows, strict=True)), strict=True))
    plots = sweep_plots(Table({**columns, "y": [*range(len(rows))]}), ["x", "a", "b"], ["y"])
    assert [len(plot.series) for plot in plots] == [2] * 4
    assert [plot.title for plot in plots] == [f"y, b = {i}" for i in range(4)]


def test_a_text_parameter_has_named_ticks() -> None:
    (plot,) = sweep_plots(Table({"kind": ["b", "a"], "y": [1.0, 2.0]}), ["kind"], ["y"])
    assert (plot.ticks, plot.series[0].x) == (["b", "a"], [0.0, 1.0])
    assert ">b</text>" in draw_curves(plot, "salt")


@pytest.mark.parametrize(
    ("more", "low", "caption"),
    [
        ({"y_low": [0, 1, 2], "y_high": [2, 3, 4]}, [0, 1, 2], "from y_low to y_high"),
        ({"low": [0, 1, 2], "high": [2, 3, 4]}, [0, 1, 2], "from low to high"),
        ({"y.error": [0.5, 0.5, 0.5]}, [0.5, 1.5, 2.5], "± y.error"),
    ],
)
def test_columns_give_the_interval(more: dict[str, list[float]], low: list[float], caption: str) -> None:
    (plot,) = table_plots(Table({"x": [1, 2, 3], "y": [1, 2, 3], **more}), "t")
    assert plot.series[0].low == low
    assert caption in plot.caption


def test_a_table_whose_first_column_does_not_increase_has_no_curves() -> None:
    assert table_plots(Table({"x": [1, 3, 2], "y": [1, 2, 3]}), "t") == []
    assert table_plots(Table({"x": [1, 2, 3], "y": ["a", "b", "c"]}), "t") == []
    rising = Table({"x": [1, 2, 3, 1, 2, 3], "k": ["a"] * 3 + ["b"] * 3, "y": [1, 2, 3, 4, 5, 6]})
    assert [s.name for s in table_plots(rising, "t")[0].series] == ["k = a", "k = b"]


def test_lines_differ_without_colours_and_texts_are_unchanged() -> None:
    title = '$x_1$ <b> & #0a0b01 id="a" font: 9px'
    lines = [Series(f"f = {i}", [1.0, 2.0], [1.0, i + 2.0], [0.5, i], [2.0, i + 3.0]) for i in range(6)]
    svg = draw_curves(Plot(title, "x", "y", lines, [], ""), "salt")
    dashes = set(re.findall(r"stroke-dasharray: ([^;]*)", svg))
    assert len(dashes) == 5
    assert len(set(re.findall(r"var\(--s\d\)", svg))) == 6
    assert not re.findall(r"(?:fill|stroke): ?#", svg)
    assert '>$x_1$ &lt;b&gt; &amp; #0a0b01 id="a" font: 9px</text>' in svg
    assert "DejaVu" not in svg


def test_csv_cells_are_numbers_only_if_written_as_numbers() -> None:
    texts = ("", "12", "-3", "0.5", "1e-03", "1e+16", "-inf", "Infinity")
    assert [parse_cell(text) for text in texts] == [None, 12, -3, 0.5, 0.001, 1e16, -math.inf, math.inf]
    assert math.isnan(parse_cell("nan"))  # type: ignore[arg-type]
    for text in ("007", "01.5", "1_0", "+1", " 1", "1.", "infinity", "\u0661", "a", "True"):
        assert parse_cell(text) == text


def test_markup_in_a_table_is_text() -> None:
    assert html_table({"<i>": ["<b>"]}, '"label"').count("&lt;") == 2


def test_an_empty_value_of_a_parameter_is_a_value() -> None:
    cells = Table({"scale": [1, 2] * 2, "shade": [None, None, 0.5, 0.5], "y": [1.0, 2.0, 5.0, 7.0]})
    (plot,) = sweep_plots(cells, ["scale", "shade"], ["y"])
    assert [(s.name, s.y) for s in plot.series] == [("shade = (empty)", [1.0, 2.0]), ("shade = 0.5", [5.0, 7.0])]
    (plot,) = sweep_plots(Table({"shade": [None, 0.5], "y": [1.0, 2.0]}), ["shade"], ["y"])
    assert (plot.ticks, plot.series[0].y) == (["(empty)", "0.5"], [1.0, 2.0])


def test_values_that_differ_in_the_sixth_digit_are_two_lines() -> None:
    cells = Table({"x": [1, 2, 1, 2], "rate": [0.12345671] * 2 + [0.12345672] * 2, "y": [1.0, 2.0, 5.0, 7.0]})
    (plot,) = sweep_plots(cells, ["x", "rate"], ["y"])
    assert [(s.name, s.y) for s in plot.series] == [("rate = 0.12345671", [1, 2]), ("rate = 0.12345672", [5, 7])]


PAIRED = Table(
    {
        "f": [f for f in (1, 2, 4) for _ in range(4)],
        "model": [f"runs/f{f}" for f in (1, 2, 4) for _ in range(4)],
        "sampler": ["a", "a", "b", "b"] * 3,
        "steps": [5, 10] * 6,
        "fid": [float(i * i) for i in range(12)],
        "fid_error": [0.5] * 12,
        "rate": [100.0 - i for i in range(12)],
    }
)
SWEPT, OUTPUTS, TIED = ["f", "model", "sampler", "steps"], ["fid", "fid_error", "rate"], ["f", "model"]


def test_a_parameter_determined_by_another_distinguishes_no_lines() -> None:
    plots = sweep_plots(PAIRED, SWEPT, OUTPUTS, tied=TIED)
    assert [(p.x, p.y, len(p.series)) for p in plots] == [("f", "fid", 4), ("f", "rate", 4)]
    assert plots[0].series[1].name == "sampler = a, steps = 10"
    assert (plots[0].series[1].x, plots[0].series[1].y) == ([1, 2, 4], [1, 25, 81])


def test_lines_are_distinguished_by_as_few_parameters_as_possible() -> None:
    cells = Table(
        {
            "f": [1] * 4 + [2] * 4 + [4] * 4,
            "first_stage": ["runs/f1"] * 4 + ["runs/f2"] * 4 + ["runs/f4"] * 4,
            "width": [3] * 4 + [5] * 8,
            "steps": [5, 10, 20, 40] * 3,
            "kid": [float(i) for i in range(12)],
        }
    )
    (plot,) = sweep_plots(cells, ["f", "first_stage", "width", "steps"], ["kid"])
    assert [s.name for s in plot.series] == ["f = 1", "f = 2", "f = 4"]
    assert select_distinguishing([(1, "long", "a"), (1, "long", "b"), (2, "longer", "a")]) == [0, 2]
    assert select_distinguishing([]) == []


def test_an_output_that_repeats_a_parameter_has_no_curve() -> None:
    again = Table({**PAIRED, "table.f": [None, *PAIRED["f"][1:]]})
    assert [p.y for p in sweep_plots(again, SWEPT, ["table.f", *OUTPUTS], tied=TIED)] == ["fid", "rate"]


def test_parameters_that_vary_independently_always_distinguish_lines() -> None:
    """Also in an interrupted sweep in which each x happens to have another value of the parameter."""
    cells = Table({"x": [1, 2], "kind": ["a", "b"], "y": [1.0, 3.0]})
    assert sweep_plots(cells, ["x", "kind"], ["y"]) == []
    assert len(sweep_plots(cells, ["x", "kind"], ["y"], tied=["x", "kind"])) == 1


def test_x_and_lines_follow_the_options() -> None:
    plots = sweep_plots(PAIRED, SWEPT, OUTPUTS, CurveChoice("steps", ("f",)), TIED)
    assert [p.title for p in plots] == [f"{y}, sampler = {s}" for y in ("fid", "rate") for s in "ab"]
    assert [(s.name, s.x, s.y) for s in plots[1].series] == [
        ("f = 1", [5, 10], [4, 9]),
        ("f = 2", [5, 10], [36, 49]),
        ("f = 4", [5, 10], [100, 121]),
    ]
    assert plots[1].series[0].low == [3.5, 8.5]
    assert len(sweep_plots(PAIRED, SWEPT, OUTPUTS, CurveChoice(by=("sampler",)), TIED)) == 4


def test_an_output_over_another_follows_the_parameter_that_would_be_x() -> None:
    cells = Table({"steps": [10, 5, 20], "seed": [0, 0, 0], "fid": [3.0, 9.0, 1.0], "rate": [8.0, 16.0, 9.0]})
    (plot,) = sweep_plots(cells, ["steps", "seed"], ["fid", "rate"], CurveChoice("rate"))
    assert (plot.x, plot.y, plot.caption) == ("rate", "fid", "Along a line steps varies.")
    assert (plot.series[0].x, plot.series[0].y) == ([16, 8, 9], [9, 3, 1])
    assert "<svg" in draw_curves(plot, "salt")


def test_glyphs_that_matplotlib_lacks_give_no_warning() -> None:
    line = Series("prompt = 猫", [1.0, 2.0], [1.0, 2.0], [math.nan] * 2, [math.nan] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "prompt = 猫" in draw_curves(Plot("t", "x", "y", [line], [], ""), "salt")


def test_numbers_too_large_to_draw_are_left_out() -> None:
    huge = [1e200, 1e308, 10**400, -(10**400), -1e308, math.inf]
    cells = Table({"x": [1, 2, *range(3, 9), 10**400], "y": [1.0, 2.0, *huge, 3.0]})
    (plot,) = sweep_plots(cells, ["x"], ["y"])
    assert (plot.series[0].x, plot.series[0].y) == ([1.0, 2.0], [1.0, 2.0])
    (plot,) = table_plots(Table({"x": [1, 2, 3], "y": [1e150, -1e150, 1.0], "y_error": [1, 10**400, 1e308]}), "t")
    assert plot.series[0].y == [1e150, -1e150, 1.0]
    assert [math.isnan(low) for low in plot.series[0].low] == [False, True, True]
    assert "<svg" in draw_curves(plot, "salt")


def test_the_mean_of_large_repetitions_has_an_interval() -> None:
    cells = Table({"x": [1, 1, 2, 2], "seed": [0, 1] * 2, "y": [1e150, -1e150, 1e200, 1.0]})
    (plot,) = sweep_plots(cells, ["x", "seed"], ["y"])
    assert (plot.series[0].x, plot.series[0].y) == ([1.0, 2.0], [0.0, 1.0])
    assert math.isfinite(plot.series[0].high[0])
    assert "<svg" in draw_curves(plot, "salt")


def test_seeds_are_lines_on_request() -> None:
    cells = Table({"scale": [1, 2] * 2, "seed": [0, 0, 1, 1], "y": [1.0, 2.0, 5.0, 7.0]})
    (plot,) = sweep_plots(cells, ["scale", "seed"], ["y"], CurveChoice(by=("seed",)))
    assert [s.name for s in plot.series] == ["seed = 0", "seed = 1"]
    assert sweep_plots(cells, ["scale", "seed"], ["y"], CurveChoice("seed"))[0].series[0].x == [0, 1]


def test_the_tables_of_all_cells_give_curves() -> None:
    rounds = {
        "cell": ["k"] * 3 + ["l"] * 3,
        "f": [1] * 3 + [2] * 3,
        "step": [10, 20, 30] * 2,
        "kid": [9, 5, 4, 8, 4, 1],
    }
    (plot,) = long_plots(Table({**rounds, "kid_error": [1] * 6}), ["f"], "rounds")
    assert (plot.title, plot.x, [s.name for s in plot.series]) == ("rounds: kid", "step", ["f = 1", "f = 2"])
    assert (plot.series[1].y, plot.series[1].low) == ([8, 4, 1], [7, 3, 0])
    (plot,) = long_plots(Table(rounds), ["f"], "rounds", CurveChoice("f"))
    assert (plot.x, plot.series[2].name, plot.series[2].y) == ("f", "step = 30", [4, 1])
    words = {"cell": ["k", "k", "l", "l"], "f": [1, 1, 2, 2], "class": ["a", "b"] * 2, "hits": [1, 2, 3, 4]}
    (plot,) = long_plots(Table(words), ["f"], "by_class")
    assert [(s.name, s.x, s.y) for s in plot.series] == [("class = a", [1, 2], [1, 3]), ("class = b", [1, 2], [2, 4])]
    assert long_plots(Table({"cell": ["k", "k"], "f": [1, 1], "hits": [4, 2], "size": [2, 1]}), ["f"], "t") == []


def test_a_csv_round_trip(tmp_path: Path) -> None:
    texts = ["a\rb", "a\nb", "a\u2028b\x0b\x85", 'a "b", c', "x" * 200_000]
    (tmp_path / "t.csv").write_text("\ufeff" + as_csv([{"a": t, "b": 1} for t in texts], ["a", "b"]), newline="")
    table = read_csv(tmp_path / "t.csv")
    assert (list(table), list(table["a"])) == (["a", "b"], texts)
