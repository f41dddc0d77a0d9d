"""Masks, 1 where a picture is generated and 0 where the given one is kept."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np

from guidegraph_runtime.checks import check_array, check_sides
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, FilePath, Mask, Range, Size, Tensor
from guidegraph_runtime.operations import image

HELP = "1 where something is made anew, 0 where the picture stays"

Coordinate: TypeAlias = Annotated[int, Range(low=0)]
Level: TypeAlias = Annotated[float, Range(low=0, high=1)]


def mask_shape(size: Any) -> tuple[int | None, ...]:
    """The shape of a mask; its sides are unknown if `size` is not set."""
    return 1, 1, *image.sides_of(size)


@operation("mask.box", shape=mask_shape, output_help=HELP)
def box(*, size: Size = 64, top: Coordinate = 16, left: Coordinate = 16, height: Count = 32, width: Count = 32) -> Mask:
    """A mask (1, 1, H, W) that is 1 in a box; size: a side, or [height, width], in pixels like the box.

    top, left: first row and column of the box. Raises an error for a box that extends beyond the mask.
    """
    rows, columns = check_sides("size", size)
    image.check_pixels(rows, columns)
    if top + height > rows or left + width > columns:
        raise ValueError(
            f"a box of {height} × {width} at {top}, {left} reaches beyond {rows} × {columns} pixels: move or shrink it"
        )
    mask = np.zeros((1, 1, rows, columns), dtype=np.float32)
    mask[:, :, top : top + height, left : left + width] = 1
    return mask


@operation("mask.load", shape=mask_shape, output_help=HELP)
def load(*, path: FilePath, size: Size | None = None, threshold: Level = 0.5) -> Mask:
    """Load a picture file as a mask (1, 1, H, W): 1 in pixels brighter than the threshold, on a scale from 0 to 1.

    path: the file. size: the side, or [height, width]; the picture is cropped to the centre to fit. Transparency
    counts as white, so it is in the mask. See `image.load` for its errors.
    """
    brightness = (image.load(path=path, size=size).mean(1, keepdims=True) + 1) / 2
    mask: Mask = (brightness > threshold).astype(np.float32)
    return mask


def bounds_shape(mask: Any) -> tuple[int, ...]:
    """The shape of the result of `mask.bounds`."""
    return mask.shape[0], 1, 4


@operation("mask.bounds", shape=bounds_shape, output_help="left, top, right and lower edge in units of the sides")
def bounds(mask: Mask) -> Tensor:
    """The smallest box (B, 1, 4) around the white part of a mask (B, 1, H, W): its left, top, right and lower edge.

    In units of the sides, from 0 to 1, as `mask.boxes` and `layout.place` take them; −1 for an empty mask. White is
    above ½.
    """
    inside = check_array("mask", mask, "(B, 1, H, W)")[:, 0] > 0.5
    boxes = np.full((len(inside), 1, 4), -1, dtype=np.float32)
    for row, white in enumerate(inside):
        if white.any():
            for axis in (0, 1):  # left and right, then top and bottom
                pixels = np.flatnonzero(white.any(axis))
                ends = np.array([pixels[0], pixels[-1] + 1], dtype=np.float32)
                boxes[row, 0, axis::2] = ends / np.float32(white.shape[1 - axis])
    return boxes
