"""Plots of tables, drawn by matplotlib, which the extra `plot` installs.

All settings that several plots share:
x: column of the horizontal axis. y: column of the vertical axis. title: above the plot. x_label: replaces the
column's name; y_label: likewise. y_limits: ends of the vertical axis. log: which axes are logarithmic.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Ge, Le, MinLen

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.nodes.table import format_cell
from guidegraph.nodes.types import Image, Table
from guidegraph_lab.metrics.table import get_column
from guidegraph_runtime.machine.optional_packages import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Side = Annotated[int, Ge(64), Le(8192)]
Log: TypeAlias = Literal["none", "x", "y", "both"]
Limits: TypeAlias = tuple[float, float] | None
DOTS_PER_INCH = 100


@node("plot.lines", host=True, extras={"matplotlib": "plot"})
def plot_lines(
    table: Table,
    *,
    x: str,
    y: str | Annotated[list[str], MinLen(1)],
    by: str = "",
    band: tuple[str, str] | None = None,
    markers: bool = False,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    y_limits: Limits = None,
    log: Log = "none",
    size: tuple[Side, Side] = (640, 440),
) -> Image:
    """Plot columns of a table as lines over another column: a picture (1, 3, height, width).

    y: one column or several. by: a column; each of its values gets a line. band: two columns, the ends of an interval
    around y, shaded (for one y). markers: a dot at each row. size: [width, height] in pixels.
    Cells without a number are left out, and so are numbers not above 0 on a logarithmic axis. Raises an error for a
    missing column, a column with nothing to draw, or without matplotlib.
    """
    y_columns = [y] if isinstance(y, str) else y
    check_drawable(table, [x], log in ("x", "both"))
    check_drawable(table, [*y_columns, *(band or ())], log in ("y", "both"))
    if band is not None and len(y_columns) > 1:
        raise ValueError("a band is drawn around one column: give one y, or leave out 'band'")
    chart = Chart(size, title, x_label or x, y_label or ", ".join(y_columns), log, y_limits)
    for name, rows in group_rows(table, by):
        for y_column in y_columns:
            label = ", ".join(label_part for label_part in (name, y_column if len(y_columns) > 1 else "") if label_part)
            marker = "o" if markers else None
            (line,) = chart.axes.plot(
                *finite_points(rows, x, y_column), label=label or None, marker=marker, markersize=4
            )
            if band is not None:
                across, low, high = finite_points(rows, x, *band)
                chart.axes.fill_between(across, low, high, alpha=0.2, color=line.get_color())
    return chart.image(legend=bool(by) or len(y_columns) > 1)


@node("plot.scatter", host=True, extras={"matplotlib": "plot"})
def plot_scatter(
    table: Table,
    *,
    x: str,
    y: str,
    by: str = "",
    text: str = "",
    joined: bool = False,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    y_limits: Limits = None,
    log: Log = "none",
    size: tuple[Side, Side] = (640, 440),
) -> Image:
    """Plot rows of a table as points: a picture (1, 3, height, width).

    by: a column; each of its values gets a colour. text: a column to write next to each point. joined: draw a line
    through the points of a colour, in row order. size: [width, height] in pixels.
    Rows without a number are left out, and so are numbers not above 0 on a logarithmic axis. Raises an error for a
    missing column, a column with nothing to draw, or without matplotlib.
    """
    check_drawable(table, [x], log in ("x", "both"))
    check_drawable(table, [y], log in ("y", "both"))
    chart = Chart(size, title, x_label or x, y_label or y, log, y_limits)
    for name, rows in group_rows(table, by):
        line = "-" if joined else "none"
        chart.axes.plot(*finite_points(rows, x, y), marker="o", linestyle=line, label=name or None)
        for a, b, annotation in zip(
            rows.numbers(x), rows.numbers(y), get_column(rows, text) if text else (), strict=bool(text)
        ):
            if math.isfinite(a) and math.isfinite(b):
                chart.axes.annotate(
                    format_cell(annotation), (a, b), xytext=(5, 4), textcoords="offset points", fontsize=8
                )
    return chart.image(legend=bool(by))


def group_rows(table: Table, by: str) -> Iterator[tuple[str, Table]]:
    """Group the rows of a table by the value of a column, in order of first occurrence; without one, one group."""
    if not by:
        yield "", table
        return
    keys = get_column(table, by)
    for key in dict.fromkeys(keys):
        rows = [i for i, k in enumerate(keys) if k == key]
        yield format_cell(key), Table({name: [values[i] for i in rows] for name, values in table.items()})


def check_drawable(table: Table, names: Sequence[str], log: bool) -> None:
    """Raise ``ValueError`` for a column without a cell that can be drawn on its axis."""
    for name in names:
        if not any(math.isfinite(value) and (value > 0 or not log) for value in table.numbers(name)):
            which = "number above 0, as a logarithmic axis needs," if log else "number"
            raise ValueError(f"column '{name}' has no {which} to draw: choose another")


def finite_points(table: Table, *names: str) -> list[list[float]]:
    """The columns as lists of numbers, without rows in which one of them lacks a number."""
    finite = [row for row in zip(*map(table.numbers, names), strict=True) if all(map(math.isfinite, row))]
    return [[row[i] for row in finite] for i in range(len(names))]


class Chart:
    """A figure with one pair of axes, independent of pyplot and of other figures.

    Raises ``ValueError`` if matplotlib is not installed.
    """

    def __init__(self, size: tuple[int, int], title: str, x: str, y: str, log: Log, limits: Limits) -> None:
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError(f"plots are drawn by matplotlib, which is not installed: {install_command('plot')}")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        inches = (size[0] / DOTS_PER_INCH, size[1] / DOTS_PER_INCH)
        figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.axes: Axes = figure.add_subplot()
        self.axes.set(title=title, xlabel=x, ylabel=y)
        self.axes.set_xscale("log" if log in ("x", "both") else "linear")
        self.axes.set_yscale("log" if log in ("y", "both") else "linear")
        self.axes.grid(alpha=0.3)
        self.limits = limits

    def image(self, legend: bool) -> Image:
        """Render the chart as a picture (1, 3, H, W) in [-1, 1]."""
        if self.limits is not None:
            self.axes.set_ylim(*self.limits)
        if legend:
            self.axes.legend(fontsize=8)
        self.canvas.draw()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
