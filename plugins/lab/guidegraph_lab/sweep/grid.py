"""The cells of a sweep: the product of table rows, grid points and seeds. All values are checked first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.language.yaml_tree import shorten
from guidegraph_lab.sweep.grid_options import MOST_CELLS, AxisTexts

UNFIT = object()
"""In place of a value whose text does not fit its parameter."""


@dataclass(frozen=True)
class Axis:
    """Parameters that vary together, with their values in each row. ``option`` is the option that gave them."""

    option: str
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, the last changing fastest. ``base`` has the values of the parameters that are not swept."""

    axes: tuple[Axis, ...]
    base: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The swept parameters."""
        return tuple(name for axis in self.axes for name in axis.names)

    def __len__(self) -> int:
        return math.prod(len(axis.rows) for axis in self.axes)

    def points(self) -> Iterator[dict[str, Any]]:
        """The values of the swept parameters in each cell, in order."""
        for rows in product(*(axis.rows for axis in self.axes)):
            yield dict(zip(self.names, (value for row in rows for value in row), strict=True))


def make_grid(
    graph: Graph, settings: Mapping[str, str], axis_texts: Sequence[AxisTexts], problems: Sequence[Problem]
) -> Grid:
    """The grid of a workflow, with typed values.

    settings: texts of parameters that are the same in all cells. problems: those already found.
    Raises ``WorkflowError`` with those and any new ones: unknown, missing and repeated parameters, values that do not
    fit the parameter or a port that it feeds.
    """
    all_problems = [*problems, *_name_problems(graph, settings, axis_texts)]
    if not axis_texts and not problems:
        message = "there is nothing to sweep: give --grid NAME=VALUE,VALUE,…, --seeds FIRST:END or --from FILE.csv"
        all_problems.append(Problem(Mark("--grid", 1, 1), "bad-grid", message))
    reader = _Reader(graph, all_problems)
    swept = {name for texts in axis_texts for name in texts.names}
    axes = [reader.axis(texts) for texts in axis_texts if all(name in graph.params for name in texts.names)]
    fixed = {name: text for name, text in settings.items() if name not in swept}
    unswept = {name: parameter for name, parameter in graph.params.items() if name not in swept}
    base: dict[str, Any] = {}
    try:
        base = bind(replace(graph, params=unswept), fixed, text=True, label="--set")
    except WorkflowError as error:
        all_problems += error.problems
    grid = Grid(tuple(axes), base)
    if len(grid) > MOST_CELLS:
        message = f"there are {len(grid):,} cells; at most {MOST_CELLS:,} are one sweep"
        all_problems.append(Problem(Mark("--grid", 1, 1), "bad-grid", message))
    if all_problems:
        raise WorkflowError(all_problems)
    return grid


def _name_problems(graph: Graph, settings: Mapping[str, str], axis_texts: Sequence[AxisTexts]) -> Iterator[Problem]:
    sources = dict.fromkeys(settings, "--set")
    for texts in axis_texts:
        mark = Mark(texts.option, 1, 1) if texts.option != "--from" else Mark(texts.marks[0].file, 1, 1)
        for name in texts.names:
            path = f"params.{shorten(name)}"
            if name not in graph.params:
                message = f"no parameter '{shorten(name)}'; {suggest(name[:60], graph.params, 'parameters')}"
                yield Problem(mark, "unknown-param", message, path)
            if name in sources:
                message = (
                    f"'{shorten(name)}' has its values from {sources[name]} and from {texts.option}: leave one out"
                )
                yield Problem(mark, "swept-twice", message, path)
            sources[name] = texts.option


class _Reader:
    """Parses texts by the parameters' types, each text of a parameter once."""

    def __init__(self, graph: Graph, problems: list[Problem]):
        self._graph, self._problems = graph, problems
        self._cache: dict[tuple[str, str], Any] = {}

    def axis(self, texts: AxisTexts) -> Axis:
        rows = []
        for row, mark in zip(texts.rows, texts.marks, strict=True):
            rows.append(tuple(self._value(n, text, mark) for n, text in zip(texts.names, row, strict=True)))
        if len(texts.names) == 1 and texts.option != "--from":
            seen: set[str] = set()
            for (value,), (text,) in zip(rows, texts.rows, strict=True):
                if value is not UNFIT and repr(value) in seen:
                    message = f"'{texts.names[0]}' has the value {shorten(text)} twice"
                    mark = Mark(texts.option, 1, 1)
                    self._problems.append(Problem(mark, "bad-grid", message, f"params.{texts.names[0]}"))
                seen.add(repr(value))
        return Axis(texts.option, texts.names, tuple(rows))

    def _value(self, name: str, text: str, mark: Mark) -> Any:
        """The value of one parameter; ``UNFIT``, and problems, if the text does not fit it."""
        if (name, text) not in self._cache:
            single = replace(self._graph, params={name: self._graph.params[name]})
            try:
                self._cache[name, text] = bind(single, {name: text}, text=True)[name]
            except WorkflowError as error:
                self._problems += [replace(problem, mark=mark) for problem in error.problems]
                self._cache[name, text] = UNFIT
        return self._cache[name, text]
