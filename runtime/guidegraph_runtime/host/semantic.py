"""Semantic maps from files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import file_given, sides
from guidegraph_runtime.host.image import FilePath, Size, check_pixels
from guidegraph_runtime.host.operation import operation
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.palette import CLASSES, read_map


def map_shape(size: Any, classes: Any) -> tuple[int, ...] | None:
    """The shape of what `semantic.load` reads, where `size` says so."""
    return None if size is None else (1, len(CLASSES) if classes is None else classes, *sides("size", size))


@operation("semantic.load", shape=map_shape)
def load(*, path: FilePath, size: Size | None = None, classes: int | None = None) -> NDArray[np.float32]:
    """A picture file as a one-hot map (1, K, H, W), float32, of the classes of scenes, or of so many of any kind.

    A grey picture, or one with a palette, holds the classes' indices; one in colours their colours. size: the wanted
    side, or [height, width], by the nearest pixel. Raises an error for an index or a colour that stands for no class.
    """
    wanted = None if size is None else sides("size", size)
    indices = read_map(file_given("path", path), classes)
    if wanted is not None:
        check_pixels(*wanted)
        rows, columns = (_nearest(*pair) for pair in zip(indices.shape, wanted, strict=True))
        indices = indices[rows[:, None], columns]
    count = (len(CLASSES) if classes is None else classes) * indices.size
    check_limit("elements", count, f"the map has {count:,} elements")
    every = np.arange(len(CLASSES) if classes is None else classes)[:, None, None]
    semantic: NDArray[np.float32] = (indices == every).astype(np.float32)[None]
    return semantic


def _nearest(given: int, wanted: int) -> NDArray[np.int64]:
    """The pixel of `given` under the centre of each of `wanted` ones, in float32 as torch's nearest-exact is."""
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * (np.float32(given) / np.float32(wanted))
    return np.minimum(centres.astype(np.int64), given - 1)
