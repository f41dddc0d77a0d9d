"""Lines of a plot from the rows of a table: repetitions of a point become its mean, and intervals come from columns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from guidegraph.nodes.tabular import Table
from guidegraph.report.html import shown
from guidegraph.report.intervals import mean_interval

ERRORS = ("error", "std_error", "standard_error", "se")
EMPTY = "(empty)"
"""What an empty text, and a parameter without a value, is called."""


@dataclass(frozen=True)
class Series:
    """A line. ``low`` and ``high`` are NaN where a point has no interval."""

    name: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Plot:
    """One pair of axes. ``ticks`` are the names of x = 0, 1, … where x has no numbers."""

    title: str
    x: str
    y: str
    series: list[Series]
    ticks: list[str]
    caption: str


@dataclass(frozen=True)
class Axes:
    """Columns of a table. ``x`` is drawn over, and is the mean of those rows where the column ``along`` is the same.

    by: tell lines apart. seeds: whether rows are repetitions that differ in their seeds.
    """

    x: str
    along: str
    by: tuple[str, ...] = ()
    seeds: bool = False


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    low: float
    high: float


def plot_of(table: Table, rows: Sequence[int], axes: Axes, y: str, title: str) -> Plot | None:
    """Some rows of a table as lines; None where no line has two points."""
    interval = interval_columns(table, y)
    steps = levels(table[axes.along])
    if is_numeric(steps) and None not in steps:
        steps.sort()
    scale = is_numeric(table[axes.x]) and (axes.x != axes.along or None not in steps)
    ticks = [] if scale else [named(step) for step in steps]
    points: dict[tuple[Hashable, ...], dict[Hashable, list[_Point]]] = {}
    for i in rows:
        step = table[axes.along][i]
        at = float(steps.index(step)) if ticks else _number(table[axes.x][i])
        if (point := _point(table, i, at, y, interval)) is not None:
            points.setdefault(tuple(table[n][i] for n in axes.by), {}).setdefault(step, []).append(point)
    kept = telling(list(points))
    names = [axes.by[i] for i in kept]
    series = [_series(label(names, [key[i] for i in kept]), here, steps) for key, here in points.items()]
    if max((len(s.x) for s in series), default=0) < 2:
        return None
    most = max(len(p) for here in points.values() for p in here.values())
    words = [_caption(most, axes.seeds, interval)]
    if axes.x != axes.along:
        words.append(f"Along a line {axes.along} varies.")
    return Plot(title, axes.x, y, series, ticks, " ".join(filter(None, words)))


def telling(keys: Sequence[tuple[Hashable, ...]]) -> list[int]:
    """Which of the values tell lines apart: without those that say what shorter ones do."""
    kept = list(range(len(keys[0]))) if keys else []
    for i in sorted(kept, key=lambda i: -sum(len(named(key[i])) for key in keys)):
        rest = [j for j in kept if j != i]
        if rest and len({tuple(key[j] for j in rest) for key in keys}) == len(keys):
            kept = rest
    return kept


def label(names: Sequence[str], values: Sequence[Any]) -> str:
    """Parameters and their values as a text."""
    return ", ".join(f"{name} = {named(value)}" for name, value in zip(names, values, strict=True))


def named(value: Any) -> str:
    """A value of a parameter; a float with all of its digits, since values that differ are not to look the same."""
    return f"{value:.15g}" if isinstance(value, float) else shown(value) or EMPTY


def quantities(table: Table, names: Sequence[str]) -> list[str]:
    """The columns of numbers that are quantities, not the end of another's interval nor the same in every row."""
    ends = {end for name in names for end in interval_columns(table, name)}
    kept = [n for n in names if n not in ends and is_numeric(table[n])]
    return [n for n in kept if len(levels(v for v in table[n] if v is not None)) > 1]


def interval_columns(table: Table, name: str) -> tuple[str, ...]:
    """The columns of the low and the high end of a column's interval, or of its error alone; none where none is."""
    stems = [name, *([name.removesuffix(".value")] if name.endswith(".value") else [])]
    for stem, joint in product(stems, "._"):
        if (pair := (f"{stem}{joint}low", f"{stem}{joint}high")) and set(pair) <= set(table):
            return pair
        for word in ERRORS:
            if (error := f"{stem}{joint}{word}") in table:
                return (error,)
    columns = list(table)
    if columns[columns.index(name) + 1 : columns.index(name) + 3] == ["low", "high"]:
        return ("low", "high")
    return ()


def levels(values: Any) -> list[Any]:
    """The different values of a column, in their order; an empty one is a value too."""
    return list(dict.fromkeys(values))


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column has numbers, and nothing else but empty cells."""
    there = [v for v in values if v is not None]
    return bool(there) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in there)


def _series(name: str, points: dict[Hashable, list[_Point]], steps: Sequence[Any]) -> Series:
    """A line from its points at each step, in the order of the steps."""
    found = Series(name)
    for here in (points[step] for step in steps if step in points):
        mean, low, high = mean_interval([p.y for p in here])
        if len(here) == 1:
            low, high = here[0].low, here[0].high
        at = math.fsum(p.x for p in here) / len(here)
        for values, value in ((found.x, at), (found.y, mean), (found.low, low), (found.high, high)):
            values.append(value)
    return found


def _point(table: Table, i: int, x: float, y: str, interval: tuple[str, ...]) -> _Point | None:
    value, *ends = (_number(table[name][i]) for name in (y, *interval))
    if not (math.isfinite(value) and math.isfinite(x)):
        return None
    if len(ends) == 1:
        return _Point(x, value, value - ends[0], value + ends[0])
    return _Point(x, value, *ends) if ends else _Point(x, value, math.nan, math.nan)


def _caption(most: int, seeds: bool, interval: tuple[str, ...]) -> str:
    if most > 1:
        what = "seeds" if seeds else "rows"
        return f"Mean over up to {most} {what}, with its 95 % interval (Student's t)."
    if len(interval) == 1:
        return f"Bars and band: ± {interval[0]}."
    return f"Bars and band: from {interval[0]} to {interval[1]}." if interval else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
