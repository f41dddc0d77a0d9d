"""Values in the dtypes and shapes that a part takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.manifest_types import Part, Tensor
from guidegraph_runtime.names import BATCH

Array = NDArray[Any]
Shape = tuple[int, ...]


class Shaped(Protocol):
    """What has a shape: an array, or a value on a device."""

    @property
    def shape(self) -> Shape: ...


def fitted(part: Part, given: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays in the dtypes and with the axes that a part takes.

    What has a leading axis of 1 serves the whole batch. What has fewer axes than the part takes, such as a sampler's
    memory before its first step, is the same along the axes that follow.
    """
    arrays = {name: np.asarray(value) for name, value in given.items()}
    due = due_shapes(part, arrays)
    return {one.name: fit(one, arrays[one.name], shape) for one, shape in zip(part.inputs, due, strict=True)}


def due_shapes(part: Part, given: Mapping[str, Shaped]) -> list[Shape]:
    """The shape that each input of a part is to have, in their order, where these are the values for them."""
    sizes = axis_sizes(part, given)
    return [
        tuple([dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in tensor.dims]) for tensor in part.inputs
    ]


def fit(tensor: Tensor, array: Array, due: Shape) -> Array:
    """An array as the input it is for, of the shape that is due, in C order."""
    array = array.astype(tensor.dtype, copy=False)
    return np.asarray(array if array.shape == due else _spread(tensor, array, due), order="C")


def axis_sizes(part: Part, given: Mapping[str, Shaped]) -> dict[str, int]:
    """The size of each named axis of a part's inputs. A batch of 1 goes with any; where all are 1 it is left out.

    Raises ``ValueError`` where two inputs disagree.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in part.inputs:
        shape = given[tensor.name].shape
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


def check_spread(tensor: Tensor, shape: Shape, due: Sequence[int]) -> None:
    """A value of a shape may be repeated to the one that is due. Raises ``ValueError``."""
    few = len(shape) < len(due)
    padded = shape + (1,) * (len(due) - len(shape))
    if len(padded) != len(due) or not all(
        size == want or (size == 1 and (few or dim == BATCH))
        for size, want, dim in zip(padded, due, tensor.dims, strict=True)
    ):
        raise ValueError(f"'{tensor.name}' has shape {shape} where {tuple(due)} is due: sizes must agree")


def _spread(tensor: Tensor, array: Array, due: Sequence[int]) -> Array:
    check_spread(tensor, array.shape, due)
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(due) - array.ndim)), tuple(due))
