"""Table nodes: collect the results of loops, and print or plot them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import MinLen

from guidegraph.graph.errors import suggest
from guidegraph.graph.node import node
from guidegraph.graph.types import describe_value, is_tensor
from guidegraph.nodes.table import CellValue
from guidegraph.nodes.types import Table


@node("table.columns")
def columns(
    values: Sequence[Any], *, names: list[str], constants: dict[str, str | int | float | bool] | None = None
) -> Table:
    """A table of columns: lists or vectors of one length. A single number or text is repeated in every row.

    names: the columns' names, in the order of `values`. constants: columns of one literal, before the others. If all
    values are single, the table has one row: collect such rows in a loop and stack them with table.stack.
    Raises an error for lists of different lengths, and for values that are neither numbers nor texts.
    """
    if not values:
        raise ValueError("there are no values: list at least one")
    if len(values) != len(names):
        raise ValueError(f"{len(values)} values need as many names; found {len(names)}: {', '.join(names)}")
    values_by_name: dict[str, Any] = {**(constants or {}), **dict(zip(names, values, strict=True))}
    if len(values_by_name) != len(names) + len(constants or {}) or len(set(names)) != len(names):
        raise ValueError(f"the names of columns differ; found {', '.join([*(constants or {}), *names])}")
    cells = {name: to_column(value, name) for name, value in values_by_name.items()}
    lengths = {name: len(items) for name, items in cells.items() if isinstance(items, list)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a table have one length; found {lengths}")
    rows = next(iter(lengths.values()), 1)
    return Table({name: items if isinstance(items, list) else [items] * rows for name, items in cells.items()})


@node("table.stack")
def stack(tables: Sequence[Table], *, by: str = "", names: list[str] | None = None) -> Table:
    """The rows of several tables in one, with the columns of all of them. A table without a column leaves it empty.

    by: a new first column that names the table of each row; names: the tables' names, in order.
    """
    if not tables:
        raise ValueError("there are no tables: list at least one, and let a loop that collects them run at least once")
    if (names is not None and len(names) != len(tables)) or (by and names is None):
        raise ValueError(f"{len(tables)} tables need as many names to tell their rows apart; found {names}")
    if names is not None and (not by or any(by in table for table in tables)):
        raise ValueError(f"'by' is the name of a new column that says of which table a row is; found '{by}'")
    names_of_columns = dict.fromkeys(name for table in tables for name in table)
    rows = [row for table in tables for row in table.records()]
    stacked: dict[str, list[CellValue]] = {name: [row.get(name) for row in rows] for name in names_of_columns}
    if names is None:
        return Table(stacked)
    return Table({by: [name for name, table in zip(names, tables, strict=True) for _ in range(table.rows)], **stacked})


@node("table.join")
def join(left: Table, right: Table, *, on: str) -> Table:
    """Join each row of `left` with the row of `right` that has the same value in column `on`.

    Without such a row, its cells are empty. Raises an error if `right` has a value twice, or if both tables have
    another column of the same name.
    """
    keys, shared = get_column(right, on), sorted((set(left) & set(right)) - {on})
    if len(set(keys)) != len(keys):
        raise ValueError(f"column '{on}' of the right table has a value twice: it cannot tell its rows apart")
    if shared:
        raise ValueError(f"both tables have the columns {', '.join(shared)}: rename them in one of the two")
    row_of_key = {key: i for i, key in enumerate(keys)}
    rows = [row_of_key.get(key) for key in get_column(left, on)]
    added = {n: [None if i is None else values[i] for i in rows] for n, values in right.items() if n != on}
    return Table({**left, **added})


@node("table.select")
def select(table: Table, *, names: Annotated[list[str], MinLen(1)]) -> Table:
    """Some columns of a table, in the order of `names`."""
    return Table({name: get_column(table, name) for name in names})


def get_column(table: Table, name: str) -> Sequence[CellValue]:
    """A column by name. Raises ``ValueError`` that lists the columns."""
    if name not in table:
        raise ValueError(f"the table has no column '{name}'; {suggest(name, table, 'columns')}")
    return table[name]


def to_column(value: Any, name: str) -> list[CellValue] | CellValue:
    """Convert a number, a text, a vector or a list of those to one cell's value, or to a list of them."""
    if is_tensor(value):
        numbers = value.detach().cpu().tolist()
        if value.ndim <= 1:
            return numbers  # type: ignore[no-any-return]
        if value.numel() == value.shape[0]:  # a loop's collected tensors of one element
            return value.detach().cpu().flatten().tolist()  # type: ignore[no-any-return]
    elif value is None or isinstance(value, (bool, int, float, str)):
        return value
    elif isinstance(value, Sequence):
        cells = [to_column(cell_value, name) for cell_value in value]
        flat = [
            cell_value[0] if isinstance(cell_value, list) and len(cell_value) == 1 else cell_value
            for cell_value in cells
        ]
        if not any(isinstance(cell_value, list) for cell_value in flat):
            return flat  # type: ignore[return-value]
    raise ValueError(f"column '{name}' takes numbers or texts, one for each row; found {describe_value(value)}")
