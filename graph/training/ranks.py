"""Data parallel training: the rank of this process, and its rows of every batch.

Random numbers of a row are the same as in a training with one process, so the losses do not depend on the number of
processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from guidegraph.graph.late import torch
from guidegraph.graph.types import is_tensor
from guidegraph.graph.values.serialise import list_named_fields

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Rank:
    """Process `index` of `count`."""

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> slice:
        """The rows of a global batch of `size` for this rank. Raises ``ValueError`` if the batch cannot be divided."""
        if size % self.count:
            raise ValueError(
                f"a batch of {size} cannot be shared by {self.count} processes: make it a multiple of {self.count}"
            )
        rows_per_process = size // self.count
        return slice(self.index * rows_per_process, (self.index + 1) * rows_per_process)


SINGLE_PROCESS = Rank()
_rank: ContextVar[Rank] = ContextVar("guidegraph_rank", default=SINGLE_PROCESS)
T = TypeVar("T")


def process_rank() -> Rank:
    """The rank that the launcher (`guidegraph run --devices`, or torchrun) gave to this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return SINGLE_PROCESS
    return Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def current_rank() -> Rank:
    """The rank in the training loop in progress; outside of one, rank 0 of 1."""
    return _rank.get()


@contextmanager
def use_rank(rank: Rank) -> Iterator[None]:
    """Set the rank for the nodes called in this context: they get only its rows."""
    token = _rank.set(rank)
    try:
        yield
    finally:
        _rank.reset(token)


def first_row(batch: int) -> int:
    """The index in the global batch of the first of this rank's `batch` rows."""
    return current_rank().index * batch


def local_rows(batch: int, draw: Callable[[int], T]) -> T:
    """Call `draw` with the size of the global batch and return this rank's `batch` rows."""
    rank = current_rank()
    if rank.count == 1:
        return draw(batch)
    rows: Any = draw(batch * rank.count)
    local: T = rows[rank.rows(batch * rank.count)]
    return local


@contextmanager
def collective_operation() -> Iterator[None]:
    """A context for collective operations. Raises a clear ``RuntimeError`` if another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError("another process of the training has ended, and this one cannot go on alone") from error


def sum_over_ranks(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The sum of each tensor over the processes of the training loop in progress, as for the global batch.

    All processes must call it with tensors of the same shapes. With one process it returns the tensors unchanged.
    """
    if current_rank().count == 1:
        return list(tensors)
    totals = [tensor.detach().clone() for tensor in tensors]
    for total in totals:
        with collective_operation():
            torch.distributed.all_reduce(total)
    return totals


def take_rank_rows(item: Any, rank: Rank) -> Any:
    """The rows of a batch that belong to a rank: of tensors, and of lists with one element per row.

    item: a tensor (B, …), or a NamedTuple, dataclass, tuple, list or dictionary with some. Raises ``ValueError`` if
    there is none, or B is not a multiple of the number of processes.
    """
    if rank.count == 1:
        return item
    size = _batch_size(item)
    if size is None:
        raise ValueError("the loop's items have no tensor with a leading batch axis, so they cannot be shared")
    return _take_rows(item, size, rank.rows(size))


def _batch_size(item: Any) -> int | None:
    """The size of the first tensor's leading axis; ``None`` without tensors."""
    if is_tensor(item):
        return int(item.shape[0]) if item.ndim else None
    fields = list_named_fields(item)
    values = list(fields.values()) if fields is not None else item if isinstance(item, (list, tuple)) else ()
    return next((size for value in values if (size := _batch_size(value)) is not None), None)


def _take_rows(item: Any, size: int, rows: slice) -> Any:
    if is_tensor(item):
        return item[rows] if item.ndim and item.shape[0] == size else item
    fields = list_named_fields(item)
    if fields is not None:
        rows_by_field = {name: _take_rows(value, size, rows) for name, value in fields.items()}
        return rows_by_field if isinstance(item, dict) else type(item)(**rows_by_field)
    if isinstance(item, (list, tuple)):
        if _batch_size(item) is not None:
            return type(item)(_take_rows(value, size, rows) for value in item)
        return item[rows] if len(item) == size else item
    return item


class ProcessGroup:
    """The process group of a training. With one process all operations are free."""

    def __init__(self, device: torch.device) -> None:
        from lightning_fabric import Fabric

        for name in ("lightning.fabric", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        accelerator = "cuda" if device.type == "cuda" else "cpu"
        self.rank: Rank = process_rank()
        if self.is_alone:
            self.fabric: Fabric = Fabric(accelerator=accelerator, devices=1)
            return
        local_count, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        self.fabric = Fabric(accelerator=accelerator, devices=local_count, num_nodes=nodes, strategy="ddp")
        self.fabric.launch()

    @property
    def is_alone(self) -> bool:
        return self.rank.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows previews."""
        return self.rank.index == 0

    def mean(self, tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The mean of each tensor over the processes, with one all-reduce per dtype.

        An entry that is None in one process is None in all.
        """
        means = list(tensors)
        if self.is_alone:
            return means
        present = [(i, tensor) for i, tensor in enumerate(tensors) if tensor is not None]
        for dtype in dict.fromkeys(tensor.dtype for _, tensor in present):
            same_dtype = [(i, tensor) for i, tensor in present if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().flatten() for _, tensor in same_dtype])
            with collective_operation():
                reduced: Any = self.fabric.all_reduce(flat, reduce_op="mean")
            pieces = reduced.split([tensor.numel() for _, tensor in same_dtype])
            for (i, tensor), piece in zip(same_dtype, pieces, strict=True):
                means[i] = piece.reshape(tensor.shape)
        return means

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes; all get the same answer."""
        if self.is_alone:
            return flag
        mean = self.mean([torch.tensor(float(flag), device=self.fabric.device)])[0]
        assert mean is not None
        return bool(mean > 0)

    def agree(self, number: int) -> bool:
        """Whether a number is the same in all of the processes; all get the same answer."""
        if self.is_alone:
            return True
        first = torch.tensor(number, device=self.fabric.device)
        self.broadcast([first])
        return not self.any(int(first) != number)

    def mean_of_numbers(self, value: Any) -> Any:
        """The mean of a one-element floating-point tensor over the processes; any other value unchanged."""
        if self.is_alone or not is_tensor(value) or value.numel() != 1 or not value.is_floating_point():
            return value
        return self.mean([value])[0]

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Set tensors, such as buffers, to those of the first process, in place."""
        if self.is_alone:
            return
        for tensor in tensors:
            with collective_operation():
                torch.distributed.broadcast(tensor, src=0)
