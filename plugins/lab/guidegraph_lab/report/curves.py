"""The curves of a table of results: a quantity over a parameter, with lines for the values of the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from guidegraph.nodes.table import Table
from guidegraph_lab.report.series import (
    Axes,
    Plot,
    distinct_values,
    format_levels,
    is_numeric,
    make_plot,
    quantity_columns,
)

LINES = 6
"""More lines than this are split into separate plots."""
SEED = re.compile(r"(.*_)?seed")


@dataclass(frozen=True)
class CurveChoice:
    """The requested x of curves, and the parameters that distinguish lines; the rules below choose the rest."""

    x: str | None = None
    by: tuple[str, ...] = ()

    def within(self, x: Sequence[str], by: Sequence[str]) -> CurveChoice:
        """The choice restricted to a table whose columns for x and for lines are ``x`` and ``by``."""
        return CurveChoice(self.x if self.x in x else None, tuple(n for n in self.by if n in by))


AUTOMATIC = CurveChoice()


def sweep_plots(
    cells: Table,
    swept: Sequence[str],
    outputs: Sequence[str],
    choice: CurveChoice = AUTOMATIC,
    tied: Collection[str] = (),
    title: str = "",
) -> list[Plot]:
    """Plots of a sweep's outputs over one of its parameters; seeds are repetitions of one point.

    x is the chosen one, or the parameter with the most numbers. The other parameters distinguish lines, or plots if
    ``by`` is chosen or there would be too many lines. tied: parameters that vary together; one that is determined by
    the others is dropped. If x is an output, the lines follow the parameter that would otherwise be x.
    """
    choice = choice.within([*swept, *quantity_columns(cells, outputs)], swept)
    chosen = (choice.x, *choice.by)
    seeds = [n for n in swept if SEED.fullmatch(n) and n not in chosen and len(distinct_values(cells[n])) > 1]
    varied = [n for n in swept if n not in seeds and len(distinct_values(cells[n])) > 1]
    free = [n for n in varied if n not in choice.by]
    counts = {n: (is_numeric(cells[n]) and None not in cells[n], len(distinct_values(cells[n]))) for n in free}
    along = choice.x if choice.x in swept else max(free, key=lambda n: counts[n], default=None)
    if along is None:
        return []
    distinguishing = _drop_implied(cells, [n for n in free if n != along], [along, *choice.by], tied)
    by = list(choice.by)
    for name in distinguishing if not by else ():
        if len(_groups(cells, [*by, name])) > LINES:
            break
        by.append(name)
    facets = [n for n in distinguishing if n not in by]
    axes = Axes(choice.x or along, along, tuple(by), bool(seeds))
    quantities = [n for n in quantity_columns(cells, outputs) if n != axes.x]
    repeated = {  # outputs that equal a parameter in each cell
        n
        for n in quantities
        if any(all(a is None or a == b for a, b in zip(cells[n], cells[other], strict=True)) for other in swept)
    }
    return list(_plots(cells, axes, facets, [n for n in quantities if n not in repeated], title))


def long_plots(
    table: Table, swept: Sequence[str], title: str, choice: CurveChoice = AUTOMATIC, tied: Collection[str] = ()
) -> list[Plot]:
    """Plots of an output that is a table in each cell; the rows of all cells are stacked, with their parameters.

    x is the chosen one, or the first numeric column that increases in each cell, or a swept parameter. A text column
    with few values distinguishes lines as a swept parameter does.
    """
    own = [n for n in table if n != "cell" and n not in swept]
    cell = [n for n in ("cell", *swept) if n in table]
    numbers = [n for n in own if is_numeric(table[n])]
    words = [n for n in own if n not in numbers and 1 < len(distinct_values(table[n])) <= LINES][:1]
    index = [n for n in numbers if _rises(table, n, [*cell, *words], 2)][:1]
    if not index and len(_groups(table, [*cell, *words])) < table.rows:
        return []  # the rows of a cell cannot be distinguished
    x = choice.within([*(n for n in swept if n in table), *numbers], ()).x
    own_choice = CurveChoice(x or next(iter(index), None), choice.by)
    parameters = [n for n in (*swept, *words, *index) if n in table]
    return sweep_plots(table, parameters, [n for n in numbers if n not in index], own_choice, tied, title)


def table_plots(table: Table, title: str, choice: CurveChoice = AUTOMATIC) -> list[Plot]:
    """Plots of a run's table over its first column, if that increases; text columns distinguish lines."""
    numbers = [n for n in table if is_numeric(table[n])]
    texts = [n for n in table if n not in numbers and 1 < len(distinct_values(table[n])) <= LINES]
    choice = choice.within(numbers, list(table))
    if len(numbers) < 2:
        return []
    x = choice.x or numbers[0]
    groups = [list(choice.by)] if choice.by else [[], *([n] for n in texts)]
    by = next((names for names in groups if choice.x or _rises(table, x, names, 3)), None)
    if by is None:
        return []
    outputs = [n for n in numbers if n not in (x, *by)]
    return list(_plots(table, Axes(x, x, tuple(by)), [], quantity_columns(table, outputs), title))


def _plots(table: Table, axes: Axes, facets: Sequence[str], outputs: Sequence[str], title: str) -> Iterator[Plot]:
    groups = _groups(table, facets)
    for y in outputs:
        for values, rows in groups.items():
            words = ", ".join(filter(None, (f"{title}: {y}" if title else y, format_levels(facets, values))))
            if plot := make_plot(table, rows, axes, y, words):
                yield plot


def _groups(table: Table, names: Sequence[str]) -> dict[tuple[Any, ...], list[int]]:
    """The rows grouped by their values in some columns."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i in range(table.rows):
        groups.setdefault(tuple(table[name][i] for name in names), []).append(i)
    return groups


def _rises(table: Table, x: str, by: Sequence[str], least: int) -> bool:
    """Whether a column increases from row to row in each group, the largest of which has at least ``least`` rows."""
    numbers = table.numbers(x)
    groups = [[numbers[i] for i in rows] for rows in _groups(table, by).values()]
    return max(map(len, groups), default=0) >= least and all(a < b for g in groups for a, b in pairwise(g))


def _drop_implied(cells: Table, names: Sequence[str], fixed: Sequence[str], tied: Collection[str]) -> list[str]:
    """The parameters without tied ones that the fixed and other ones determine: for example, a model by its f."""
    kept: list[str] = []
    for name in sorted(names, key=lambda n: len(distinct_values(cells[n]))):
        columns = [*fixed, *kept]
        if name not in tied or len(_groups(cells, [*columns, name])) > len(_groups(cells, columns)):
            kept.append(name)
    return kept
