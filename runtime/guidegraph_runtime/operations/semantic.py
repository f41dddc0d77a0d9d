"""Semantic maps from files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_file, check_sides
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, FilePath, SemanticMap, Size
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.image import check_pixels, sides_of
from guidegraph_runtime.pictures.semantic_maps import CLASSES, read_map


def map_shape(size: Any, classes: Any) -> tuple[int | None, ...]:
    """The shape of the result of `semantic.load`; its sides are unknown if `size` is not set."""
    return 1, len(CLASSES) if classes is None else classes, *sides_of(size)


@operation("semantic.load", shape=map_shape, output_help="a one-hot map of classes")
def load(*, path: FilePath, size: Size | None = None, classes: Count | None = None) -> SemanticMap:
    """Load the picture file at `path` as a one-hot map (1, K, H, W) of the classes of scenes, or of `classes` others.

    A grey picture, or one with a palette, holds class indices; one in colour holds the classes' colours, as painted by
    `semantic.picture`. size: the side, or [height, width], to resize to by the nearest pixel. classes: K, for classes
    other than those of scenes, which have no colours.
    Raises an error for an index or a colour without a class.
    """
    target = None if size is None else check_sides("size", size)
    indices = read_map(check_file("path", path), classes)
    if target is not None:
        check_pixels(*target)
        rows, columns = (_nearest(*pair) for pair in zip(indices.shape, target, strict=True))
        indices = indices[rows[:, None], columns]
    count = (len(CLASSES) if classes is None else classes) * indices.size
    check_limit("elements", count, f"the map has {count:,} elements")
    class_indices = np.arange(len(CLASSES) if classes is None else classes)[:, None, None]
    semantic: SemanticMap = (indices == class_indices).astype(np.float32)[None]
    return semantic


def _nearest(source: int, target: int) -> NDArray[np.int64]:
    """The source pixel under the centre of each target pixel, in float32 like torch's nearest-exact."""
    centres = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * (np.float32(source) / np.float32(target))
    return np.minimum(centres.astype(np.int64), source - 1)
