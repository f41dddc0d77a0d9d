"""Pictures: loaded from files, converted from samples, and arranged in a grid."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from guidegraph_runtime.checks import check_array, check_file, check_sides
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, FilePath, Image, Range, Sample, Size
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.pictures.picture_files import Resize, read_rgb, resize_picture


def check_pixels(height: int, width: int) -> None:
    """Raise ``LimitExceeded`` for a picture with too many pixels."""
    check_limit("pixels", height * width, f"a picture of {height:,} × {width:,} has {height * width:,} pixels")


def sides_of(size: Any) -> tuple[int | None, int | None]:
    """The height and width that a setting `size` gives; unknown if it is not set."""
    return (None, None) if size is None else check_sides("size", size)


def image_shape(size: Any) -> tuple[int | None, ...]:
    """The shape of the result of `image.load`; its sides are unknown if `size` is not set."""
    return 1, 3, *sides_of(size)


def sample_shape(sample: Any) -> tuple[int, ...]:
    """The shape of the result of `image.from_sample`."""
    batch, *_, height, width = sample.shape
    return batch, 3, height, width


@operation("image.load", shape=image_shape, output_help="a picture, 0 to 255 as -1 to 1, colours first")
def load(*, path: FilePath, size: Size | None = None, resize: Resize = "crop") -> Image:
    """Load a picture file as an image (1, 3, H, W) in [-1, 1]; transparency is blended over white.

    path: the file. size: the side, or [height, width]; by default the picture's own. resize: for pictures of another
    aspect ratio: crop to the centre, pad with white, or stretch.
    The camera's rotation is applied, and an animation gives its first frame. 16-bit grey is scaled. Raises an error if
    the file does not exist, is not a picture, or has floating-point pixels, whose range is unknown.
    """
    target = None if size is None else check_sides("size", size)
    if target is not None:
        check_pixels(*target)
    picture = read_rgb(check_file("path", path))
    if target is not None:
        picture = resize_picture(picture, target, resize)
    values = np.asarray(picture, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


@operation("image.from_sample", shape=sample_shape)
def from_sample(sample: Sample) -> Image:
    """Convert a sample (B, 3, H, W), or a grey one (B, 1, H, W), to an image, with values clamped to [-1, 1].

    Raises an error for any other number of channels: a latent must be decoded first.
    """
    channels = check_channels(check_array("sample", sample, "(B, C, H, W)", kinds="f").shape[1])
    return np.tile(sample.clip(-1, 1), (1, 3 // channels, 1, 1))


def check_channels(channels: int) -> int:
    """Check that a sample with this many channels is a picture."""
    if channels not in (1, 3):
        raise ValueError(f"a picture has 3 channels or 1, this sample {channels}: autoencoder.decode decodes a latent")
    return channels


class Sheet(NamedTuple):
    """The shape (1, C, H', W') of a sheet of pictures, and the rows and columns of each picture in it."""

    shape: tuple[int, int, int, int]
    windows: list[tuple[slice, slice]]

    @classmethod
    def of(cls, shape: tuple[int, ...], columns: int | None, gap: int) -> Sheet:
        """Lay out pictures of a shape (B, C, H, W). Raises an error for none, and for a sheet that is too large."""
        batch, channels, height, width = shape
        if not batch:
            raise ValueError("image: expected one picture or more; found none")
        across = min(math.ceil(math.sqrt(batch)) if columns is None else columns, batch)
        down = math.ceil(batch / across)
        size = gap + down * (height + gap), gap + across * (width + gap)
        check_pixels(*size)
        corners = ((gap + i // across * (height + gap), gap + i % across * (width + gap)) for i in range(batch))
        return cls(
            (1, channels, *size), [(slice(top, top + height), slice(left, left + width)) for top, left in corners]
        )


@operation("image.grid")
def grid(
    image: Image,
    *,
    columns: Count | None = None,
    gap: Annotated[int, Range(low=0)] = 2,
    background: Annotated[float, Range(low=-1, high=1)] = 1.0,
) -> Image:
    """Arrange a batch (B, 3, H, W) on one sheet (1, 3, H', W'), row by row, as nearly square as possible.

    columns: pictures in a row. gap: pixels between pictures and around them. background: grey value in [-1, 1].
    """
    layout = Sheet.of(check_array("image", image, "(B, 3, H, W)", kinds="f").shape, columns, gap)
    sheet = np.full(layout.shape, background, dtype=image.dtype)
    for (rows, across), picture in zip(layout.windows, image, strict=True):
        sheet[0, :, rows, across] = picture
    return sheet
