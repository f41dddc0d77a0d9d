"""Plots of tables: lines, gaps for missing numbers, and independent figures."""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from guidegraph.nodes.table import Table
from guidegraph_lab.metrics import plot
from guidegraph_lab.metrics.plot import plot_lines, plot_scatter
from guidegraph_runtime.machine.optional_packages import install_command
from tests.paths import ROOT

pytest.importorskip("matplotlib")

TABLE = Table(
    {
        "t": [0, 1, 2, 3, 0, 1, 2, 3],
        "kind": ["up"] * 4 + ["down"] * 4,
        "y": [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, None, 1.0],
        "low": [0.5, 1.5, 2.5, 3.5, 3.5, 2.5, 1.5, 0.5],
        "high": [1.5, 2.5, 3.5, 4.5, 4.5, 3.5, 2.5, 1.5],
    }
)


def count_coloured(image: Tensor) -> int:
    """The number of pixels that are not grey."""
    return int((image.amax(1) - image.amin(1) > 0.2).sum())


@pytest.mark.parametrize("draw", [plot_lines, plot_scatter])
@pytest.mark.parametrize("by", ["", "kind"])
def test_a_plot_has_the_size_that_is_set(draw: Any, by: str) -> None:
    image = draw(TABLE, x="t", y="y", by=by, title="a title", size=(320, 200))
    assert image.shape == (1, 3, 200, 320)
    assert image.dtype == torch.float32
    assert -1 <= image.min() < image.max() == 1
    assert count_coloured(image) > 50


def test_the_same_table_is_the_same_picture() -> None:
    first, second = (plot_lines(TABLE, x="t", y="y", by="kind", band=("low", "high")) for _ in range(2))
    assert torch.equal(first, second)


def test_every_line_adds_to_the_picture() -> None:
    pictures = [
        plot_lines(TABLE, x="t", y="y"),
        plot_lines(TABLE, x="t", y="y", by="kind"),
        plot_lines(TABLE, x="t", y="y", by="kind", band=("low", "high")),
        plot_lines(TABLE, x="t", y=["low", "y", "high"], by="kind"),
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert count_coloured(pictures[2]) > 4 * count_coloured(pictures[1])  # the bands


def test_cells_without_a_number_are_left_out() -> None:
    table = Table(
        {"x": [1, None, 3, 4, 5], "y": [1.0, 2.0, math.nan, "word", 3.0], "z": [1.0, 2.0, 3.0, 4.0, math.inf]}
    )
    assert plot.finite_points(table, "x", "y") == [[1.0, 5.0], [1.0, 3.0]]
    assert plot.finite_points(table, "x", "y", "z") == [[1.0], [1.0], [1.0]]


def test_a_column_with_nothing_to_draw_is_refused() -> None:
    table = Table({"x": [1, 2], "word": ["a", "b"], "none": [None, math.nan], "low": [0.0, -1.0]})
    for draw in (plot_lines, plot_scatter):
        for x, y in (("word", "x"), ("x", "word"), ("x", "none")):
            with pytest.raises(ValueError, match=r"column '(word|none)' has no number to draw: choose another"):
                draw(table, x=x, y=y)
        for log in ("y", "both"):
            with pytest.raises(ValueError, match="column 'low' has no number above 0, as a logarithmic axis needs"):
                draw(table, x="x", y="low", log=log)
        assert draw(table, x="low", y="x").shape == (1, 3, 440, 640)


def test_points_carry_their_texts() -> None:
    plain, annotated = (plot_scatter(TABLE, x="t", y="y", by="kind", text=text) for text in ("", "kind"))
    assert not torch.equal(plain, annotated)


@pytest.mark.parametrize("log", ["x", "y", "both"])
def test_axes_may_be_logarithmic(log: Any) -> None:
    table = Table({"x": [1, 10, 100], "y": [1, 10, 100]})
    assert not torch.equal(plot_lines(table, x="x", y="y", log=log), plot_lines(table, x="x", y="y"))


def test_an_error_names_a_missing_column() -> None:
    with pytest.raises(ValueError, match="no column 'hihg'; did you mean 'high'"):
        plot_lines(TABLE, x="t", y="hihg")
    with pytest.raises(ValueError, match="no column 'method'"):
        plot_scatter(TABLE, x="t", y="y", by="method")
    with pytest.raises(ValueError, match="give one y"):
        plot_lines(TABLE, x="t", y=["y", "low"], band=("low", "high"))


def test_an_error_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with pytest.raises(ValueError, match=re.escape(install_command("plot"))):
        plot_lines(TABLE, x="t", y="y")


def test_pyplot_and_its_global_state_stay_out() -> None:
    """In its own process, because other packages of the tests import pyplot."""
    code = (
        "import sys; from guidegraph_lab.metrics.plot import plot_lines; from guidegraph.nodes.table import Table; "
        "plot_lines(Table({'t': [0.0, 1.0], 'y': [1.0, 2.0]}), x='t', y='y'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
