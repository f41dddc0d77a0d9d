"""Tensors from files, and conversions between the named kinds of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from guidegraph.graph.device_context import current_device
from guidegraph.graph.errors import suggest
from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.trust.file_checks import open_regular, require_regular
from guidegraph.graph.trust.limits import LimitExceeded
from guidegraph.graph.types import Tensor
from guidegraph.nodes.derive import node_for
from guidegraph.nodes.types import Latent, Noise
from guidegraph_runtime.files.npy import read_npy, read_npz_member
from guidegraph_runtime.noise import raw_bits
from guidegraph_runtime.operations.noise import check_concatenation


@node("tensor.load", io=True, host=True)
def load_tensor(*, path: Path, key: str = "") -> Tensor:
    """The tensor in a .npy, .npz or .safetensors file, `path`, in its stored dtype and shape.

    key: the tensor of an .npz or .safetensors file to load; optional if the file holds only one.
    Raises an error for another kind of file, an unknown key, pickled objects and dtypes that torch lacks.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path.name}: expected a .npy, .npz or .safetensors file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return _READERS[suffix](path, key).to(current_device())


@node_for("tensor.cat")
def concatenate(tensors: Sequence[Tensor], *, axis: int) -> Tensor:
    check_concatenation([tuple(tensor.shape) for tensor in tensors], axis)
    return torch.cat(list(tensors), dim=axis)


@node("tensor.select")
def select(tensor: Tensor, *, index: int) -> Tensor:
    """One sample (or row) of a batch: (B, …) → (1, …). A negative index counts from the end."""
    if tensor.ndim == 0:
        raise ValueError("a single number has no samples to choose from")
    if not -tensor.shape[0] <= index < tensor.shape[0]:
        raise ValueError(f"index {index} is outside of a batch of {tensor.shape[0]}")
    index %= tensor.shape[0]
    return tensor[index : index + 1]


@node("tensor.slice")
def slice_axis(tensor: Tensor, *, start: int = 0, stop: int | None = None, axis: int = 0) -> Tensor:
    """Elements start … stop − 1 along an axis (0: samples), or all from start on; negative numbers count from the end.

    Raises an error if nothing would be left, or if the tensor lacks the axis.
    """
    if not -tensor.ndim <= axis < tensor.ndim:
        raise ValueError(f"there is no axis {axis} in a tensor of shape {tuple(tensor.shape)}")
    size = tensor.shape[axis]
    first, last, _ = slice(start, stop).indices(size)
    if last <= first:
        raise ValueError(f"none of the {size} entries of axis {axis} lies between {start} and {stop}")
    return tensor.narrow(axis, first, last - first)


@node("tensor.merge")
def merge(tensor: Tensor) -> Tensor:
    """Merge the batches that a loop collected into one, in order: (R, B, …) → (R · B, …)."""
    if tensor.ndim < 2:
        raise ValueError(f"expected at least two axes, (R, B, …), found shape {tuple(tensor.shape)}")
    return tensor.flatten(0, 1)


@node("tensor.shuffle")
def shuffle(tensor: Tensor, *, seed: Annotated[int, Ge(0)] = 0) -> Tensor:
    """Shuffle a batch (B, …) so that no sample keeps its position, for a control with the conditions of other samples.

    The order is one cycle through all samples, and depends on (seed, B) alone. Raises an error for a batch of one.
    """
    batch = tensor.shape[0] if tensor.ndim else 1
    if batch < 2:
        raise ValueError(f"a batch of {batch} cannot be shuffled: it takes two samples")
    order = torch.from_numpy(raw_bits(seed, batch, 0).argsort(kind="stable"))
    source = torch.empty_like(order)
    source[order] = order.roll(1)
    return tensor[source.to(tensor.device)]


@node("tensor.cast")
def cast(tensor: Tensor, *, dtype: Literal["float16", "bfloat16", "float32", "float64", "int64", "bool"]) -> Tensor:
    """The same values in another dtype; fractions are cut off in an integer dtype."""
    target: torch.dtype = getattr(torch, dtype)
    return tensor.to(target)


@node("tensor.as_latent")
def as_latent(tensor: Tensor) -> Latent:
    """Treat a tensor (B, C, h, w) of another kind, such as a picture, as a latent; its values do not change."""
    return _check_four_axes(tensor)


@node("tensor.as_noise")
def as_noise(tensor: Tensor) -> Noise:
    """Treat a tensor (B, C, H, W) of another kind as noise, to start a sampler from; its values do not change."""
    return _check_four_axes(tensor)


def _check_four_axes(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        raise ValueError(f"expected 4 axes (B, C, H, W), found shape {tuple(tensor.shape)}")
    return tensor


def _read_npy(path: Path, key: str) -> Tensor:
    if key:
        raise ValueError(f"{path.name} holds one array without a name: leave out key '{key}'")
    with _readable(path), open_regular(path) as file:
        array = read_npy(file, path.name)
    return _from_numpy(array, path)


def _read_npz(path: Path, key: str) -> Tensor:
    import numpy as np

    with _readable(path), open_regular(path) as stream, np.load(stream, allow_pickle=False) as file:
        array = read_npz_member(file, _choose_key(key, file.files, path), path.name)
    return _from_numpy(array, path)


def _read_safetensors(path: Path, key: str) -> Tensor:
    from safetensors import safe_open

    require_regular(path)
    with _readable(path), safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(_choose_key(key, list(file.keys()), path))
    return tensor


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}


class _KeyError(ValueError):
    """Raised for a wrong key in a readable file."""


class _readable:
    """Turns any error of a reader into a ``ValueError`` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (_KeyError, LimitExceeded)):
            raise ValueError(f"{self.path.name} cannot be read as {self.path.suffix}: {error}") from error


def _choose_key(key: str, names: list[str], path: Path) -> str:
    if key in names:
        return key
    if not key and len(names) == 1:
        return names[0]
    if not key:
        raise _KeyError(f"{path.name} holds {len(names)} tensors: choose one with key; {suggest('', names, 'keys')}")
    raise _KeyError(f"{path.name} has no tensor '{key}'; {suggest(key, names, 'keys')}")


def _from_numpy(array: Any, path: Path) -> Tensor:
    import numpy as np

    native_array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    try:
        return torch.from_numpy(native_array)
    except TypeError:
        raise ValueError(f"{path.name}: dtype {array.dtype} is none of torch's") from None
