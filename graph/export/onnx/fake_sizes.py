"""Tensors without data for a trace, for which the results of frequent operators are made at once.

With free sizes, torch finds the result of a normalisation or a mean by running some twenty of its primitive operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

aten = torch.ops.aten

FLOATS = (torch.float32, torch.float64)
"""Dtypes in which the statistics of a normalisation have the dtype of its input."""


class ShortFakes(FakeTensorMode):
    """torch's mode for tensors without data, with `RESULTS` if the first argument is a contiguous float tensor."""

    def dispatch(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        make = RESULTS.get(func)
        if make is not None and not kwargs and _is_plain(args[0]):
            result = make(*args)
            if result is not NotImplemented:
                return result
        return super().dispatch(func, types, args, kwargs or {})


def _is_plain(x: Any) -> bool:
    return isinstance(x, FakeTensor) and x.dtype in FLOATS and x.ndim > 0 and x.is_contiguous()


def _group_norm(
    x: Tensor, weight: Any, bias: Any, batch: Any, channels: int, pixels: Any, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((batch, groups)), x.new_empty((batch, groups))


def _layer_norm(
    x: Tensor, normalized_shape: Sequence[Any], weight: Any, bias: Any, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    kept = [*x.shape[: x.ndim - len(normalized_shape)], *(1 for _ in normalized_shape)]
    return x.new_empty(x.shape), x.new_empty(kept), x.new_empty(kept)


def _mean(x: Tensor, axes: Sequence[int] | None, keepdim: bool = False) -> Tensor:
    reduced = {axis % x.ndim for axis in axes} if axes else {*range(x.ndim)}
    if keepdim:
        return x.new_empty([1 if axis in reduced else size for axis, size in enumerate(x.shape)])
    return x.new_empty([size for axis, size in enumerate(x.shape) if axis not in reduced])


def _elementwise(x: Tensor, other: Any) -> Any:
    """The result of x with a number, or with a contiguous tensor of its dtype; NotImplemented for anything else."""
    if type(other) in (int, float):
        return x.new_empty(x.shape)
    if not _is_plain(other) or (other.dtype, other.device) != (x.dtype, x.device):
        return NotImplemented
    sizes: list[Any] = []
    for size, other_size in zip_longest(reversed(x.shape), reversed(other.shape), fillvalue=1):
        if _expression(size) == _expression(other_size) or _expression(other_size) == 1:
            sizes.append(size)
        elif _expression(size) == 1:
            sizes.append(other_size)
        else:
            return NotImplemented
    return x.new_empty(sizes[::-1])


def _expression(size: Any) -> Any:
    """A size as a number or an expression of free sizes, which are compared without a guard."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


RESULTS: Mapping[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mean.dim: _mean,
    aten.add.Tensor: _elementwise,
    aten.sub.Tensor: _elementwise,
    aten.mul.Tensor: _elementwise,
    aten.div.Tensor: _elementwise,
}
"""The result of an operator, given its arguments; NotImplemented for those that are left to torch."""
