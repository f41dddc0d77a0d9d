"""Tables of numbers and texts, for the results of evaluations, for printing and for plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from guidegraph.graph.errors import suggest

CellValue: TypeAlias = float | int | bool | str | None
"""The value of a cell; None in an empty one."""


class Table(Mapping[str, tuple[CellValue, ...]]):
    """Columns by name, all of one length. As an output it is written as JSON, as a dict of columns, and as Markdown.

    Raises ``ValueError`` for columns of different lengths.
    """

    def __init__(self, columns: Mapping[str, Sequence[CellValue]]) -> None:
        self._columns = {name: tuple(column) for name, column in columns.items()}
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a table have one length; found {lengths}")

    def __getitem__(self, name: str) -> tuple[CellValue, ...]:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(f"the table has no column '{name}'; {suggest(name, self._columns, 'columns')}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """The number of columns."""
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Table({self._columns!r})"

    @property
    def rows(self) -> int:
        """The number of rows."""
        return max(map(len, self._columns.values()), default=0)

    def numbers(self, name: str) -> list[float]:
        """A column as floats, with NaN for cells that hold no number. Raises ``ValueError`` for an unknown column."""
        try:
            column = self[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        return [to_float(v) if isinstance(v, (int, float)) else math.nan for v in column]

    def records(self) -> list[dict[str, CellValue]]:
        """The rows, each as a dict by column name."""
        return [dict(zip(self, row, strict=True)) for row in zip(*self.values(), strict=True)]

    def markdown(self, limit: int | None = None) -> str:
        """The table in Markdown, with numbers to five digits, and at most the first ``limit`` rows."""
        count = self.rows if limit is None else min(limit, self.rows)
        cells = {name: [format_cell(v) for v in column[:count]] for name, column in self.items()}
        text_columns = {name for name, column in self.items() if any(isinstance(v, str) for v in column)}
        widths = {name: max([len(escape_cell(name)), 3, *map(len, column)]) for name, column in cells.items()}

        def line(texts: Mapping[str, str]) -> str:
            aligned = [
                text.ljust(widths[n]) if n in text_columns else text.rjust(widths[n]) for n, text in texts.items()
            ]
            return f"| {' | '.join(aligned)} |"

        dashes = {
            name: "-" * widths[name] if name in text_columns else "-" * (widths[name] - 1) + ":" for name in cells
        }
        rows = [line({name: column[i] for name, column in cells.items()}) for i in range(count)]
        more = [f"… {self.rows - count} more rows"] if count < self.rows else []
        return "\n".join([line({name: escape_cell(name) for name in cells}), line(dashes), *rows, *more])


def to_float(number: float) -> float:
    """A number as a float; infinite if it is a larger integer than a float can be."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def format_cell(value: CellValue) -> str:
    """A value as the text of a Markdown cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return escape_cell(value)
    return f"{value:.5g}" if isinstance(value, float) else json.dumps(value)


def escape_cell(text: str) -> str:
    """The text on one line, with bars escaped so that they do not end the cell."""
    return " ".join(text.split()).replace("|", "\\|")
