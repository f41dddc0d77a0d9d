"""Read NumPy's .npy and .npz files, checking their headers before memory is allocated.

A header of a hundred bytes may declare any shape, and a compressed archive of 1 MB may hold an array of 1 GB.
"""

from __future__ import annotations

import os
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.limits import check_limit

_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(file: BinaryIO, name: str) -> NDArray[Any]:
    """Read the array in an open .npy file. name: the file's name in error messages.

    Raises ``ValueError`` for an invalid file, pickled objects, and a header that declares more than the file holds, and
    ``LimitExceeded`` for too many elements.
    """
    start = file.tell()
    shape, dtype = _header(file, name)
    size = prod(shape) * dtype.itemsize
    header_end = file.tell()
    left = file.seek(0, os.SEEK_END) - header_end
    if size > left:
        raise ValueError(f"{name} declares {shape} of {dtype}, {size} bytes, and holds {left}: it is cut off or wrong")
    file.seek(start)
    return np.asarray(np.load(file, allow_pickle=False))


def read_npz_member(archive: Any, key: str, name: str) -> NDArray[Any]:
    """Read the array ``key`` of an archive opened by ``np.load``. Raises the errors of ``read_npy``."""
    member = key if key in archive.zip.namelist() else f"{key}.npy"
    with archive.zip.open(member) as file:
        shape, dtype = _header(file, f"{name}: '{key}'")
    declared, available = prod(shape) * dtype.itemsize, archive.zip.getinfo(member).file_size
    if declared > available:
        raise ValueError(f"{name}: '{key}' declares {shape} of {dtype}, {declared} bytes, and holds {available}")
    return np.asarray(archive[key])


def _header(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} is of version {version} of the .npy format; save it with numpy.save as numbers")
    shape, _, dtype = _HEADERS[version](file)
    check_limit("elements", prod(shape), f"{name} declares an array {shape} of {prod(shape):,} elements")
    return shape, dtype
