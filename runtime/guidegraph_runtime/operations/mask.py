"""Masks: 1 where a picture is regenerated, 0 where it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_int, check_number, check_sides
from guidegraph_runtime.operations import image
from guidegraph_runtime.operations.image import FilePath, Size
from guidegraph_runtime.operations.operation import operation


def mask_shape(size: Any) -> tuple[int, ...] | None:
    """The shape of a mask, or None if `size` is not set."""
    return None if size is None else (1, 1, *check_sides("size", size))


@operation("mask.box", shape=mask_shape)
def box(*, size: Size = 64, top: int = 16, left: int = 16, height: int = 32, width: int = 32) -> NDArray[np.float32]:
    """A mask (1, 1, H, W), float32, that is 1 in a box; size: a side, or [height, width], in pixels like the box.

    Raises an error for a box that extends beyond the mask.
    """
    rows, columns = check_sides("size", size)
    image.check_pixels(rows, columns)
    top, left = check_int("top", top, low=0), check_int("left", left, low=0)
    height, width = check_int("height", height, low=1), check_int("width", width, low=1)
    if top + height > rows or left + width > columns:
        raise ValueError(
            f"a box of {height} × {width} at {top}, {left} reaches beyond {rows} × {columns} pixels: move or shrink it"
        )
    mask = np.zeros((1, 1, rows, columns), dtype=np.float32)
    mask[:, :, top : top + height, left : left + width] = 1
    return mask


@operation("mask.load", shape=mask_shape)
def load(*, path: FilePath, size: Size | None = None, threshold: float = 0.5) -> NDArray[np.float32]:
    """A picture file as a mask (1, 1, H, W), float32: 1 where it is brighter than the threshold, from 0 to 1.

    size: the side, or [height, width]; the picture is cropped at the centre to fit. Transparent parts become white, so
    they are in the mask. See `image.load` for its errors.
    """
    threshold = check_number("threshold", threshold, low=0, high=1)
    brightness = (image.load(path=path, size=size).mean(1, keepdims=True) + 1) / 2
    mask: NDArray[np.float32] = (brightness > threshold).astype(np.float32)
    return mask
