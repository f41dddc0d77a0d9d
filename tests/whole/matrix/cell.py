"""A cell of the matrix of workflows and uses: right, refused, wrong, or without meaning."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from guidegraph_runtime.running.measure_costs import compare_output
from tests.whole.matrix.bench import Bench

Kind: TypeAlias = Literal["right", "refused", "wrong", "absent"]
TOLERANCE = 2 / 127.5
"""The documented difference of bundles, pages and accelerated runs: 2/255 of the range of pictures, −1 to 1."""


@dataclass(frozen=True)
class Cell:
    """A result. text: what was compared, the refusal's sentence, what is wrong, or why the use has no meaning."""

    kind: Kind
    text: str = ""


def right(text: str = "") -> Cell:
    return Cell("right", text)


def refused(sentence: str) -> Cell:
    """The workflow was refused before any heavy work. It counts only if the list of refusals has it."""
    return Cell("refused", sentence)


def absent(reason: str) -> Cell:
    """The workflow has nothing that this use is about."""
    return Cell("absent", reason)


def wrong(text: str) -> Cell:
    return Cell("wrong", text)


@dataclass(frozen=True)
class Column:
    """A use of a workflow, judged by what comes out. help: the use in a few words."""

    name: str
    help: str
    judge: Callable[[Bench], Cell]


@dataclass(frozen=True)
class Refusal:
    """A refusal that is meant. workflows: a pattern of names. sentence: a part of the refusal. reason: for the docs."""

    column: str
    workflows: str
    sentence: str
    reason: str

    def allows(self, column: str, workflow: str, cell: Cell) -> bool:
        is_place = self.column == column and re.fullmatch(self.workflows, workflow) is not None
        return is_place and self.sentence in cell.text


def judge(column: Column, bench: Bench, refusals: Iterable[Refusal]) -> Cell:
    """The cell of a workflow. Anything unexpected is wrong, and so is a refusal that is not listed."""
    try:
        cell = column.judge(bench)
    except AssertionError as error:
        return wrong(shorten(str(error)))
    except Exception as error:  # a column's work may fail in any way, and the next cell goes on
        return wrong(shorten(f"{type(error).__name__}: {error}"))
    if cell.kind == "refused" and not any(refusal.allows(column.name, bench.name, cell) for refusal in refusals):
        return wrong(shorten(f"refused: {cell.text}"))
    return Cell(cell.kind, shorten(cell.text))


def shorten(text: str, letters: int = 600) -> str:
    """A text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters - 1]}…"


def find_difference(
    actual: Mapping[str, Any], expected: Mapping[str, Any], kinds: Mapping[str, str], tolerance: float = TOLERANCE
) -> str:
    """How outputs differ from the expected ones by more than a tolerance; "" if they do not."""
    if {*actual} != {*expected}:
        return f"the outputs are {sorted(actual)} in place of {sorted(expected)}"
    for name, value in expected.items():
        found = actual[name]
        if isinstance(value, dict):
            if text := find_table_difference(found, value, tolerance):
                return f"{name}: {text}"
            continue
        if np.asarray(found).shape != value.shape:
            return f"{name} has shape {np.asarray(found).shape} in place of {value.shape}"
        difference = compare_output(name, kinds[name], np.asarray(found), value, tolerance)
        if not difference.fits:
            return f"{name} differs: {difference.text}"
    return ""


def find_table_difference(found: Any, expected: Mapping[str, list[Any]], tolerance: float) -> str:
    """How a table differs from the expected one, in numbers by more than a tolerance; "" if it does not."""
    if not isinstance(found, Mapping) or {*found} != {*expected}:
        return f"a table of the columns {sorted(expected)} is {found!r:.80}"
    for name, cells in expected.items():
        pairs = [*itertools.zip_longest(found[name], cells)]
        wrong_cells = [(a, b) for a, b in pairs if a != b and not _is_near(a, b, tolerance)]
        if wrong_cells:
            return f"the column {name} has {wrong_cells[0][0]!r} in place of {wrong_cells[0][1]!r}"
    return ""


def _is_near(first: Any, second: Any, tolerance: float) -> bool:
    return isinstance(first, float) and isinstance(second, float) and abs(first - second) <= tolerance


def list_differences(differences: Mapping[str, str]) -> str:
    """The differences of several runs by the name of what was changed; "" if there are none."""
    return "; ".join(f"{name}: {text}" for name, text in differences.items() if text)
