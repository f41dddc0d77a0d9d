"""Arrays put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import whole
from guidegraph_runtime.host.operation import operation


def joined_shape(tensors: Any, axis: Any) -> tuple[int, ...] | None:
    """The shape of what `tensor.cat` makes of tensors that fit."""
    first = [*tensors[0].shape] if tensors else []
    axis = whole("axis", axis)
    if not -len(first) <= axis < len(first) or any(len(one.shape) != len(first) for one in tensors):
        return None
    first[axis] = sum(one.shape[axis] for one in tensors)
    return tuple(first)


@operation("tensor.cat", shape=joined_shape)
def concatenate(tensors: Sequence[NDArray[Any]], *, axis: int = 0) -> NDArray[Any]:
    """Arrays one after the other along an axis (0: the batch); their other axes must be equal."""
    if not tensors:
        raise ValueError("there are no tensors: list at least one")
    axis = whole("axis", axis)
    shapes = [tuple(one.shape) for one in tensors]
    found = " and ".join(map(str, shapes))
    if any(not -len(shape) <= axis < len(shape) for shape in shapes):
        raise ValueError(f"there is no axis {axis} in tensors of shapes {found}")
    others = {shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :] for shape in shapes}
    if len(others) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"tensors must be alike but for axis {axis}; found shapes {found}")
    return np.concatenate(list(tensors), axis=axis)
