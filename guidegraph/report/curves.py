"""Which curves a table of results gives: a quantity over a parameter, lines told apart by the other parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from guidegraph.nodes.tabular import Table
from guidegraph.report.series import Axes, Plot, is_numeric, label, levels, plot_of, quantities

LINES = 6
"""More lines than these go to plots of their own."""
SEED = re.compile(r"(.*_)?seed")


@dataclass(frozen=True)
class Choice:
    """What a person wants curves over, and lines told apart by; without a name it is chosen by the rules here."""

    x: str | None = None
    by: tuple[str, ...] = ()

    def within(self, x: Sequence[str], by: Sequence[str]) -> Choice:
        """The part of it that a table has, whose columns for x, and for lines, these are."""
        return Choice(self.x if self.x in x else None, tuple(n for n in self.by if n in by))


AUTOMATIC = Choice()


def sweep_plots(
    cells: Table,
    swept: Sequence[str],
    outputs: Sequence[str],
    choice: Choice = AUTOMATIC,
    tied: Collection[str] = (),
    title: str = "",
) -> list[Plot]:
    """The outputs of a sweep over one of its parameters; seeds are repetitions of one point.

    x is chosen, or the parameter that has most numbers. The other parameters tell lines apart, or plots where ``by``
    is chosen or the lines would be too many. tied: those whose values were given together, of which one that never
    differs where the others are the same tells nothing apart. Over an output the lines follow the parameter that
    would be x.
    """
    choice = choice.within([*swept, *quantities(cells, outputs)], swept)
    named = (choice.x, *choice.by)
    seeds = [n for n in swept if SEED.fullmatch(n) and n not in named and len(levels(cells[n])) > 1]
    varied = [n for n in swept if n not in seeds and len(levels(cells[n])) > 1]
    along = choice.x if choice.x in swept else _longest(cells, [n for n in varied if n not in choice.by])
    if along is None:
        return []
    rest = _telling(cells, [n for n in varied if n not in (along, *choice.by)], [along, *choice.by], tied)
    by, facets = (list(choice.by), rest) if choice.by else _shared(rest, cells)
    axes = Axes(choice.x or along, along, tuple(by), bool(seeds))
    known = {axes.x, *(n for n in quantities(cells, outputs) if any(_same(cells, n, other) for other in swept))}
    return list(_plots(cells, axes, facets, [n for n in quantities(cells, outputs) if n not in known], title))


def long_plots(
    table: Table, swept: Sequence[str], title: str, choice: Choice = AUTOMATIC, tied: Collection[str] = ()
) -> list[Plot]:
    """The curves of an output that is a table in each cell, whose rows stand below each other with their parameters.

    x is chosen, or the table's first column of numbers that rises in each cell, or a swept parameter; a column of few
    words tells lines apart as a swept parameter does.
    """
    own = [n for n in table if n != "cell" and n not in swept]
    cell = [n for n in ("cell", *swept) if n in table]
    numbers = [n for n in own if is_numeric(table[n])]
    words = [n for n in own if n not in numbers and 1 < len(levels(table[n])) <= LINES][:1]
    index = [n for n in numbers if _rises(table, n, [*cell, *words], 2)][:1]
    if not index and len(_groups(table, [*cell, *words])) < table.rows:
        return []  # nothing says which row of a cell is which
    x = choice.within([*(n for n in swept if n in table), *numbers], ()).x
    wanted = Choice(x or next(iter(index), None), choice.by)
    parameters = [n for n in (*swept, *words, *index) if n in table]
    return sweep_plots(table, parameters, [n for n in numbers if n not in index], wanted, tied, title)


def table_plots(table: Table, title: str, choice: Choice = AUTOMATIC) -> list[Plot]:
    """The columns of a run's table over its first one, where that counts upwards; texts tell lines apart."""
    numbers = [n for n in table if is_numeric(table[n])]
    texts = [n for n in table if n not in numbers and 1 < len(levels(table[n])) <= LINES]
    choice = choice.within(numbers, list(table))
    if len(numbers) < 2:
        return []
    x = choice.x or numbers[0]
    groups = [list(choice.by)] if choice.by else [[], *([n] for n in texts)]
    by = next((names for names in groups if choice.x or _rises(table, x, names, 3)), None)
    if by is None:
        return []
    others = [n for n in numbers if n not in (x, *by)]
    return list(_plots(table, Axes(x, x, tuple(by)), [], quantities(table, others), title))


def _plots(table: Table, axes: Axes, facets: Sequence[str], outputs: Sequence[str], title: str) -> Iterator[Plot]:
    groups = _groups(table, facets)
    for y in outputs:
        for values, rows in groups.items():
            words = ", ".join(filter(None, (f"{title}: {y}" if title else y, label(facets, values))))
            if plot := plot_of(table, rows, axes, y, words):
                yield plot


def _same(cells: Table, output: str, parameter: str) -> bool:
    """Whether an output says in each cell what the parameter is."""
    return all(a is None or a == b for a, b in zip(cells[output], cells[parameter], strict=True))


def _groups(table: Table, names: Sequence[str]) -> dict[tuple[Any, ...], list[int]]:
    """The rows by their values in some columns."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for i in range(table.rows):
        found.setdefault(tuple(table[name][i] for name in names), []).append(i)
    return found


def _rises(table: Table, x: str, by: Sequence[str], least: int) -> bool:
    """Whether a column rises from row to row in each group of rows, one of which has so many at least."""
    numbers = table.numbers(x)
    groups = [[numbers[i] for i in rows] for rows in _groups(table, by).values()]
    return max(map(len, groups), default=0) >= least and all(a < b for g in groups for a, b in pairwise(g))


def _longest(cells: Table, names: Sequence[str]) -> str | None:
    """The parameter with most numbers; where none has numbers alone, that with most values."""
    counts = {n: (is_numeric(cells[n]) and None not in cells[n], len(levels(cells[n]))) for n in names}
    return max(names, key=lambda n: counts[n], default=None)


def _telling(cells: Table, names: Sequence[str], known: Sequence[str], tied: Collection[str]) -> list[str]:
    """The parameters without those tied ones that follow from the known and the others: the model from its f."""
    found: list[str] = []
    for name in sorted(names, key=lambda n: len(levels(cells[n]))):
        before = [*known, *found]
        if name not in tied or len(_groups(cells, [*before, name])) > len(_groups(cells, before)):
            found.append(name)
    return found


def _shared(names: Sequence[str], cells: Table) -> tuple[list[str], list[str]]:
    """The parameters that tell lines apart, as many as give few enough lines, and those that tell plots apart."""
    by: list[str] = []
    for name in names:
        if len(_groups(cells, [*by, name])) > LINES:
            break
        by.append(name)
    return by, [n for n in names if n not in by]
