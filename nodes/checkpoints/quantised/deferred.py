"""Tensors of a file whose values are computed when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guidegraph.graph.torch_private import disabled_torch_function_impl, pytree

ReadRows: TypeAlias = Callable[[int, int], Tensor]
"""Computes the values (stop − start, …) float32 of a tensor's rows start … stop − 1, along its first axis."""


class DeferredTensor(torch.Tensor):
    """A float32 tensor on the CPU without values: each operation computes those that it needs.

    Cuts and joins along the first axis, such as `chunk` and `torch.cat`, give another deferred tensor; any other
    operation, `detach` and `to` among them, gives a plain one. So a loader that renames, splits and joins weights, and
    takes their values one by one, holds one of them at a time. No module holds a deferred tensor.
    """

    read_rows: ReadRows
    stored_bytes: int

    @staticmethod
    def __new__(cls, shape: Sequence[int], read_rows: ReadRows, stored_bytes: int) -> DeferredTensor:
        """shape: with at least one axis. stored_bytes: size of its weights in the file."""
        tensor: DeferredTensor = torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=torch.float32)
        tensor.read_rows = read_rows
        tensor.stored_bytes = stored_bytes
        return tensor

    __torch_function__ = disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not kwargs and (defer := DEFERRED.get(func)) is not None:
            result = defer(*args)
            if result is not None:
                return result
        return func(*pytree.tree_map_only(cls, read, args), **pytree.tree_map_only(cls, read, dict(kwargs or {})))

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As of a plain tensor, and never this one, also for its own dtype and device."""
        return read(self).to(*args, **kwargs)

    def float(self, **kwargs: Any) -> Tensor:
        """The values, plain."""
        return self.to(torch.float32, **kwargs)

    def contiguous(self, *args: Any, **kwargs: Any) -> Tensor:
        """The values, plain."""
        return read(self).contiguous(*args, **kwargs)

    def numpy(self, **kwargs: Any) -> Any:
        """The values as an array."""
        return read(self).numpy(**kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"DeferredTensor({tuple(self.shape)})"


def read(tensor: DeferredTensor) -> Tensor:
    """Compute the values of a tensor, float32."""
    return tensor.read_rows(0, tensor.shape[0])


def count_stored_bytes(tensor: Tensor) -> int:
    """Size in bytes of a tensor as its file stores it."""
    if isinstance(tensor, DeferredTensor):
        return tensor.stored_bytes
    return tensor.numel() * tensor.element_size()


def _cut(tensor: DeferredTensor, start: int, stop: int) -> DeferredTensor:
    """The rows start … stop − 1 of a tensor."""
    size = tensor.stored_bytes * (stop - start) // max(tensor.shape[0], 1)
    return DeferredTensor(
        (stop - start, *tensor.shape[1:]), lambda first, last: tensor.read_rows(start + first, start + last), size
    )


def _slice(
    tensor: DeferredTensor, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> DeferredTensor | None:
    if dim % tensor.ndim or step != 1:
        return None
    first, last, _ = slice(start, stop).indices(tensor.shape[0])
    return _cut(tensor, first, max(first, last))


def _split(tensor: DeferredTensor, sizes: int | Sequence[int], dim: int = 0) -> list[DeferredTensor] | None:
    """The pieces of a tensor, of `sizes` rows each; one number is the size of all but the last."""
    count = tensor.shape[0]
    if dim % tensor.ndim or sizes == 0:
        return None
    lengths = [sizes] * -(-count // sizes) if isinstance(sizes, int) else list(sizes)
    if not isinstance(sizes, int) and sum(lengths) != count:
        return None
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return [
        _cut(tensor, start, min(start + length, count)) for start, length in zip(starts, lengths, strict=True)
    ] or None


def _join(tensors: Sequence[Tensor], dim: int = 0) -> DeferredTensor | None:
    """One tensor with the rows of several; None if they do not fit, or one of them is of another dtype or device."""
    first = tensors[0]
    fits = all(
        part.ndim and part.shape[1:] == first.shape[1:] and part.dtype == torch.float32 and part.device.type == "cpu"
        for part in tensors
    )
    if not fits or dim % first.ndim:
        return None

    def read_rows(start: int, stop: int) -> Tensor:
        pieces, offset = [], 0
        for part in tensors:
            low, high = max(start - offset, 0), min(stop - offset, part.shape[0])
            if low < high:
                pieces.append(part.read_rows(low, high) if isinstance(part, DeferredTensor) else part[low:high])
            offset += part.shape[0]
        return torch.cat(pieces) if pieces else torch.empty(0, *first.shape[1:])

    rows = sum(part.shape[0] for part in tensors)
    return DeferredTensor((rows, *first.shape[1:]), read_rows, sum(count_stored_bytes(part) for part in tensors))


DEFERRED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.split.Tensor: _split,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.cat.default: _join,
}
"""Operations that need no values; each gives None for arguments with which it does."""
