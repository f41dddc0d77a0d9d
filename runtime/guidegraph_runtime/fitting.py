"""Values in the dtypes and shapes that a part takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.manifest_types import Part, Tensor
from guidegraph_runtime.names import BATCH

Array = NDArray[Any]
Shape = tuple[int, ...]


def fitted(part: Part, given: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays in the dtypes and with the axes that a part takes.

    What has a leading axis of 1 serves the whole batch. What has fewer axes than the part takes, such as a sampler's
    memory before its first step, is the same along the axes that follow.
    """
    arrays = {tensor.name: np.asarray(given[tensor.name]) for tensor in part.inputs}
    due = due_shapes(part, {name: array.shape for name, array in arrays.items()})
    return {tensor.name: fit(tensor, arrays[tensor.name], due[tensor.name]) for tensor in part.inputs}


def due_shapes(part: Part, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape that each input is to have, where these are those of the values for them."""
    sizes = _sizes(part, shapes)
    return {
        tensor.name: tuple([sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in tensor.dims])
        for tensor in part.inputs
    }


def fit(tensor: Tensor, array: Array, due: Shape) -> Array:
    """An array as the input it is for, of the shape that is due, in C order."""
    array = array.astype(tensor.dtype, copy=False)
    if array.shape != due:
        array = _spread(tensor, array, due)
    return np.asarray(array, order="C")


def _sizes(part: Part, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The size of each named axis. A batch of 1 goes with any."""
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in part.inputs:
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.dims):
            continue
        for name, size in zip(tensor.dims, shape, strict=True):
            if not isinstance(name, str) or (name == BATCH and size == 1):
                continue
            known, owner = sizes.setdefault(name, (int(size), tensor.name))
            if known != size:
                raise ValueError(
                    f"'{name}' is {known} in '{owner}' and {size} in '{tensor.name}', which this graph takes of one "
                    "size: give values that agree (prompts of as many tokens, say), or export the workflow with an "
                    "example in which they differ, which leaves each free"
                )
    return {name: size for name, (size, _) in sizes.items()}


def _spread(tensor: Tensor, array: Array, due: Sequence[int]) -> Array:
    few = array.ndim < len(due)
    shape = array.shape + (1,) * (len(due) - array.ndim)
    if len(shape) != len(due) or not all(
        size == want or (size == 1 and (few or dim == BATCH))
        for size, want, dim in zip(shape, due, tensor.dims, strict=True)
    ):
        raise ValueError(f"'{tensor.name}' has shape {array.shape} where {tuple(due)} is due: sizes must agree")
    return np.broadcast_to(array.reshape(shape), tuple(due))
