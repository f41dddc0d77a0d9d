"""Nodes that mix samples and nodes that do not, told apart without their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from guidegraph.graph.export.partition.sample_flow import Mixing, find_mixing

X = torch.zeros(2, 4, 8, 8)
KERNEL = torch.ones(4, 4, 3, 3)
Function = Callable[[Tensor], Tensor]


def follow(function: Function, example: Tensor = X) -> Mixing | None:
    return find_mixing(lambda x: (function(x),), [example], [0], [0])


def gradient_of(function: Function) -> Function:
    def compute(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            return torch.autograd.grad(function(leaf).sum(), leaf)[0]

    return compute


def shift_samples(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[1:] = x[:-1]
    return out


def shift_channels(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, :-1]
    out[:, 0] += x[:, 3]
    return out


def fill_with_largest(x: Tensor) -> Tensor:
    """A tensor of zeros of which a part is set to a value of all samples."""
    limits = torch.zeros_like(x)
    limits[:, 0] = x.amax()
    return x + limits


def assign_data(x: Tensor, limit: Tensor) -> Tensor:
    """The samples times a number that another tensor is given by its ``.data``, and that is written through it."""
    kept = torch.zeros_like(limit)
    scale = torch.zeros_like(limit)
    kept.data = scale
    scale += limit
    return x * kept


def count_in_place(x: Tensor) -> Tensor:
    """The next sample, by numbers that are changed in place."""
    numbers = torch.arange(len(x))
    numbers += 1
    numbers %= len(x)
    return x + 1e-3 * x[numbers]


def write_through_strides(x: Tensor) -> Tensor:
    """Other samples, written through a view that no rule describes."""
    copied = x.clone()
    copied.as_strided(copied.shape, copied.stride()).copy_(x.flip(0))
    return copied


def add_in_lists(x: Tensor) -> Tensor:
    """Other samples, added by an operator that returns nothing."""
    sums = [x.clone()]
    torch._foreach_add_(sums, [x.flip(0)])
    return sums[0]


def attend(x: Tensor) -> Tensor:
    heads = x.flatten(2).transpose(1, 2).unflatten(2, (2, 2)).transpose(1, 2)
    return (
        F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2).transpose(1, 2).reshape(x.shape)
    )


def guide(x: Tensor) -> Tensor:
    """Both conditions in one call of a network, one after the other along the batch."""
    both = F.conv2d(torch.cat([x, 0.5 * x]), KERNEL, padding=1)
    return both[: len(x)] + 2 * (both[len(x) :] - both[: len(x)])


def convolve_by_sample(x: Tensor) -> Tensor:
    """A kernel for each sample, by groups of channels."""
    kernels = KERNEL * x.mean((1, 2, 3)).reshape(-1, 1, 1, 1, 1)
    out = F.conv2d(x.reshape(1, -1, 8, 8), kernels.reshape(-1, 4, 3, 3), padding=1, groups=x.shape[0])
    return out.reshape(x.shape)


MIXING: dict[str, tuple[Function, str]] = {
    "largest of all": (lambda x: x / x.abs().max(), "aten.max"),
    "a limit that ordinary values do not reach": (lambda x: torch.minimum(x, x.max() + 100), "aten.max"),
    "mean of the batch": (lambda x: x - x.mean(0, keepdim=True), "aten.mean"),
    "deviation of all": (lambda x: x / x.std(), "aten.std"),
    "norm of all": (lambda x: x / x.norm(), "aten.linalg_vector_norm"),
    "quantile of all": (lambda x: x / x.quantile(0.9), "aten.sort"),
    "sort": (lambda x: x.sort(0).values, "aten.sort"),
    "topk": (lambda x: x * x.topk(1, 0).values, "aten.topk"),
    "roll": (lambda x: x.roll(2, 0), "aten.roll"),
    "flip": (lambda x: x.flip(0), "aten.flip"),
    "cumsum": (lambda x: x.cumsum(0), "aten.cumsum"),
    "softmax": (lambda x: x.softmax(0), "aten._softmax"),
    "batch norm in training": (lambda x: F.batch_norm(x, None, None, training=True), "aten.native_batch_norm"),
    "the first sample": (lambda x: x + x[:1], "aten.add"),
    "one selected sample": (lambda x: x + x[0], "aten.add"),
    "the sample of the largest value": (
        lambda x: x + x.index_select(0, x.amax((1, 2, 3)).argmax().reshape(1)),
        "aten.argmax",
    ),
    "products of samples": (lambda x: (x.flatten(1) @ x.flatten(1).T @ x.flatten(1)).reshape(x.shape), "aten.mm"),
    "einsum over samples": (lambda x: torch.einsum("bchw,dchw->bchw", x, x), "aten.sum"),
    "attention between samples": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(0, 1)] * 3).transpose(0, 1).reshape(x.shape),
        "aten.bmm",
    ),
    "batch folded into channels": (lambda x: x * x.reshape(1, -1, 8, 8).amax(1, keepdim=True), "aten.amax"),
    "group norm over folded samples": (
        lambda x: F.group_norm(x.reshape(1, -1, 8, 8), 1).reshape(x.shape),
        "aten.native_group_norm",
    ),
    "Fourier transform of all axes": (lambda x: torch.fft.fftn(x).real, "aten._fft_c2c"),
    "another sample by its number": (lambda x: x + x[(torch.arange(len(x)) + 1) % len(x)], "aten.index"),
    "samples by a list of numbers": (lambda x: x + x[[0] * len(x)], "aten.index"),
    "samples that change places": (lambda x: torch.cat([x[1:], x[:1]]), "aten.slice"),
    "samples written one place on": (shift_samples, "aten.slice"),
    "a scale from a filled tensor": (lambda x: x / torch.zeros(1).fill_(x.amax()).clamp(min=178), "aten.amax"),
    "a part filled with the largest": (fill_with_largest, "aten.amax"),
    "an assignment to .data": (lambda x: assign_data(x, x.amax()), "aten.amax"),
    "numbers changed in place": (count_in_place, "aten.index"),
    "a write through strides": (write_through_strides, "aten.flip"),
    "in place": (lambda x: x.clone().sub_(x.mean()), "aten.mean"),
    "a gradient through a deviation": (gradient_of(lambda x: x / x.std()), "aten.std"),
    "transposed with the channels": (lambda x: x.transpose(0, 1).reshape(x.shape), ""),
}

INNOCENT: dict[str, Function] = {
    "largest of a sample": lambda x: x / x.abs().amax((1, 2, 3), keepdim=True),
    "quantile of a sample": lambda x: x / x.flatten(1).quantile(0.9, dim=1).reshape(-1, 1, 1, 1),
    "sort of a sample": lambda x: x.flatten(1).sort(1).values.reshape(x.shape),
    "gathered by order": lambda x: x.flatten(1).gather(1, x.flatten(1).argsort(1)).reshape(x.shape),
    "group norm": lambda x: F.group_norm(x, 2),
    "layer norm": lambda x: F.layer_norm(x, (4, 8, 8)),
    "instance norm": lambda x: F.instance_norm(x),
    "batch norm in use": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
    "folded and unfolded": lambda x: F.conv2d(x.reshape(-1, 1, 8, 8), KERNEL[:1, :1], padding=1).reshape(x.shape),
    "attention": attend,
    "einsum": lambda x: torch.einsum("bchw,bdhw->bc", x, x)[..., None, None] * x,
    "products in a sample": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2)).reshape(x.shape),
    "two conditions in one batch": guide,
    "two conditions by chunks": lambda x: torch.sub(*torch.tanh(torch.cat([x, x * 2])).chunk(2)),
    "stacked and summed": lambda x: torch.stack([x, 2 * x]).flatten(0, 1).unflatten(0, (2, -1)).sum(0),
    "one tensor for all": lambda x: x + torch.ones(1, 4, 1, 1).expand(x.shape[0], -1, -1, -1),
    "convolution and resizing": lambda x: F.interpolate(F.conv2d(x, KERNEL, stride=2, padding=1), scale_factor=2),
    "a kernel for each sample": convolve_by_sample,
    "Fourier transform of the picture": lambda x: torch.fft.fft2(x).real,
    "rolled pixels": lambda x: x.roll((1, 1), (2, 3)),
    "padding with ones": lambda x: F.pad(x, (1, 1, 1, 1), value=1.0)[..., 1:-1, 1:-1],
    "written by channel": shift_channels,
    "a table's row for each sample": lambda x: torch.ones(9)[x.flatten(1).argmax(1) % 9].reshape(-1, 1, 1, 1) * x,
    "a row by the number of each sample": lambda x: x + x[torch.arange(len(x)), x.mean((2, 3)).argmax(1)][:, None],
    "rows by columns of numbers": lambda x: x.flatten(1)[torch.arange(len(x))[:, None], x.flatten(1).argsort(1)][
        ..., None, None
    ],
    "an assignment to .data": lambda x: assign_data(x, x.amax((1, 2, 3), keepdim=True)),
    "a gradient of a sample": gradient_of(lambda x: F.group_norm(F.conv2d(F.silu(x), KERNEL, padding=1), 2) ** 2),
    "a gradient through attention": gradient_of(lambda x: attend(x) ** 2),
    "one sample after the other": lambda x: torch.stack([sample / sample.max() for sample in x]),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_mix_are_found_with_their_operator_and_line(name: str) -> None:
    function, operator = MIXING[name]
    mixing = follow(function)
    assert mixing is not None
    assert mixing.operator == operator
    assert mixing.has_rule
    assert bool(operator) == ("test_sample_flow.py:" in mixing.place)


@pytest.mark.parametrize("name", INNOCENT)
def test_samples_that_stay_apart_are_not_accused(name: str) -> None:
    assert follow(INNOCENT[name]) is None


def test_an_operator_that_writes_lists_counts_as_mixing() -> None:
    mixing = follow(add_in_lists)
    assert mixing is not None
    assert (mixing.operator, mixing.has_rule) == ("aten._foreach_add_", False)


def test_an_operator_without_a_rule_is_named_and_counts_as_mixing() -> None:
    mixing = follow(lambda x: x * torch.histc(x, bins=4).sum())
    assert mixing is not None
    assert (mixing.operator, mixing.has_rule) == ("aten.histc", False)
    assert mixing.describe().startswith(": aten.histc at test_sample_flow.py:")
    assert mixing.describe().endswith("is not known to keep them apart")


STEPS: dict[str, Function] = {
    "tanh": torch.tanh,
    "sum of a sample": lambda x: x + x.sum((1, 2), keepdim=True),
    "sum of the batch": lambda x: x + x.sum(0, keepdim=True),
    "cumsum": lambda x: x.cumsum(0),
    "flip": lambda x: x.flip(0),
    "flip of a sample": lambda x: x.flip(1),
    "first": lambda x: x * x[:1],
    "product": lambda x: x @ x.transpose(1, 2) @ x,
    "fold": lambda x: x.reshape(-1, 4).softmax(1).reshape(x.shape),
    "fold samples": lambda x: x.transpose(0, 1).flatten(1).softmax(1).unflatten(1, (-1, 4)).transpose(0, 1),
    "both": lambda x: torch.cat([x, 2 * x]).square().unflatten(0, (2, -1)).sum(0),
    "rolled": lambda x: x.roll(1, 0).roll(-1, 2),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "written": lambda x: x.clone().index_copy_(1, torch.tensor([0]), x[:, 2:]),
}


def mixes_numerically(function: Function) -> bool:
    """Whether the Jacobian at a random point has values outside of its samples' blocks."""
    torch.manual_seed(0)
    x = torch.rand(3, 3, 4, dtype=torch.float64)
    jacobian: Any = torch.autograd.functional.jacobian(function, x)
    blocks = jacobian.abs().amax((1, 2, 4, 5))
    return bool((blocks - blocks.diag().diag()).max() > 1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*STEPS]), min_size=1, max_size=3))
def test_what_is_found_is_the_structure_of_the_jacobian(names: list[str]) -> None:
    def function(x: Tensor) -> Tensor:
        for name in names:
            x = STEPS[name](x)
        return x

    found = follow(function, torch.zeros(2, 3, 4, dtype=torch.float64))
    undone = names.count("flip") > 1 or names.count("rolled") > 1  # twice may be the order before
    if found is None or not undone:
        assert (found is not None) == mixes_numerically(function)


def test_results_for_all_samples_must_not_depend_on_one() -> None:
    assert follow(lambda x: x[:1]) is not None
    assert find_mixing(lambda x: (x.sum(),), [X], [0], [None]) is not None
    assert find_mixing(lambda x: (x, torch.ones(1, 3)), [X], [0], [0, 0]) is None
