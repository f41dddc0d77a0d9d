"""Gradients of operators in terms of forward operators, for graphs that contain a gradient; and `where` of a number.

ONNX has no backward operators. Each function here has the signature of a torch operator and computes the same with
operators that ONNX has. Gradients are with respect to the input alone, as exported weights are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import SymInt, Tensor

from guidegraph.graph.torch_private import OpOverload, OpOverloadPacket, statically_known_true

Function = TypeVar("Function", bound=Callable[..., Any])
Size = int | SymInt
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

aten = torch.ops.aten

_table: dict[OpOverload, Callable[..., Any]] = {}


def register_decomposition(op: OpOverload | OpOverloadPacket) -> Callable[[Function], Function]:
    """Register the decomposition of an operator: `register_decomposition(torch.ops.aten.op.default)(function)`.

    The function has the operator's arguments and result, and uses only operators that ONNX has. It may return
    NotImplemented for arguments that it does not support. It is traced with symbolic sizes and must not turn them into
    Python numbers. A packet (`torch.ops.mine.op`) stands for all of its overloads. The last registration counts.
    """
    if isinstance(op, OpOverloadPacket):
        overloads = [getattr(op, name) for name in op.overloads()]
    elif isinstance(op, OpOverload):
        overloads = [op]
    else:
        raise TypeError(f"expected an operator such as torch.ops.aten.silu_backward.default; found {op!r}")

    def register(function: Function) -> Function:
        _table.update(dict.fromkeys(overloads, function))
        return function

    return register


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """The decompositions by operator, including those of plugins."""
    return dict(_table)


def _input_alone(operator: str, output_mask: Sequence[bool]) -> None:
    if any(output_mask[1:]):
        raise ValueError(
            f"the gradient of a {operator} with respect to its weights has no ONNX form: take the gradient with "
            "respect to the sample alone, with the model's weights frozen (requires_grad_(False))"
        )


@register_decomposition(aten.convolution_backward.default)
def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[Size] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """The transposed convolution with the same weights, or the plain one if the operator itself is transposed.

    Without a stride, the transposed one is a plain one with mirrored weights, which is faster.
    """
    _input_alone("convolution", output_mask)
    axes = x.ndim - 2
    stride, padding, dilation = ([*v] * axes if len(v) == 1 else [*v] for v in (stride, padding, dilation))
    extra = [0] * axes
    borders = [d * (int(k) - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    if not transposed and groups == 1 and {*stride} == {1} and min(borders) >= 0:
        mirrored = weight.transpose(0, 1).flip([i + 2 for i, size in enumerate(weight.shape[2:]) if size != 1])
        return aten.convolution.default(grad, mirrored, None, stride, borders, dilation, False, extra, 1), None, None
    if not transposed:
        spans = [d * (int(k) - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        rests = [size + 2 * p - span for size, p, span in zip(x.shape[2:], padding, spans, strict=True)]
        extra = [_remainder(rest, s) for rest, s in zip(rests, stride, strict=True)]
    out = aten.convolution.default(grad, weight, None, stride, padding, dilation, not transposed, extra, groups)
    return _cut(out, x.shape[2:]), None, None


def _remainder(rest: Size, stride: int) -> int:
    """rest mod stride if it is the same for all sizes; else the largest possible remainder, which `_cut` removes."""
    if isinstance(rest, int):
        return rest % stride
    return next((r for r in range(stride) if statically_known_true(rest % stride == r)), stride - 1)


def _cut(out: Tensor, sizes: Sequence[Size]) -> Tensor:
    """The values (…, 0 : size) of the last axes."""
    for axis, size in enumerate(sizes, start=out.ndim - len(sizes)):
        if not statically_known_true(out.shape[axis] == size):
            out = out.narrow(axis, 0, size)
    return out


@register_decomposition(aten.native_group_norm_backward.default)
def group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    batch: Size,
    channels: int,
    pixels: Size,
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """The gradient of a layer normalisation of each sample's groups (B, G, C/G · H · W)."""
    _input_alone("group normalisation", output_mask)
    if weight is not None:
        grad = grad * weight.reshape(-1, *(1,) * (x.ndim - 2))
    grouped = [batch, groups, channels // groups * pixels]
    mean, rstd = mean.reshape(batch, groups, 1), rstd.reshape(batch, groups, 1)
    gradient = _differentiate_norm(grad.reshape(grouped), x.reshape(grouped), mean, rstd, (2,))
    return gradient.reshape(x.shape), None, None


@register_decomposition(aten.native_layer_norm_backward.default)
def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[Size],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> Gradients:
    """r · (g − mean(g) − x̂ · mean(g · x̂)) with g the gradient times the weight (Ba et al. 2016)."""
    _input_alone("layer normalisation", output_mask)
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    return _differentiate_norm(grad if weight is None else grad * weight, x, mean, rstd, axes), None, None


def _differentiate_norm(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The gradient through x̂ = (x − mean) · rstd, with the statistics of x over `axes`."""
    normed = (x - mean) * rstd
    along = (grad * normed).mean(axes, keepdim=True)
    return rstd * (grad - grad.mean(axes, keepdim=True) - normed * along)


@register_decomposition(aten.silu_backward.default)
def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """σ(x) · (1 + x · (1 − σ(x)))."""
    sigmoid = torch.sigmoid(x)
    return grad * (sigmoid * (1 + x * (1 - sigmoid)))


@register_decomposition(aten.gelu_backward.default)
def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    """Φ(x) + x · φ(x), or the derivative of the tanh approximation (Hendrycks & Gimpel 2016)."""
    if approximate == "none":
        cumulative = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
        return grad * (cumulative + x * torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = torch.tanh(scale * (x + cubic * x * x * x))
    slope = scale * (1 + 3 * cubic * x * x)
    return grad * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope)


@register_decomposition(aten._softmax_backward_data.default)
def softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """p · (g − Σ g · p)."""
    return (output * (grad - (grad * output).sum(dim, keepdim=True))).to(input_dtype)


@register_decomposition(aten._log_softmax_backward_data.default)
def log_softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    """g − p · Σ g with p = exp(output)."""
    return (grad - torch.exp(output) * grad.sum(dim, keepdim=True)).to(input_dtype)


def _factor(large: Size, small: Size) -> int:
    """The integer factor large / small. Raises ``ValueError`` if it is not an integer."""
    factor = int(large // small)
    if factor * small != large:
        raise ValueError(
            f"the gradient through a resize from {small} to {large} has no ONNX form: use a size that divides"
        )
    return factor


@register_decomposition(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    """The gradient of each mean, divided equally: a transposed convolution with a constant kernel for each channel."""
    kernel, padding = ([*v] * 2 if len(v) == 1 else [*v] for v in (kernel_size, padding))
    if ceil_mode or (any(padding) and not count_include_pad and divisor_override is None):
        return NotImplemented
    share = 1 / (divisor_override or math.prod(kernel))
    weight = torch.full((1, 1, *kernel), share, dtype=grad.dtype, device=grad.device)
    planes = x.reshape(-1, 1, *x.shape[-2:])
    shares, one, none = grad.reshape(-1, 1, *grad.shape[-2:]), [1, 1], [0, 0]
    gradient, _, _ = convolution_backward(
        shares, planes, weight, None, stride or kernel, padding, one, False, none, 1, (True, False, False)
    )
    assert gradient is not None
    return gradient.reshape(x.shape)


@register_decomposition(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of an average pool, if the sizes are multiples. Raises ``ValueError`` if they are not."""
    factors = [_factor(large, small) for large, small in zip(x.shape[-2:], grad.shape[-2:], strict=True)]
    gradient: Tensor = avg_pool2d_backward(grad, x, factors, factors, [0], False, True, None)
    return gradient


@register_decomposition(aten.max_pool2d_with_indices_backward.default)
def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """The gradient of each maximum, added at the position of the maximum."""
    zeros = torch.zeros_like(x).flatten(-2)
    return zeros.scatter_add(-1, indices.flatten(-2), grad.flatten(-2)).reshape(x.shape)


@register_decomposition(aten.slice_backward.default)
def slice_backward(grad: Tensor, input_sizes: Sequence[Size], dim: int, start: Size, end: Size, step: int) -> Any:
    """The gradient padded with zeros; slices with a step are left to torch."""
    if step != 1:
        return NotImplemented
    dim %= grad.ndim
    size = input_sizes[dim]
    if statically_known_true(grad.shape[dim] == size):
        return grad
    before = start + size if statically_known_true(start < 0) else start
    return _pad(grad, dim, before, size - before - grad.shape[dim])


@register_decomposition(aten.select_backward.default)
def select_backward(grad: Tensor, input_sizes: Sequence[Size], dim: int, index: Size) -> Tensor:
    """The gradient padded with zeros."""
    dim %= len(input_sizes)
    before = index + input_sizes[dim] if statically_known_true(index < 0) else index
    return _pad(grad.unsqueeze(dim), dim, before, input_sizes[dim] - before - 1)


def _pad(grad: Tensor, dim: int, before: Size, after: Size) -> Tensor:
    padded: Tensor = aten.constant_pad_nd.default(grad, [0, 0] * (grad.ndim - 1 - dim) + [before, after])
    return padded


@register_decomposition(aten.where.ScalarOther)
def where_or_number(condition: Tensor, x: Tensor, number: float) -> Tensor:
    """A selection of two tensors of one dtype: torch's pass that inserts casts fails on the number in torch 2.10."""
    dtype = torch.result_type(x, number)
    return torch.where(condition, x.to(dtype), torch.scalar_tensor(number, dtype=dtype, device=x.device))


@register_decomposition(aten.where.ScalarSelf)
def where_number_or(condition: Tensor, number: float, x: Tensor) -> Tensor:
    """The same with the number first."""
    return where_or_number(torch.logical_not(condition), x, number)
