"""Tensors without data for a trace, for which the result of an operator is found once for equal arguments.

With free sizes, torch finds the result of a product or a normalisation by running up to twenty of its primitive
operators, and each of them by algebra on the sizes. Networks repeat layers of the same sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import sympy
import torch
from torch import Tensor

from guidegraph.graph.torch_private import FakeTensor, FakeTensorMode, OpOverload, fast_detach

aten = torch.ops.aten

FLOATS = (torch.float32, torch.float64)
"""Dtypes in which the statistics of a normalisation have the dtype of its input."""

UNREPEATABLE = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
    torch.Tag.nondeterministic_seeded,
)
"""Tags of operators whose results do not follow from the sizes of their arguments alone."""

ATTRIBUTES = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


class ShortFakes(FakeTensorMode):
    """torch's mode for tensors without data, in which each call is computed once for equal sizes, strides and dtypes.

    The storage of a result may be that of another tensor of its sizes, which no operator reads. `RESULTS` are computed
    without torch if the first argument is a contiguous float tensor.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cache_enabled = False  # a key of torch's cache with symbolic sizes costs more than the operator
        self._results: dict[Hashable, Any] = {}

    def dispatch(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        key = _make_key(func, args, kwargs) if _is_repeatable(func) else None
        if key is not None and (stored := self._results.get(key)) is not None:
            return _copy(self, stored)
        make = RESULTS.get(func)
        result = NotImplemented if make is None or kwargs or not _is_plain(args[0]) else make(*args)
        if result is NotImplemented:
            result = super().dispatch(func, types, args, kwargs or {})
        if key is not None and _is_new(result, args):
            self._results[key] = _copy(self, result)
        return result


@cache
def _is_repeatable(func: Any) -> bool:
    """Whether an operator's result has the same sizes for arguments of the same sizes, and it changes no argument."""
    if not isinstance(func, OpOverload) or func.namespace not in ("aten", "prims"):
        return False
    returns = func._schema.returns
    gives_tensors = bool(returns) and all(str(result.type) in ("Tensor", "List[Tensor]") for result in returns)
    return gives_tensors and not func._schema.is_mutable and not any(tag in func.tags for tag in UNREPEATABLE)


def _make_key(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Hashable:
    """A key that is equal for calls with results of equal sizes; None if there is none."""
    try:
        return func, _describe(args), _describe(tuple((kwargs or {}).items()))
    except TypeError:
        return None


def _describe(value: Any) -> Hashable:
    """Everything about an argument that the sizes of a result depend on.

    Raises ``TypeError`` for other arguments, and for a tensor with a known value or of an unknown class.
    """
    if isinstance(value, (list, tuple)):
        return tuple(map(_describe, value))
    if isinstance(value, Tensor):
        if isinstance(value, FakeTensor):
            if value.constant is not None:
                raise TypeError("no key for a known value")
        elif type(value) not in (Tensor, torch.nn.Parameter):
            raise TypeError(f"no key for {type(value).__name__}")
        return _layout(value)
    if isinstance(value, torch.SymInt):
        expression: Hashable = value.node._expr
        return expression
    if isinstance(value, ATTRIBUTES):
        return type(value), value
    raise TypeError(f"no key for {type(value).__name__}")


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    return tensor.dtype, tensor.device, *map(_expression, sizes)


def _expression(size: Any) -> Any:
    return size if type(size) is int else size.node._expr


def _is_new(result: Any, args: Sequence[Any]) -> bool:
    """Whether a result is a tensor without a value, or several, and none of the arguments."""
    if isinstance(result, (list, tuple)):
        return bool(result) and all(_is_new(item, args) for item in result)
    return isinstance(result, FakeTensor) and result.constant is None and not any(result is arg for arg in args)


def _copy(mode: FakeTensorMode, result: Any) -> Any:
    """New tensors with the sizes of a result."""
    if isinstance(result, (list, tuple)):
        copies = [_copy(mode, item) for item in result]
        return copies if isinstance(result, list) else tuple(copies)
    return fast_detach(mode, result)


def _is_plain(x: Any) -> bool:
    if not isinstance(x, FakeTensor) or x.constant is not None:
        return False
    return x.dtype in FLOATS and x.ndim > 0 and x.is_contiguous()


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


def _view(x: Tensor, shape: Sequence[Any]) -> Any:
    """NotImplemented unless the numbers of elements are equal for all sizes of the free axes.

    A size of -1 has to be the same number for all of them.
    """
    shape = list(shape)
    open_axes = [axis for axis, size in enumerate(shape) if type(size) is int and size < 0]
    for axis in open_axes:
        shape[axis] = 1
    before, after = (sympy.Mul(*map(_expression, sizes)) for sizes in (x.shape, shape))
    if len(open_axes) == 1:
        quotient = before / after if after else sympy.nan
        if not quotient.is_Integer:
            return NotImplemented
        shape[open_axes[0]] = int(quotient)
    elif before != after or open_axes:
        return NotImplemented
    return x.new_empty(shape)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """NotImplemented for convolutions with a stride, and for weights in another layout or with one pixel."""
    kernel = weight.shape[2:]
    if transposed or any(step != 1 for step in stride) or any(size == 1 for size in kernel) or x.ndim != 4:
        return NotImplemented
    if weight.dtype != x.dtype or not weight.is_contiguous():
        return NotImplemented
    padding, dilation = ([*v] * 2 if len(v) == 1 else [*v] for v in (padding, dilation))
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = [size + (2 * p - span) for size, p, span in zip(x.shape[2:], padding, spans, strict=True)]
    return x.new_empty([x.shape[0], weight.shape[0], *sides])


def _pointwise(x: Tensor, *arguments: Any) -> Any:
    """NotImplemented if a tensor among the other arguments has other sizes, strides or another dtype."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if any(_layout(tensor) != _layout(x) for tensor in tensors):
        return NotImplemented
    if any(isinstance(argument, (complex, torch.SymFloat, torch.SymBool)) for argument in arguments):
        return NotImplemented
    assert isinstance(x, FakeTensor)
    return fast_detach(x.fake_mode, x)


POINTWISE = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.gelu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten._softmax.default,
)
"""Operators whose result has the sizes, strides and dtype of a contiguous float tensor and its equals."""

RESULTS: Mapping[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mean.dim: _mean,
    aten.convolution.default: _convolution,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    **dict.fromkeys(POINTWISE, _pointwise),
}
"""The result of an operator, given its arguments; NotImplemented for arguments that are left to torch."""
