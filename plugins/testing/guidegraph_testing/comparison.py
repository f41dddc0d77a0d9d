"""Comparison of the results of a node in checks: the difference of two values, and the tolerance for rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.torch_private import pytree
from guidegraph.graph.types import is_tensor

ROUNDING: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""The tolerance for rounding, relative to the largest value or 1."""


def difference(actual: Any, expected: Any) -> float:
    """The largest difference of two results, relative to the largest expected value or 1; infinite if not comparable.

    Compares tensors in values, the weights of models, and numbers; NaN equals NaN.
    """
    a, b = comparable(actual), comparable(expected)
    if len(a) != len(b):
        return float("inf")
    return max((_relative_error(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def comparable(value: Any) -> list[Any]:
    """The comparable contents of a value: tensors, weights of models, numbers and texts."""
    values: list[Any] = []
    for leaf in pytree.tree_flatten(value)[0]:
        if is_tensor(leaf) or isinstance(leaf, (int, float, str)):
            values.append(leaf)
        elif hasattr(leaf, "records"):
            values += [cell for row in leaf.records() for cell in row.values()]
        else:
            values += [tensor for module in find_models(leaf) for tensor in module.state_dict().values()]
    return values


def _relative_error(x: Any, y: Any) -> float:
    if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
        return 0.0 if x == y else float("inf")
    first, second = torch.as_tensor(x), torch.as_tensor(y)
    if first.shape != second.shape:
        return float("inf")
    a, b = first.detach().double(), second.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    errors = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    scale = max(1.0, float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 1.0)
    return float(errors.max()) / scale


def is_identical(actual: Any, expected: Any) -> bool:
    """Whether two results are bit-identical."""
    return difference(actual, expected) == 0.0


def rounding_tolerance(value: Mapping[str, Any] | Any) -> float:
    """The tolerance for rounding of the least precise floating tensor of a value."""
    bounds = [ROUNDING[tensor.dtype] for tensor in comparable(value) if is_tensor(tensor) and tensor.dtype in ROUNDING]
    return max(bounds, default=ROUNDING[torch.float32])
