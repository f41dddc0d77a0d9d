"""Read and resize picture files; transparent pictures are put on a white background."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from guidegraph_runtime.files.regular_files import open_regular
from guidegraph_runtime.limits import LimitExceeded, check_limit
from guidegraph_runtime.machine.optional_packages import import_optional

if TYPE_CHECKING:
    import PIL.Image

T = TypeVar("T")

_OPENING = Lock()
"""Held while Pillow's limit is disabled, so that no other thread saves the disabled value."""

Resize: TypeAlias = Literal["crop", "pad", "stretch"]


File: TypeAlias = Path | bytes
"""A file's path, or its contents as bytes."""


def file_name(file: File) -> str:
    """The name of a file in error messages."""
    return file.name if isinstance(file, Path) else f"the file of {len(file)} bytes"


def read_picture(file: File, prepare: Callable[[PIL.Image.Image], T]) -> T:
    """Read a picture file, or the first frame of an animation, and return the result of `prepare`.

    Raises ``FileNotFoundError`` if there is no file, ``ValueError`` if it is not a picture.
    """
    import_optional("PIL.Image", "a picture file")
    from PIL import UnidentifiedImageError

    if isinstance(file, Path) and not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    stream = open_regular(file) if isinstance(file, Path) else BytesIO(file)
    try:
        with stream, open_picture(stream, file_name(file)) as picture:
            picture.load()
            return prepare(picture)
    except LimitExceeded:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{file_name(file)} is not a picture that Pillow can read") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file_name(file)} cannot be read as a picture: {error}") from error


def open_picture(stream: IO[bytes], name: str, formats: tuple[str, ...] | None = None) -> PIL.Image.Image:
    """Open a picture, reading only its header. name: the picture's name in error messages.

    Raises ``LimitExceeded`` for a picture with too many pixels. That limit replaces Pillow's own.
    """
    from PIL import Image

    with _OPENING:
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(stream, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit
    width, height = picture.size
    check_limit("pixels", width * height, f"{name} has {width:,} × {height:,} = {width * height:,} pixels")
    return picture


def read_rgb(file: File) -> PIL.Image.Image:
    """Read a picture file as RGB: rotated by its EXIF data, transparent parts over white, 16 bits of grey scaled to 8.

    Raises the errors of `read_picture`, and ``ValueError`` for floating-point numbers, whose range is unknown.
    """
    import_optional("PIL.ImageOps", "a picture file")
    from PIL import Image, ImageOps

    picture = read_picture(file, ImageOps.exif_transpose)
    if picture.mode == "F":
        raise ValueError(f"{file_name(file)} holds floating-point numbers of unknown range: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _to_8_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def resize_picture(picture: PIL.Image.Image, size: tuple[int, int], how: Resize) -> PIL.Image.Image:
    """Resize a picture to (height, width): cropped at the centre, padded with white, or stretched."""
    from PIL import Image, ImageOps

    target = (size[1], size[0])
    if picture.size == target:
        return picture
    if how == "crop":
        return ImageOps.fit(picture, target, Image.Resampling.LANCZOS)
    if how == "pad":
        return ImageOps.pad(picture, target, Image.Resampling.LANCZOS, color=(255, 255, 255))
    return picture.resize(target, Image.Resampling.LANCZOS)


def _to_8_bits(picture: PIL.Image.Image) -> PIL.Image.Image:
    """16 bits of grey scaled to 8, with an alpha channel if a value of grey is transparent."""
    from PIL import Image

    if picture.mode == "I;16B":  # big-endian, which point() refuses
        picture = picture.convert("I")
    scaled = picture.point(lambda grey: grey / 257).convert("L")  # convert() alone would clip to 255
    transparent_grey = scaled.info.pop("transparency", None)
    if transparent_grey is not None:
        scaled.putalpha(Image.fromarray(np.where(np.asarray(picture) == transparent_grey, 0, 255).astype(np.uint8)))
    return scaled
