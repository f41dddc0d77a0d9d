"""Every decomposition gives what torch's own operator gives, for several shapes, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.export.onnx.decompositions import decompositions, register_decomposition
from guidegraph.graph.export.onnx.gradients import ShortGradients, operator_name, probe

aten = torch.ops.aten
ALONE = [True, False, False]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def convolutions() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Kernels, strides, paddings, dilations and groups of 1-d and 2-d convolutions, transposed ones among them."""
    for kernel, stride, padding, dilation, groups, transposed, size in (
        (3, 1, 1, 1, 1, False, (8, 6)),
        (3, 2, 1, 1, 1, False, (8, 6)),
        (3, 2, 1, 1, 1, False, (7, 9)),
        (3, 2, 0, 1, 1, False, (9, 8)),
        (1, 1, 0, 1, 1, False, (5, 4)),
        (1, 2, 0, 1, 1, False, (6, 5)),
        (1, 1, 1, 1, 1, False, (5, 4)),
        (5, 1, 1, 1, 1, False, (6, 7)),
        (4, 4, 0, 1, 1, False, (8, 11)),
        (3, 1, 2, 2, 1, False, (6, 7)),
        (3, 1, 1, 1, 4, False, (6, 6)),
        (3, 3, 1, 1, 2, False, (7, 8)),
        (3, 1, 1, 1, 1, False, (7,)),
        (4, 2, 1, 1, 1, True, (5, 3)),
        (3, 2, 1, 1, 2, True, (4, 5)),
    ):
        axes = len(size)
        x = normal(2, 4, *size)
        weight = normal(*((4, 8 // groups) if transposed else (8, 4 // groups)), *[kernel] * axes)
        options = ([stride] * axes, [padding] * axes, [dilation] * axes, transposed, [0] * axes, groups)
        out = aten.convolution(x, weight, None, *options)
        yield (
            f"convolution-{kernel}-{stride}-{padding}-{dilation}-{groups}-{transposed}-{size}",
            aten.convolution_backward.default,
            (normal(*out.shape), x, weight, None, *options, ALONE),
        )


def norms() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for batch, channels, groups, size in ((2, 8, 4, (4, 6)), (1, 6, 1, (3, 3)), (3, 4, 4, (5,))):
        x = normal(batch, channels, *size)
        pixels = x[0, 0].numel()
        for weight in (normal(channels), None):
            _, mean, rstd = aten.native_group_norm(x, weight, None, batch, channels, pixels, groups, 1e-5)
            sizes = (batch, channels, pixels, groups)
            arguments: tuple[Any, ...] = (normal(*x.shape), x, mean, rstd, weight, *sizes, ALONE)
            yield f"group-{batch}-{groups}-{weight is None}", aten.native_group_norm_backward.default, arguments
    for shape, over in (((2, 5, 8), [8]), ((1, 3, 4), [3, 4]), ((7, 2), [2])):
        x = normal(*shape)
        for weight, bias in ((normal(*over), normal(*over)), (None, None)):
            _, mean, rstd = aten.native_layer_norm(x, over, weight, bias, 1e-5)
            arguments = (normal(*shape), x, over, mean, rstd, weight, bias, ALONE)
            yield f"layer-{shape}-{weight is None}", aten.native_layer_norm_backward.default, arguments


def pointwise() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for shape in ((7,), (2, 3, 4, 5)):
        grad, x = 3 * normal(*shape), 4 * normal(*shape).flip(0)
        yield f"silu-{shape}", aten.silu_backward.default, (grad, x)
        yield f"gelu-{shape}", aten.gelu_backward.default, (grad, x)
        for dim in (0, -1):
            softmax, log_softmax = torch.softmax(x, dim), torch.log_softmax(x, dim)
            yield f"softmax-{shape}-{dim}", aten._softmax_backward_data.default, (grad, softmax, dim, x.dtype)
            yield f"log-{shape}-{dim}", aten._log_softmax_backward_data.default, (grad, log_softmax, dim, x.dtype)


def pools() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for size, kernel, stride, padding, divisor in (
        ((6, 4), [2, 2], [], [0], None),
        ((7, 5), [2, 2], [2, 2], [0, 0], None),
        ((7, 8), [3, 2], [2, 1], [1, 1], None),
        ((6, 6), [3], [3], [0], 4),
    ):
        x = normal(2, 3, *size)
        options = (kernel, stride, padding, False, True, divisor)
        yield (
            f"avg-{size}",
            aten.avg_pool2d_backward.default,
            (normal(*aten.avg_pool2d(x, *options).shape), x, *options),
        )
    for size, target in (((6, 4), (3, 2)), ((5, 3), (1, 1))):
        arguments = (normal(2, 3, *target), normal(2, 3, *size))
        yield f"adaptive-{size}", aten._adaptive_avg_pool2d_backward.default, arguments
    for size, span, step, margin in (((6, 8), 2, 2, 0), ((7, 7), 3, 2, 1), ((5, 6), 3, 1, 1)):
        x = normal(2, 3, *size)
        window = ([span] * 2, [step] * 2, [margin] * 2, [1, 1], False)
        out, indices = aten.max_pool2d_with_indices(x, *window)
        yield f"max-{size}", aten.max_pool2d_with_indices_backward.default, (normal(*out.shape), x, *window, indices)


def parts() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    sizes = [3, 6, 5]
    for dim, start, end in ((1, 0, 2), (1, 2, 9223372036854775807), (-1, 1, -1), (0, -2, 3), (2, 0, 5)):
        part = aten.slice(normal(*sizes), dim, start, end, 1)
        yield (
            f"slice-{dim}-{start}-{end}",
            aten.slice_backward.default,
            (normal(*part.shape), sizes, dim, start, end, 1),
        )
    for dim, index in ((0, 0), (1, 3), (-1, -1), (1, -6)):
        part = aten.select(normal(*sizes), dim, index)
        yield f"select-{dim}-{index}", aten.select_backward.default, (normal(*part.shape), sizes, dim, index)


def selections() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    x = normal(2, 5)
    yield "where-number", aten.where.ScalarOther, (x > 0, x, 0.5)
    yield "number-where", aten.where.ScalarSelf, (x > 0, 0.5, x)


CASES = [*convolutions(), *norms(), *pointwise(), *pools(), *parts(), *selections()]


@pytest.mark.parametrize(("op", "arguments"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_decomposition_is_the_operator(op: Any, arguments: tuple[Any, ...]) -> None:
    expected, actual = op(*arguments), decompositions()[op](*arguments)
    if isinstance(expected, tuple):
        (expected, *_), (actual, *rest) = expected, actual
        assert rest == [None, None]
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_gelu_by_tanh(shape: tuple[int, ...]) -> None:
    grad, x = normal(*shape), 3 * normal(*shape)
    expected = aten.gelu_backward(grad, x, approximate="tanh")
    actual = decompositions()[aten.gelu_backward.default](grad, x, approximate="tanh")
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_every_decomposition_is_tested() -> None:
    engine = {op for op, function in decompositions().items() if function.__module__.endswith("onnx.decompositions")}
    assert engine == {op for _, op, _ in CASES}


def test_no_gradient_of_weights() -> None:
    x, weight = normal(1, 2, 4, 4), normal(2, 2, 3, 3)
    arguments = (normal(1, 2, 4, 4), x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    with pytest.raises(ValueError, match="with respect to its weights has no ONNX form: take the gradient"):
        decompositions()[aten.convolution_backward.default](*arguments)


def test_a_resize_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="from 2 to 5 has no ONNX form"):
        decompositions()[aten._adaptive_avg_pool2d_backward.default](normal(1, 1, 2, 2), normal(1, 1, 5, 4))


def test_slices_with_a_step_are_left_to_torch() -> None:
    function = decompositions()[aten.slice_backward.default]
    assert function(normal(2), [4], 0, 0, 4, 2) is NotImplemented


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        lambda x: F.interpolate(x, scale_factor=(3, 1)),
        lambda x: F.interpolate(x, size=(5, 7)),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: F.scaled_dot_product_attention(x, x.flip(2), x * 2),
        lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.3),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x.mean((0, 1)) @ x.mean((0, 1)).T > 0),
    ],
)
def test_the_forms_for_gradients_change_nothing(function: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 2, 4, 3)
    with ShortGradients():
        actual = function(x)
    torch.testing.assert_close(actual, function(x), rtol=1e-10, atol=1e-10)


def test_register_by_operator_and_by_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidegraph.graph.export.onnx.decompositions._table", {})
    with torch.library._scoped_library("export_test_ops", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.define("twice.by(Tensor x, float by) -> Tensor")
        ops = torch.ops.export_test_ops.twice

        @register_decomposition(ops)
        def twice(x: Tensor, by: float = 1.0) -> Tensor:
            return 2 * by * x

        assert decompositions().keys() == {ops.default, ops.by}
        assert decompositions()[ops.default] is twice
    with pytest.raises(TypeError, match=r"expected an operator such as torch\.ops"):
        register_decomposition("aten.relu")  # type: ignore[arg-type]


def through_grad(x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(leaf.square().sum(), leaf)[0]


def through_backward(x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        leaf.square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def through_func(x: Tensor) -> Tensor:
    gradient: Tensor = torch.func.grad(lambda y: y.square().sum())(x)
    return gradient


@pytest.mark.parametrize("function", [through_grad, through_backward, through_func])
def test_a_gradient_is_seen_however_it_is_taken(function: Callable[[Tensor], Tensor]) -> None:
    x = normal(3)
    out, seen = probe(function, [x])
    assert seen.gradient
    torch.testing.assert_close(out, 2 * x)


def test_no_gradient_is_seen_where_none_is_taken() -> None:
    layer = nn.Linear(3, 3).double()  # weights that could take one

    def function(x: Tensor) -> Tensor:
        with torch.enable_grad():
            out: Tensor = layer(x)
        return out.detach()

    assert not probe(function, [normal(2, 3)])[1].gradient


def test_operators_are_named_as_people_write_them() -> None:
    assert operator_name(aten.silu_backward.default) == "aten.silu_backward"
