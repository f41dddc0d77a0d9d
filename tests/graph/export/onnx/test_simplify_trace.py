"""Simplified traces, and the sizes of results that are made without running torch's primitive operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from guidegraph.graph.export.onnx.fake_sizes import RESULTS, ShortFakes
from guidegraph.graph.export.onnx.gradients import simplify

aten = torch.ops.aten
X = torch.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)


def trace(function: Callable[..., Any]) -> GraphModule:
    return simplify(make_fx(function)(X))


def count(graph: GraphModule) -> Counter[Any]:
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def test_equal_calls_are_one() -> None:
    weight = torch.arange(4.0)
    graph = trace(lambda x: (torch.sin(x * weight) + torch.sin(x * weight), x.sum((0, 1)) - x.sum((0, 1))))
    assert count(graph) == {aten.mul.Tensor: 1, aten.sin.default: 1, aten.add.Tensor: 1, aten.sum.dim_IntList: 1} | {
        aten.sub.Tensor: 1
    }
    assert torch.equal(graph(X)[0], 2 * torch.sin(X * weight))


def test_calls_with_unlike_numbers_stay_apart() -> None:
    graph = trace(lambda x: (torch.sin(x * 0.0), torch.sin(x * -0.0), torch.sin(x + 1), torch.sin(x + 1.0)))
    assert count(graph)[aten.mul.Tensor] == 2
    assert count(graph)[aten.add.Tensor] == 2
    assert torch.equal(graph(X)[0].signbit(), ~graph(X)[1].signbit())


def test_results_stay_apart() -> None:
    graph = trace(lambda x: (torch.sin(x), torch.sin(x)))
    first, second = graph(X)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_a_tensor_that_changes_is_read_before_and_after() -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        kept = x.clone()
        before = torch.sin(kept)
        kept.add_(1)
        return (before - torch.sin(kept),)

    torch.testing.assert_close(trace(function)(X)[0], torch.sin(X) - torch.sin(X + 1))


CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.native_group_norm.default, (None, None, 2, 8, 20, 4, 1e-5)),
    (aten.native_group_norm.default, (torch.ones(8), torch.zeros(8), 2, 8, 20, 2, 1e-5)),
    (aten.native_layer_norm.default, ([5], torch.ones(5), None, 1e-5)),
    (aten.native_layer_norm.default, ([4, 5], None, None, 1e-5)),
    (aten.mean.dim, ([1],)),
    (aten.mean.dim, ([-1, 0], True)),
    (aten.mean.dim, ([],)),
    (aten.mean.dim, (None, True)),
    (aten.add.Tensor, (torch.ones(2, 8, 4, 5),)),
    (aten.mul.Tensor, (torch.ones(8, 1, 1),)),
    (aten.div.Tensor, (3,)),
    (aten.sub.Tensor, (torch.tensor(2.0),)),
    (aten.gelu.default, ()),
    (aten._softmax.default, (-1, False)),
    *(
        (aten.convolution.default, arguments)
        for arguments in (
            (torch.ones(6, 8, 3, 3), torch.ones(6), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
            (torch.ones(6, 4, 3, 2), None, [1], [2], [2], False, [0], 2),
            (torch.ones(6, 8, 3, 3), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
            (torch.ones(8, 6, 3, 3), None, [1, 1], [1, 1], [1, 1], True, [0, 0], 1),
            (torch.ones(6, 8, 1, 1), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        )
    ),
]


def describe(result: Any) -> list[tuple[Any, ...]]:
    tensors = result if isinstance(result, tuple) else (result,)
    return [(tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("operator", "arguments"), CALLS)
def test_results_without_data_have_the_sizes_of_torch(
    operator: Any, arguments: tuple[Any, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x = torch.ones(2, 8, 4, 5, dtype=dtype).to(memory_format=layout)
    cast = [
        value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value for value in arguments
    ]
    described = []
    for mode in (ShortFakes(allow_non_fake_inputs=True), FakeTensorMode(allow_non_fake_inputs=True)):
        with torch.no_grad(), mode:
            fakes = [mode.from_tensor(value) if isinstance(value, Tensor) else value for value in (x, *cast)]
            described.append(describe(operator(*fakes)))
    assert described[0] == described[1]
    assert operator in RESULTS


def test_a_call_with_equal_sizes_is_found_once_and_any_other_call_again() -> None:
    mode = ShortFakes(allow_non_fake_inputs=True)
    with torch.no_grad(), mode:
        x = torch.empty(2, 3)
        first, second = torch.cat([x, x]), torch.cat([x, x])
        assert first is not second
        assert describe((first,)) == describe((second,)) == [((4, 3), (3, 1), torch.float32)]
        assert describe(torch.cat([x, x], 1)) == [((2, 6), (6, 1), torch.float32)]
        assert describe(torch.cat([x.double(), x.double()])) == [((4, 3), (3, 1), torch.float64)]
        assert describe(torch.cat([x.t(), x.t()])) == [((6, 2), (2, 1), torch.float32)]
        assert describe(x.long() * 2) == [((2, 3), (3, 1), torch.int64)]
        assert describe(x.long() * 2.0) == [((2, 3), (3, 1), torch.float32)]


def test_a_tensor_with_a_known_value_keeps_it_after_an_equal_call() -> None:
    with torch.no_grad(), ShortFakes(allow_non_fake_inputs=True):
        assert (torch.empty((), dtype=torch.int64) + 1).shape == ()
        assert [(torch.tensor(value) + 1).item() for value in (1, 2, 3)] == [2, 3, 4]


def test_a_change_in_place_does_not_count_as_a_change_of_equal_results() -> None:
    with ShortFakes(allow_non_fake_inputs=True):
        x = torch.zeros(2, 8).requires_grad_()
        y = torch.exp(x * 2)
        y.mul_(3)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), x)
        z = torch.exp(x * 2)
        (gradient,) = torch.autograd.grad((torch.exp(x * 2).mul_(3).detach() * z).sum(), x)
        assert gradient.shape == x.shape


@pytest.mark.parametrize("shape", [[16, 20], [2, -1, 5], [4, 4, 20], [320], [-1], [8, 40, -1]])
@pytest.mark.parametrize("operator", [aten.view.default, aten._unsafe_view.default])
def test_views_without_data_have_the_sizes_of_torch(operator: Any, shape: list[int]) -> None:
    described = []
    for mode in (ShortFakes(allow_non_fake_inputs=True), FakeTensorMode(allow_non_fake_inputs=True)):
        with torch.no_grad(), mode:
            described.append(describe(operator(torch.empty(2, 8, 4, 5), shape)))
    assert described[0] == described[1]
    assert operator in RESULTS


@pytest.mark.parametrize("shape", [[5, 2], [5, -1], [-1, -1, 3]])
def test_a_view_of_another_number_of_elements_is_refused(shape: list[int]) -> None:
    with torch.no_grad(), ShortFakes(allow_non_fake_inputs=True), pytest.raises(RuntimeError):
        torch.empty(2, 6).view(shape)
