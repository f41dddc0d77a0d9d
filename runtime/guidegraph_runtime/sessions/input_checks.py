"""Check arrays against a part's inputs, and determine the sizes of its named axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest import Part, Tensor
from guidegraph_runtime.errors import BundleError, suggest_name


def check_inputs(
    location: str, part: Part, arrays: Mapping[str, NDArray[Any]], weights: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Check inputs and return the size of each named axis. Raises ``BundleError`` for missing, unknown or wrong inputs.

    weights: the weights of the graph that can be overridden.
    """
    tensors = {tensor.name: tensor for tensor in part.inputs} | dict(weights or {})
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        check_tensor(location, find_input(location, name, tensors), _dtype(array.dtype), array.shape, sizes)
    for tensor in part.inputs:
        if tensor.name not in arrays:
            _fail(location, f"expected the input '{tensor.name}', found {', '.join(arrays) or 'none'}; give it too")
    return sizes


def find_input(location: str, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The input of that name. Raises ``BundleError`` for an unknown name."""
    if name not in tensors:
        _fail(location, f"expected the name of an input, found '{name}'; {suggest_name(name, tensors)}")
    return tensors[name]


def check_tensor(location: str, tensor: Tensor, dtype: str, shape: Sequence[int], sizes: dict[str, int]) -> None:
    """Check one input, and record the sizes of its named axes in `sizes`, with which it must agree."""
    if dtype != tensor.dtype:
        _fail(location, f"expected '{tensor.name}' of dtype {tensor.dtype}, found {dtype}; convert it")
    if len(shape) != len(tensor.dims):
        _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {tuple(shape)}")
    for size, dim in zip(shape, tensor.dims, strict=True):
        if isinstance(dim, int) and size != dim:
            _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {tuple(shape)}")
        if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
            actual = f"{tuple(shape)}, while {dim} is {sizes[dim]} in another input"
            _fail(location, f"expected '{tensor.name}' of shape {_axes(tensor)}, found {actual}")


def resolve_shape(location: str, tensor: Tensor, sizes: Mapping[str, int]) -> list[int]:
    """The shape of a tensor for these sizes of the named axes. Raises ``BundleError`` if a size is missing."""
    for dim in tensor.dims:
        if isinstance(dim, str) and dim not in sizes:
            _fail(location, f"expected the size of axis '{dim}' of '{tensor.name}', found {suggest_name(dim, sizes)}")
    return [dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims]


@cache
def _dtype(dtype: Any) -> str:
    # Cached, since NumPy builds the text each time, which takes longer than the other checks of a step.
    return str(dtype)


def _axes(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.dims))}{',' if len(tensor.dims) == 1 else ''})"


def _fail(location: str, message: str) -> NoReturn:
    raise BundleError(location, "bad-input", message)
