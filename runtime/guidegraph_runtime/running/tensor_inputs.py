"""Tensor inputs of a bundle: arrays, or arrays read from .npy and .safetensors files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Input
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.files.npy import read_npy
from guidegraph_runtime.files.regular_files import read_regular
from guidegraph_runtime.limits import LimitExceeded, check_limit

Array = NDArray[Any]
_NPY = b"\x93NUMPY"
_RAW = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read_tensor_input(name: str, declared: Input, value: Any) -> Array:
    """Copy the value of a tensor input, in the input's dtype.

    From a .safetensors file, take the tensor of the same name, or the only one. A leading axis of 1 fits any batch.
    Raises ``ValueError`` for a value of another dtype or shape.
    """
    array = value if isinstance(value, np.ndarray) else _read(name, value)
    check_limit("elements", array.size, f"'{name}' is a tensor of {array.size:,} elements")
    assert declared.dtype is not None
    assert declared.dims is not None
    if not np.can_cast(array.dtype, declared.dtype, "same_kind"):
        raise ValueError(f"'{name}': expected a tensor of dtype {declared.dtype}, found {array.dtype}; convert it")
    fits = len(array.shape) == len(declared.dims) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(declared.dims, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"'{name}': expected a tensor ({', '.join(map(str, declared.dims))}), found {array.shape}")
    return np.array(array, declared.dtype)


def _read(name: str, value: Any) -> Array:
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        try:
            data, source = read_regular(path, limit="file_bytes"), f"'{path}'"
        except OSError as error:
            raise ValueError(f"'{name}': '{path}' cannot be read: {error.strerror}") from None
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data, source = bytes(value), "its bytes"
    else:
        raise ValueError(f"'{name}': expected an array, or a .npy or .safetensors file, found {type(value).__name__}")
    if data.startswith(_NPY):
        try:
            return read_npy(io.BytesIO(data), source)
        except LimitExceeded:
            raise
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"'{name}': {source} is not an array that can be read: {error}") from None
    try:
        tensors = read_safetensors(data)
    except ValueError as error:
        raise ValueError(f"'{name}': {source} is neither .npy nor .safetensors: {error}") from None
    if name not in tensors and len(tensors) != 1:
        raise ValueError(f"'{name}': {source} has no tensor of that name; {suggest_name(name, tensors)}")
    return tensors.get(name, next(iter(tensors.values())))


def read_tables(data: bytes, location: str) -> dict[str, Array]:
    """The tables of a plan: the arrays of a safetensors file. Raises ``BundleError`` for an invalid one."""
    from safetensors.numpy import load

    try:
        return load(data)
    except Exception as error:
        raise BundleError(location, "bad-tables", f"no safetensors file: {error}") from None


def read_safetensors(data: bytes) -> dict[str, Array]:
    """Read the tensors of a .safetensors file; bfloat16, which NumPy lacks, becomes float32. Raises ``ValueError``."""
    from safetensors import SafetensorError, deserialize

    try:
        records: list[tuple[str, Mapping[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    tensors = {}
    for name, record in records:
        kind = str(record["dtype"])
        if kind not in _RAW:
            raise ValueError(f"the tensor '{name}' is of the dtype {kind}, which this runtime does not read")
        array = np.frombuffer(record["data"], _RAW[kind]).reshape(record["shape"])
        if kind == "BF16":  # the upper half of a float32
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array
    return tensors
