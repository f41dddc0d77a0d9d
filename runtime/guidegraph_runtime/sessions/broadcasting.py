"""Cast and broadcast values to the dtypes and shapes of a part's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import BATCH, Part, Tensor

Array = NDArray[Any]
Shape = tuple[int, ...]


class Shaped(Protocol):
    """An array or a value on a device: anything with a shape."""

    @property
    def shape(self) -> Shape: ...


def broadcast(part: Part, values: Mapping[str, Any]) -> dict[str, Array]:
    """Cast and broadcast values to the dtypes and axes of a part's inputs.

    A leading axis of 1 is repeated for the batch. A value with fewer axes than the input, such as a sampler's state
    before its first step, is repeated along the missing trailing axes.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    due = broadcast_shapes(part, arrays)
    return {
        tensor.name: broadcast_to(tensor, arrays[tensor.name], shape)
        for tensor, shape in zip(part.inputs, due, strict=True)
    }


def broadcast_shapes(part: Part, values: Mapping[str, Shaped]) -> list[Shape]:
    """The broadcast shape of each input of a part, in order, for given values."""
    sizes = axis_sizes(part, values)
    return [
        tuple([dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in tensor.dims]) for tensor in part.inputs
    ]


def broadcast_to(tensor: Tensor, array: Array, due: Shape) -> Array:
    """Cast an array to the dtype of its input and broadcast it to the due shape, in C order."""
    array = array.astype(tensor.dtype, copy=False)
    if array.shape != due:
        check_broadcast(tensor, array.shape, due)
        array = np.broadcast_to(array.reshape(array.shape + (1,) * (len(due) - array.ndim)), tuple(due))
    return np.asarray(array, order="C")


def axis_sizes(part: Part, values: Mapping[str, Shaped]) -> dict[str, int]:
    """The size of each named axis of a part's inputs. A batch of 1 fits any; if all are 1 it is omitted.

    Raises ``ValueError`` if two inputs disagree.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in part.inputs:
        shape = values[tensor.name].shape
        if len(shape) != len(tensor.dims):
            continue
        for name, size in zip(tensor.dims, shape, strict=True):
            if not isinstance(name, str) or (name == BATCH and size == 1):
                continue
            previous, owner = sizes.setdefault(name, (int(size), tensor.name))
            if previous != size:
                raise ValueError(
                    f"'{name}' is {previous} in '{owner}' and {size} in '{tensor.name}', which this graph takes of one "
                    "size: give values that agree (prompts of as many tokens, say), or export the workflow with an "
                    "example in which they differ, which leaves each free"
                )
    return {name: size for name, (size, _) in sizes.items()}


def check_broadcast(tensor: Tensor, shape: Shape, due: Sequence[int]) -> None:
    """Raise ``ValueError`` if a shape cannot be broadcast to the due shape."""
    lacks_axes = len(shape) < len(due)
    padded = shape + (1,) * (len(due) - len(shape))
    if len(padded) != len(due) or not all(
        size == expected or (size == 1 and (lacks_axes or dim == BATCH))
        for size, expected, dim in zip(padded, due, tensor.dims, strict=True)
    ):
        raise ValueError(f"'{tensor.name}' has shape {shape} where {tuple(due)} is due: sizes must agree")
