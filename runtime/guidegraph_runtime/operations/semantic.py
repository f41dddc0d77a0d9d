"""Semantic maps from files, and the objects in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_array, check_file, check_sides
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, FilePath, SemanticMap, Size, Tensor
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.image import check_pixels, sides_of
from guidegraph_runtime.pictures.semantic_maps import CLASSES, read_map

LEAST_PART = 512
"""A connected part of a map is an object if it takes at least one such part of it: 32 pixels of 128 × 128."""
NEIGHBOURS = (
    (np.s_[:-1], np.s_[1:]),
    (np.s_[1:], np.s_[:-1]),
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:, 1:], np.s_[:, :-1]),
)
"""The pixels of a map that have a neighbour, and that neighbour, for each of the four sides."""


class MapObjects(NamedTuple):
    """Objects in maps: their classes (B, N), int64, and their boxes (B, N, 4), −1 for none."""

    object: Tensor
    box: Tensor


def map_shape(size: Any, classes: Any) -> tuple[int | None, ...]:
    """The shape of the result of `semantic.load`; its sides are unknown if `size` is not set."""
    return 1, len(CLASSES) if classes is None else classes, *sides_of(size)


@operation("semantic.load", shape=map_shape, output_help="a one-hot map of classes")
def load(*, path: FilePath, size: Size | None = None, classes: Count | None = None) -> SemanticMap:
    """Load the picture file at `path` as a one-hot map (1, K, H, W) of the classes of scenes, or of `classes` others.

    A grey picture, or one with a palette, holds class indices; one in colour holds the classes' colours, as painted by
    `semantic.picture`. size: the side, or [height, width], to resize to by the nearest pixel. classes: K, for classes
    other than the scenes', which lack colours.
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


@operation("semantic.boxes")
def boxes(semantic: SemanticMap, *, objects: Count | None = None, most: Count = 4) -> MapObjects:
    """The objects in maps (B, K, H, W), up to `most` in each: their classes and the boxes around them.

    object (B, most) is int64; box (B, most, 4) has the left, top, right and lower edge in units of the sides; −1 for
    none. An object is a connected part of a class that takes at least 1/512 of the map; smaller ones are specks. Of
    two objects of a class that touch no border shows, so they are one. Of more than `most` the largest count.
    objects: how many of the K classes, from the first on, are objects; by default all.
    Raises an error for values that are not finite.
    """
    if not np.isfinite(check_array("semantic", semantic, "(B, K, H, W)")).all():
        raise ValueError("semantic: expected finite values; found NaN or an infinity")
    classes = semantic.argmax(1)
    count = semantic.shape[1] if objects is None else objects
    kinds, edges = np.full((len(classes), most), -1, np.int64), np.full((len(classes), most, 4), -1, np.float32)
    for row, values in enumerate(classes):
        for column, (kind, box) in enumerate(_list_objects(values, count, most)):
            kinds[row, column], edges[row, column] = kind, box
    return MapObjects(kinds, edges)


def _list_objects(classes: NDArray[np.int64], count: int, most: int) -> list[tuple[int, tuple[float, ...]]]:
    """The classes and boxes of the largest objects of a map (H, W), in the order of their first pixels."""
    height, width = classes.shape
    parts = np.where(classes < count, _label_parts(classes), -1)
    labels, pixels = np.unique(parts[parts >= 0], return_counts=True)
    is_large = pixels * LEAST_PART >= classes.size
    labels, pixels = labels[is_large], pixels[is_large]
    objects: list[tuple[int, tuple[float, ...]]] = []
    for label in np.sort(labels[np.argsort(-pixels, kind="stable")[:most]]):
        rows, columns = np.nonzero(parts == label)
        edges = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
        objects.append((int(classes.flat[label]), edges))
    return objects


def _label_parts(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The connected parts of a map of classes (H, W): each pixel has the index of its part's first pixel.

    Pixels are connected along sides. Labels spread from pixel to pixel, and by their own labels, which doubles the
    distance each time.
    """
    labels = np.arange(classes.size).reshape(classes.shape)
    while True:
        spread = labels.copy()
        for pixels, beside in NEIGHBOURS:
            same = classes[pixels] == classes[beside]
            np.minimum(spread[pixels], labels[beside], out=spread[pixels], where=same)
        spread = spread.ravel()[spread]
        if np.array_equal(spread, labels):
            return labels
        labels = spread
