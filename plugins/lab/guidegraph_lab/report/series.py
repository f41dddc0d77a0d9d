"""Lines of a plot from the rows of a table: repetitions become means, and intervals are read from columns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from guidegraph.nodes.table import Table
from guidegraph_lab.report.html import format_value
from guidegraph_lab.report.read import to_number

ERRORS = ("error", "std_error", "standard_error", "se")
EMPTY = "(empty)"
"""Shown for an empty text and for a parameter without a value."""

LARGEST = 1e150
"""Points beyond it are left out, as infinite ones are: the square of a larger number is not a float."""


@dataclass(frozen=True)
class Series:
    """A line. ``low`` and ``high`` are NaN at points without an interval."""

    name: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Plot:
    """One plot. ``ticks`` names x = 0, 1, … if x is not numeric."""

    title: str
    x: str
    y: str
    series: list[Series]
    ticks: list[str]
    caption: str


@dataclass(frozen=True)
class Axes:
    """The columns of a plot. x: its values are averaged over rows with equal values in the column ``along``.

    by: columns that distinguish lines. seeds: whether rows are repetitions that differ in their seeds.
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


def make_plot(table: Table, rows: Sequence[int], axes: Axes, y: str, title: str) -> Plot | None:
    """Plot some rows of a table as lines; None if no line has two points."""
    interval = interval_columns(table, y)
    steps = distinct_values(table[axes.along])
    if is_numeric(steps) and None not in steps:
        steps.sort()
    scale = is_numeric(table[axes.x]) and (axes.x != axes.along or None not in steps)
    ticks = [] if scale else [format_level(step) for step in steps]
    points: dict[tuple[Hashable, ...], dict[Hashable, list[_Point]]] = {}
    for i in rows:
        step = table[axes.along][i]
        position = float(steps.index(step)) if ticks else to_number(table[axes.x][i])
        value, *ends = (to_number(table[name][i]) for name in (y, *interval))
        if abs(value) <= LARGEST and abs(position) <= LARGEST:
            low, high = (value - ends[0], value + ends[0]) if len(ends) == 1 else ends or (math.nan, math.nan)
            point = _Point(position, value, *(end if abs(end) <= LARGEST else math.nan for end in (low, high)))
            points.setdefault(tuple(table[n][i] for n in axes.by), {}).setdefault(step, []).append(point)
    distinguishing = select_distinguishing(list(points))
    names = [axes.by[i] for i in distinguishing]
    series = [
        _series(format_levels(names, [key[i] for i in distinguishing]), group, steps) for key, group in points.items()
    ]
    if max((len(s.x) for s in series), default=0) < 2:
        return None
    most = max(len(p) for group in points.values() for p in group.values())
    captions = [f"Bars and band: {'± ' if len(interval) == 1 else 'from '}{' to '.join(interval)}."] if interval else []
    if most > 1:
        unit = "seeds" if axes.seeds else "rows"
        captions = [f"Mean over up to {most} {unit}, with its 95 % interval (Student's t)."]
    if axes.x != axes.along:
        captions.append(f"Along a line {axes.along} varies.")
    return Plot(title, axes.x, y, series, ticks, " ".join(captions))


def select_distinguishing(keys: Sequence[tuple[Hashable, ...]]) -> list[int]:
    """The indices of values that suffice to distinguish the lines; longer values are dropped first."""
    kept = list(range(len(keys[0]))) if keys else []
    for i in sorted(kept, key=lambda i: -sum(len(format_level(key[i])) for key in keys)):
        remaining = [j for j in kept if j != i]
        if remaining and len({tuple(key[j] for j in remaining) for key in keys}) == len(keys):
            kept = remaining
    return kept


def format_levels(names: Sequence[str], values: Sequence[Any]) -> str:
    """Parameters and their values as text."""
    return ", ".join(f"{name} = {format_level(value)}" for name, value in zip(names, values, strict=True))


def format_level(value: Any) -> str:
    """A parameter's value as text. Floats keep 15 digits, so that different values look different."""
    return f"{value:.15g}" if isinstance(value, float) else format_value(value) or EMPTY


def quantity_columns(table: Table, names: Sequence[str]) -> list[str]:
    """The numeric columns that vary and are not an interval's end or the error of another column."""
    ends = {end for name in names for end in interval_columns(table, name)}
    kept = [n for n in names if n not in ends and is_numeric(table[n])]
    return [n for n in kept if len(distinct_values(v for v in table[n] if v is not None)) > 1]


def interval_columns(table: Table, name: str) -> tuple[str, ...]:
    """The columns of the low and high end of a column's interval, or of its error; empty if there are none."""
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


def distinct_values(values: Any) -> list[Any]:
    """The distinct values of a column in order, including empty ones."""
    return list(dict.fromkeys(values))


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column has only numbers and empty cells, and at least one number."""
    present = [v for v in values if v is not None]
    return bool(present) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present)


def _series(name: str, points: dict[Hashable, list[_Point]], steps: Sequence[Any]) -> Series:
    """A line from its points at each step: their means, with intervals."""
    series = Series(name)
    for group in (points[step] for step in steps if step in points):
        mean, low, high = mean_interval([p.y for p in group])
        if len(group) == 1:
            low, high = group[0].low, group[0].high
        position = math.fsum(p.x for p in group) / len(group)
        for values, value in ((series.x, position), (series.y, mean), (series.low, low), (series.high, high)):
            values.append(value)
    return series


Z = 1.959963984540054
SMALL = (12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836, 2.446911851, 2.364624252, 2.306004135)
"""The 0.975 quantile of Student's t with 1 to 8 degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t with ``freedom`` degrees, at least 1; within 1e-4.

    Above 8 degrees: Abramowitz and Stegun, eq. 26.7.5, an expansion around the normal quantile.
    """
    if freedom < 1:
        raise ValueError(f"degrees of freedom are at least 1; found {freedom}")
    if freedom <= len(SMALL):
        return SMALL[freedom - 1]
    z, n = Z, float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4),
    )
    return sum(terms)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and low and high end of its 95 % interval over independent repetitions; NaN ends for a single value.

    Raises ``ValueError`` without values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan, math.nan
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half
