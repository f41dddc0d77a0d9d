"""Concatenation of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from guidegraph_runtime.checks import check_int
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Tensor


def concatenation_shape(tensors: Any, axis: Any) -> tuple[int, ...] | None:
    """The shape of the result of `tensor.cat`, or None for tensors that do not fit."""
    shape = [*tensors[0].shape] if tensors else []
    axis = check_int("axis", axis)
    if not -len(shape) <= axis < len(shape) or any(len(tensor.shape) != len(shape) for tensor in tensors):
        return None
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return tuple(shape)


def check_concatenation(shapes: Sequence[tuple[int, ...]], axis: int) -> None:
    """Raise ``ValueError`` for tensors of these shapes that cannot be concatenated along the axis."""
    if not shapes:
        raise ValueError("there are no tensors: list at least one")
    shapes_text = " and ".join(map(str, shapes))
    if any(not -len(shape) <= axis < len(shape) for shape in shapes):
        raise ValueError(f"there is no axis {axis} in tensors of shapes {shapes_text}")
    other_axes = [shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :] for shape in shapes]
    if any(axes != other_axes[0] for axes in other_axes):  # compared, not hashed: sizes are symbols while torch traces
        raise ValueError(f"tensors must be alike but for axis {axis}; found shapes {shapes_text}")


@operation("tensor.cat", shape=concatenation_shape)
def concatenate(tensors: Sequence[Tensor], *, axis: int = 0) -> Tensor:
    """Concatenate tensors along an axis (0: the batch); their other axes must be equal."""
    check_concatenation([tuple(tensor.shape) for tensor in tensors], axis)
    return np.concatenate(list(tensors), axis=axis)
