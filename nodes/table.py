"""Tables inside of workflows: from what loops collect to what is printed and plotted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import MinLen

from guidegraph.graph.errors import choices
from guidegraph.graph.node import node
from guidegraph.graph.types import describe, is_tensor
from guidegraph.nodes.types import Entry, Schedule, Table


@node("table.columns")
def columns(
    values: Sequence[Any], *, names: list[str], constants: dict[str, str | int | float | bool] | None = None
) -> Table:
    """A table of columns: lists or vectors of one length; a single number or text is repeated in every row.

    names: of the values, in order. constants: columns of one literal, before the others. With nothing but single
    values it has one row: collect such rows in a loop and stack them with table.stack.
    Raises an error for lists of different lengths, and for what is no number and no text.
    """
    if not values:
        raise ValueError("there are no values: list at least one")
    if len(values) != len(names):
        raise ValueError(f"{len(values)} values need as many names; found {len(names)}: {', '.join(names)}")
    given: dict[str, Any] = {**(constants or {}), **dict(zip(names, values, strict=True))}
    if len(given) != len(names) + len(constants or {}) or len(set(names)) != len(names):
        raise ValueError(f"the names of columns differ; found {', '.join([*(constants or {}), *names])}")
    found = {name: entries(value, name) for name, value in given.items()}
    lengths = {name: len(column) for name, column in found.items() if isinstance(column, list)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a table have one length; found {lengths}")
    rows = next(iter(lengths.values()), 1)
    return Table({name: column if isinstance(column, list) else [column] * rows for name, column in found.items()})


@node("table.stack")
def stack(tables: Sequence[Table], *, by: str = "", names: list[str] | None = None) -> Table:
    """The rows of tables one after the other, with the columns of all of them; a cell that a table lacks is empty.

    by: one more column, the first, that names the table of each row; names: of the tables, in order.
    """
    if not tables:
        raise ValueError("there are no tables: list at least one, and let a loop that collects them run at least once")
    if (names is not None and len(names) != len(tables)) or (by and names is None):
        raise ValueError(f"{len(tables)} tables need as many names to tell their rows apart; found {names}")
    if names is not None and (not by or any(by in table for table in tables)):
        raise ValueError(f"'by' is the name of a new column that says of which table a row is; found '{by}'")
    every = dict.fromkeys(name for table in tables for name in table)
    rows = [row for table in tables for row in table.records()]
    found: dict[str, list[Entry]] = {name: [row.get(name) for row in rows] for name in every}
    if names is None:
        return Table(found)
    return Table({by: [name for name, table in zip(names, tables, strict=True) for _ in range(table.rows)], **found})


@node("table.join")
def join(left: Table, right: Table, *, on: str) -> Table:
    """Columns side by side: each row of `left` with the row of `right` that has the same value in column `on`.

    Where there is none the cells are empty. Raises an error where `right` has a value twice, or both have another
    column of one name.
    """
    keys, twice = column(right, on), sorted((set(left) & set(right)) - {on})
    if len(set(keys)) != len(keys):
        raise ValueError(f"column '{on}' of the right table has a value twice: it cannot tell its rows apart")
    if twice:
        raise ValueError(f"both tables have the columns {', '.join(twice)}: rename them in one of the two")
    place = {key: i for i, key in enumerate(keys)}
    rows = [place.get(key) for key in column(left, on)]
    added = {n: [None if i is None else values[i] for i in rows] for n, values in right.items() if n != on}
    return Table({**left, **added})


@node("table.select")
def select(table: Table, *, names: Annotated[list[str], MinLen(1)]) -> Table:
    """Some columns of a table, in the order of `names`."""
    return Table({name: column(table, name) for name in names})


@node("schedule.table")
def schedule_table(schedule: Schedule) -> Table:
    """A noise schedule at every whole t: β, ᾱ, α, σ, σ/α and the logarithm of the signal-to-noise ratio α²/σ²."""
    import torch

    bar = schedule.alphas_bar.double().cpu()
    before = torch.cat([torch.ones_like(bar[:1]), bar[:-1]])
    found = {
        "t": torch.arange(len(bar)),
        "beta": 1 - bar / before,
        "alpha_bar": bar,
        "alpha": bar.sqrt(),
        "sigma": (1 - bar).sqrt(),
        "sigma/alpha": ((1 - bar) / bar).sqrt(),
        "log_snr": torch.log(bar) - torch.log1p(-bar),
    }
    return Table({name: values.tolist() for name, values in found.items()})


def column(table: Table, name: str) -> Sequence[Entry]:
    """A column by name. Raises ``ValueError`` that says which there are."""
    if name not in table:
        raise ValueError(f"the table has no column '{name}'; {choices(name, table, 'columns')}")
    return table[name]


def entries(value: Any, name: str) -> list[Entry] | Entry:
    """One entry, or a list of them, of a number, a text, a vector or a list of those."""
    if is_tensor(value):
        found = value.detach().cpu().tolist()
        if value.ndim <= 1:
            return found  # type: ignore[no-any-return]
        if value.numel() == value.shape[0]:  # a loop's collected tensors of one element
            return value.detach().cpu().flatten().tolist()  # type: ignore[no-any-return]
    elif value is None or isinstance(value, (bool, int, float, str)):
        return value
    elif isinstance(value, Sequence):
        parts = [entries(part, name) for part in value]
        flat = [part[0] if isinstance(part, list) and len(part) == 1 else part for part in parts]
        if not any(isinstance(part, list) for part in flat):
            return flat  # type: ignore[return-value]
    raise ValueError(f"column '{name}' takes numbers or texts, one for each row; found {describe(value)}")
