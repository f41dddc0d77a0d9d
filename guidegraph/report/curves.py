"""Which curves a table of results gives: a quantity over a parameter, lines told apart by the other parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from guidegraph.nodes.tabular import Table
from guidegraph.report.html import shown
from guidegraph.report.intervals import mean_interval

LINES = 6
"""More lines than these go to plots of their own."""
ERRORS = ("error", "std_error", "standard_error", "se")
SEED = re.compile(r"(.*_)?seed")


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
class _Point:
    y: float
    low: float
    high: float


def sweep_plots(cells: Table, swept: Sequence[str], outputs: Sequence[str]) -> list[Plot]:
    """The outputs of a sweep over the swept parameter that has most numbers; seeds are repetitions of one point."""
    varied = [n for n in swept if not SEED.fullmatch(n) and len(_levels(cells[n])) > 1]
    if not varied:
        return []
    x = max(varied, key=lambda n: (_is_numeric(cells[n]), len(_levels(cells[n]))))
    by, facets = _shared([n for n in varied if n != x], cells)
    seeds = any(SEED.fullmatch(n) and len(_levels(cells[n])) > 1 for n in swept)
    found = []
    for y in quantities(cells, outputs):
        for values in product(*(_levels(cells[n]) for n in facets)):
            rows = [i for i in range(cells.rows) if all(cells[n][i] == v for n, v in zip(facets, values, strict=True))]
            here = ", ".join(f"{n} = {shown(v)}" for n, v in zip(facets, values, strict=True))
            if plot := _plot(cells, rows, x, y, by, f"{y}, {here}" if here else y, seeds):
                found.append(plot)
    return found


def table_plots(table: Table, title: str) -> list[Plot]:
    """The columns of a table over its first one, where that counts upwards; texts tell lines apart."""
    numbers = [n for n in table if _is_numeric(table[n])]
    texts = [n for n in table if n not in numbers and 1 < len(_levels(table[n])) <= LINES]
    if len(numbers) < 2:
        return []
    x = numbers[0]
    by = next((names for names in ([], *([n] for n in texts)) if _counts_upwards(table, x, names)), None)
    if by is None:
        return []
    rows = [*range(table.rows)]
    plots = (_plot(table, rows, x, y, by, f"{title}: {y}", seeds=False) for y in quantities(table, numbers[1:]))
    return [plot for plot in plots if plot]


def _counts_upwards(table: Table, x: str, by: Sequence[str]) -> bool:
    """Whether a column rises from row to row, three at least, in each group of rows."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for i, value in enumerate(table.numbers(x)):
        groups.setdefault(tuple(table[name][i] for name in by), []).append(value)
    return all(len(g) > 2 and all(a < b for a, b in pairwise(g)) for g in groups.values())


def quantities(table: Table, names: Sequence[str]) -> list[str]:
    """The columns of numbers that are quantities, not the end of another's interval nor the same in every row."""
    ends = {end for name in names for end in interval_columns(table, name)}
    kept = [n for n in names if n not in ends and _is_numeric(table[n])]
    return [n for n in kept if len(_levels(table[n])) > 1]


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


def _plot(table: Table, rows: list[int], x: str, y: str, by: Sequence[str], title: str, seeds: bool) -> Plot | None:
    numeric = _is_numeric(table[x])
    levels = _levels(table[x])
    interval = interval_columns(table, y)
    points: dict[str, dict[float, list[_Point]]] = {}
    for i in rows:
        point = _point(table, i, y, interval)
        if point is None or table[x][i] is None:
            continue
        name = ", ".join(f"{n} = {shown(table[n][i])}" for n in by)
        at = table.numbers(x)[i] if numeric else float(levels.index(table[x][i]))
        points.setdefault(name, {}).setdefault(at, []).append(point)
    series = [_series(name, here) for name, here in points.items()]
    if not series or max(len(s.x) for s in series) < 2:
        return None
    most = max(len(p) for here in points.values() for p in here.values())
    return Plot(title, x, y, series, [] if numeric else [shown(v) for v in levels], _caption(most, seeds, interval))


def _series(name: str, points: dict[float, list[_Point]]) -> Series:
    found = Series(name)
    for at in sorted(points):
        here = points[at]
        mean, low, high = mean_interval([p.y for p in here])
        if len(here) == 1:
            low, high = here[0].low, here[0].high
        for values, value in ((found.x, at), (found.y, mean), (found.low, low), (found.high, high)):
            values.append(value)
    return found


def _point(table: Table, i: int, y: str, interval: tuple[str, ...]) -> _Point | None:
    value, *ends = (_number(table[name][i]) for name in (y, *interval))
    if not math.isfinite(value):
        return None
    if len(ends) == 1:
        return _Point(value, value - ends[0], value + ends[0])
    return _Point(value, *ends) if ends else _Point(value, math.nan, math.nan)


def _caption(most: int, seeds: bool, interval: tuple[str, ...]) -> str:
    if most > 1:
        what = "seeds" if seeds else "rows"
        return f"Mean over up to {most} {what}, with its 95 % interval (Student's t)."
    if len(interval) == 1:
        return f"Bars and band: ± {interval[0]}."
    return f"Bars and band: from {interval[0]} to {interval[1]}." if interval else ""


def _shared(names: Sequence[str], cells: Table) -> tuple[list[str], list[str]]:
    """The parameters that tell lines apart, as many as give few enough lines, and those that tell plots apart."""
    by: list[str] = []
    facets: list[str] = []
    lines = 1
    for name in sorted(names, key=lambda n: len(_levels(cells[n]))):
        lines *= len(_levels(cells[name]))
        (by if lines <= LINES else facets).append(name)
    return by, facets


def _levels(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(v for v in values if v is not None))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column has numbers, and nothing else but empty cells."""
    there = [v for v in values if v is not None]
    return bool(there) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in there)
