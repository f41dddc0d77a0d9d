"""Tables of numbers and texts: what an evaluation gives, what is printed and plotted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from guidegraph.graph.errors import choices

Entry: TypeAlias = float | int | bool | str | None
"""What a cell holds; None where there is nothing to say."""


class Table(Mapping[str, tuple[Entry, ...]]):
    """Columns by name, all of one length. As an output it is written as JSON, columns by name, and as Markdown.

    Raises ``ValueError`` for columns of different lengths.
    """

    def __init__(self, columns: Mapping[str, Sequence[Entry]]) -> None:
        self._columns = {name: tuple(column) for name, column in columns.items()}
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a table have one length; found {lengths}")

    def __getitem__(self, name: str) -> tuple[Entry, ...]:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(f"the table has no column '{name}'; {choices(name, self._columns, 'columns')}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Table({self._columns!r})"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return max(map(len, self._columns.values()), default=0)

    def numbers(self, name: str) -> list[float]:
        """A column as floats, NaN where it has no number. Raises ``ValueError`` for a column that is not there."""
        try:
            column = self[name]
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        return [float(v) if isinstance(v, (int, float)) else math.nan for v in column]

    def records(self) -> list[dict[str, Entry]]:
        """The rows, each by the names of the columns."""
        return [dict(zip(self, row, strict=True)) for row in zip(*self.values(), strict=True)]

    def markdown(self, limit: int | None = None) -> str:
        """The table in Markdown, five digits of each number; of more than ``limit`` rows only the first ones."""
        shown = self.rows if limit is None else min(limit, self.rows)
        cells = {name: [cell(v) for v in column[:shown]] for name, column in self.items()}
        words = {name for name, column in self.items() if any(isinstance(v, str) for v in column)}
        width = {name: max([len(escaped(name)), 3, *map(len, column)]) for name, column in cells.items()}

        def line(texts: Mapping[str, str]) -> str:
            aligned = [text.ljust(width[n]) if n in words else text.rjust(width[n]) for n, text in texts.items()]
            return f"| {' | '.join(aligned)} |"

        rule = {name: "-" * width[name] if name in words else "-" * (width[name] - 1) + ":" for name in cells}
        rows = [line({name: column[i] for name, column in cells.items()}) for i in range(shown)]
        more = [f"… {self.rows - shown} more rows"] if shown < self.rows else []
        return "\n".join([line({name: escaped(name) for name in cells}), line(rule), *rows, *more])


def cell(value: Entry) -> str:
    """An entry as the text of a Markdown cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return escaped(value)
    return f"{value:.5g}" if isinstance(value, float) else json.dumps(value)


def escaped(text: str) -> str:
    """A text on one line, in which a bar ends no cell."""
    return " ".join(text.split()).replace("|", "\\|")
