"""The rows of a sampler's table, in the dtype and on the device of a computation."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from guidegraph.graph.late import torch
from guidegraph.graph.types import Tensor
from guidegraph.graph.values.ownership import change_count, count_changes
from guidegraph.nodes.shape_checks import has_values, is_transformed
from guidegraph.nodes.types import Scheduler

Terms: TypeAlias = tuple[tuple[int, float], ...]
"""A sum of inputs of a row: the position of each among [x, x0, ε, noise, s], and its coefficient."""


class Zeros:
    """Zeros of any shape, as views of one number, which nothing may change in place.

    The last view is kept, since a loop asks for it again.
    """

    def __init__(self, zero: Tensor) -> None:
        self._zero = self._last = zero

    def expand(self, shape: torch.Size) -> Tensor:
        zeros = self._last
        if zeros.shape != shape:
            zeros = self._last = self._zero.expand(shape)
        return zeros


class TableRow(NamedTuple):
    """A row's matrix M (1+K, 4+K), and its α and σ, without axes; of a row for each sample, all with a leading B.

    terms: x′ as a sum, of a row that keeps nothing in s′ and whose numbers are known. zeros: makes the s′ of a row with
    terms. following: the index (1) of the next row, int64 on the CPU, for the state after this one.
    """

    matrix: Tensor
    alpha: Tensor
    sigma: Tensor
    terms: Terms | None = None
    zeros: Zeros | None = None
    following: Tensor | None = None


def take_row(scheduler: Scheduler, index: Tensor, like: Tensor) -> TableRow:
    """The row at an index (1), or those at an index (B), with α, σ and M in the dtype and on the device of `like`.

    A concrete index (1) on the CPU takes it from a list of all rows, which is made once; others select it in a graph,
    or on their device, without waiting for the value. Raises ``ValueError`` if the table has no such row.
    """
    concrete = is_shared(index) and index.device.type == "cpu" and has_values(index, like)
    kept = _keep_rows(scheduler, like) if concrete else None
    if kept is not None and kept.rows is not None:
        row = kept.by_index.get(id(index))
        if row is not None and not change_count(index):
            return row
        position = int(index)
        if not 0 <= position < len(kept.rows):
            raise _no_row(scheduler, position)
        return kept.rows[position]
    try:
        matrix, alpha, sigma = (take_entry(column, index, like) for column in _columns(scheduler))
        return TableRow(matrix, alpha, sigma)
    except IndexError:
        valid = range(len(scheduler.t))
        raise _no_row(scheduler, next(row for row in index.reshape(-1).tolist() if row not in valid)) from None


def take_entry(column: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """The entry (…) of a column (R, …) at an index (1), or those (B, …) at an index (B).

    It is in the dtype and on the device of `like`.
    """
    entries = column.index_select(0, index.reshape(-1).to(column.device))
    return (entries[0] if is_shared(index) else entries).to(device=like.device, dtype=like.dtype)


def is_shared(index: Tensor) -> bool:
    """Whether an index is one row for all samples. One with a free batch axis, in a graph, is a row for each."""
    return index.ndim == 0 or (type(index.shape[0]) is int and index.shape[0] == 1)


def along(level: Tensor, x: Tensor) -> Tensor:
    """A value without axes unchanged, and one (B) in the shape (B, 1, …), which broadcasts to x (B, …)."""
    return level if level.ndim == 0 else level.reshape(-1, *(1,) * (x.ndim - 1))


class _KeptRows(NamedTuple):
    """All rows, and how often the columns had been changed in place when they were made.

    rows: None if the table is differentiated. by_index: the rows by the identity of ``following`` of the row before, so
    that a loop need not read the value of an index that these rows made.
    """

    changes: list[int]
    rows: list[TableRow] | None
    by_index: dict[int, TableRow]


_kept: WeakKeyDictionary[Scheduler, dict[tuple[torch.dtype, torch.device], _KeptRows]] = WeakKeyDictionary()


def _keep_rows(scheduler: Scheduler, like: Tensor) -> _KeptRows | None:
    """All rows, made once for a dtype and device; None if calls are recorded."""
    by_dtype = _kept.get(scheduler)
    if by_dtype is None:
        by_dtype = _kept[scheduler] = {}
    key, changes = (like.dtype, like.device), count_changes(_columns(scheduler))
    kept = by_dtype.get(key)
    if kept is None or kept.changes != changes:
        if is_transformed():
            return None
        rows = _make_rows(scheduler, like)
        by_index = {id(row.following): after for row, after in pairwise(rows or ())}
        kept = by_dtype[key] = _KeptRows(changes, rows, by_index)
    return kept


def _make_rows(scheduler: Scheduler, like: Tensor) -> list[TableRow] | None:
    if any(not has_values(column) or column.requires_grad for column in _columns(scheduler)):
        return None
    with torch.inference_mode(False):  # copies, so that the rows serve every later step, with gradients too
        columns = [
            column.to(device=like.device, dtype=like.dtype, copy=True).unbind() for column in _columns(scheduler)
        ]
        zeros = Zeros(torch.zeros((), device=like.device, dtype=like.dtype))
        following = torch.arange(1, len(scheduler.t) + 1, device="cpu").split(1)
    is_known = not scheduler.matrix.is_meta
    all_terms = map(_list_terms, scheduler.matrix.tolist()) if is_known else [None] * len(scheduler.matrix)
    matrices, alphas, sigmas = columns
    rows = zip(matrices, alphas, sigmas, all_terms, following, strict=True)
    return [TableRow(matrix, alpha, sigma, terms, zeros, index) for matrix, alpha, sigma, terms, index in rows]


def _list_terms(matrix: list[list[float]]) -> Terms | None:
    """x′ as a sum, if a row's matrix keeps nothing in s′."""
    moved, *kept = matrix
    if any(map(any, kept)):
        return None
    return tuple((position, coefficient) for position, coefficient in enumerate(moved) if coefficient)


def _columns(scheduler: Scheduler) -> tuple[Tensor, Tensor, Tensor]:
    return scheduler.matrix, scheduler.alpha, scheduler.sigma


def _no_row(scheduler: Scheduler, position: int) -> ValueError:
    return ValueError(
        f"the sampler's table has {len(scheduler.t)} rows and no row {position}: the loop must run over the 'steps' of "
        "the scheduler node whose 'scheduler' and 'state' it uses"
    )
