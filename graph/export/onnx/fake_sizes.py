"""Tensors without data for a trace, for which the results of frequent operators are made at once.

With free sizes, torch finds the result of a normalisation or a mean by running some twenty of its primitive operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
            return make(*args)
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


RESULTS: Mapping[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mean.dim: _mean,
}
"""The result of an operator, given its arguments."""
