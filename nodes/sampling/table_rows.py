"""The rows of a sampler's table, in the dtype and on the device of a computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from guidegraph.graph.types import Tensor
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Scheduler

if TYPE_CHECKING:
    import torch


class TableRow(NamedTuple):
    """A row's matrix M (1+K, 4+K), and its α and σ, without axes."""

    matrix: Tensor
    alpha: Tensor
    sigma: Tensor


def take_row(scheduler: Scheduler, index: Tensor, like: Tensor) -> TableRow:
    """The row at an index (1) with α, σ and M in the dtype and on the device of `like`.

    A concrete index on the CPU takes it from a list of all rows, which is made once; others select it in a graph, or
    on their device, without waiting for the value. Raises ``ValueError`` if the table has no such row.
    """
    if index.device.type == "cpu" and has_values(index) and _is_constant(scheduler):
        rows = _list_rows(scheduler, like.dtype, like.device)
        position = int(index)
        if not 0 <= position < len(rows):
            raise _no_row(scheduler, position)
        return rows[position]
    try:
        return TableRow(*(take_entry(column, index, like) for column in _columns(scheduler)))
    except IndexError:
        raise _no_row(scheduler, int(index)) from None


def take_entry(column: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """The entry of a column (R, …) of a table at an index (1), in the dtype and on the device of `like`."""
    return column.index_select(0, index.reshape(1).to(column.device))[0].to(device=like.device, dtype=like.dtype)


_rows: WeakKeyDictionary[Scheduler, dict[tuple[torch.dtype, torch.device], list[TableRow]]] = WeakKeyDictionary()


def _is_constant(scheduler: Scheduler) -> bool:
    """Whether the table is neither traced nor differentiated."""
    return all([has_values(column) and not column.requires_grad for column in _columns(scheduler)])


def _list_rows(scheduler: Scheduler, dtype: torch.dtype, device: torch.device) -> list[TableRow]:
    by_dtype = _rows.setdefault(scheduler, {})
    rows = by_dtype.get((dtype, device))
    if rows is None:
        import torch

        with torch.inference_mode(False):  # so that the rows serve every later step
            columns = [column.to(device=device, dtype=dtype).unbind() for column in _columns(scheduler)]
        rows = by_dtype[dtype, device] = [TableRow(*entries) for entries in zip(*columns, strict=True)]
    return rows


def _columns(scheduler: Scheduler) -> tuple[Tensor, Tensor, Tensor]:
    return scheduler.matrix, scheduler.alpha, scheduler.sigma


def _no_row(scheduler: Scheduler, position: int) -> ValueError:
    return ValueError(
        f"the sampler's table has {len(scheduler.t)} rows and no row {position}: the loop must run over the 'steps' of "
        "the scheduler node whose 'scheduler' and 'state' it uses"
    )
