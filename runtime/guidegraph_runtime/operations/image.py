"""Pictures: loaded from files, converted from samples, and arranged in a grid."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import check_array, check_choice, check_file, check_int, check_number, check_sides
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.operation import operation
from guidegraph_runtime.pictures.picture_files import Resize, read_rgb, resize_picture

Size: TypeAlias = int | Sequence[int]
FilePath: TypeAlias = os.PathLike[str] | bytes
"""A file's path, or its contents as bytes."""


def check_pixels(height: int, width: int) -> None:
    """Raise ``LimitExceeded`` for a picture with too many pixels."""
    check_limit("pixels", height * width, f"a picture of {height:,} × {width:,} has {height * width:,} pixels")


def image_shape(size: Any) -> tuple[int, ...] | None:
    """The shape of the result of `image.load`, or None if `size` is not set."""
    return None if size is None else (1, 3, *check_sides("size", size))


def sample_shape(sample: Any) -> tuple[int, ...]:
    """The shape of the result of `image.from_sample`."""
    batch, *_, height, width = sample.shape
    return batch, 3, height, width


@operation("image.load", shape=image_shape)
def load(*, path: FilePath, size: Size | None = None, resize: Resize = "crop") -> NDArray[np.float32]:
    """A picture file as an image (1, 3, H, W), float32 in [-1, 1]; transparent parts become white.

    size: the side, or [height, width]; by default the picture's own. resize: how a picture of another
    aspect ratio is fitted: cropped at the centre, padded with white, or stretched.
    Raises an error if the file is missing, is not a picture, or holds floating-point numbers.
    """
    check_choice("resize", resize, get_args(Resize))
    target = None if size is None else check_sides("size", size)
    if target is not None:
        check_pixels(*target)
    picture = read_rgb(check_file("path", path))
    if target is not None:
        picture = resize_picture(picture, target, resize)
    values = np.asarray(picture, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


@operation("image.from_sample", shape=sample_shape)
def from_sample(sample: NDArray[Any]) -> NDArray[Any]:
    """A sample (B, 3, H, W), or a grey one (B, 1, H, W), as an image: its values are clamped to [-1, 1].

    Raises an error for any other number of channels: a latent must be decoded first.
    """
    channels = check_array("sample", sample, "(B, C, H, W)", kinds="f").shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a picture has 3 channels or 1, this sample {channels}: autoencoder.decode decodes a latent")
    return np.tile(sample.clip(-1, 1), (1, 3 // channels, 1, 1))


@operation("image.grid")
def grid(image: NDArray[Any], *, columns: int | None = None, gap: int = 2, background: float = 1.0) -> NDArray[Any]:
    """Arrange a batch (B, 3, H, W) in a grid (1, 3, H', W'), row by row, as near to a square as possible.

    columns: pictures in a row. gap: pixels between pictures and around them. background: its grey in [-1, 1].
    """
    batch, channels, height, width = check_array("image", image, "(B, 3, H, W)", kinds="f").shape
    if not batch:
        raise ValueError("image: expected one picture or more; found none")
    gap, background = check_int("gap", gap, low=0), check_number("background", background, low=-1, high=1)
    across = min(math.ceil(math.sqrt(batch)) if columns is None else check_int("columns", columns, low=1), batch)
    down = math.ceil(batch / across)
    shape = (1, channels, gap + down * (height + gap), gap + across * (width + gap))
    check_pixels(*shape[2:])
    sheet = np.full(shape, background, dtype=image.dtype)
    for i in range(batch):
        top, left = gap + i // across * (height + gap), gap + i % across * (width + gap)
        sheet[0, :, top : top + height, left : left + width] = image[i]
    return sheet
