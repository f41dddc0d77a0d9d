"""PNG files that carry texts, such as the workflow and the parameters that made the picture."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from guidegraph_runtime.files import atomic_path

_KEYWORD_LENGTH = 79  # PNG specification, 11.3.3.1


def write_png(path: str | os.PathLike[str], array: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Write a grey (H W or H W 1), RGB (H W 3) or RGBA (H W 4) picture with `text` in its text chunks, atomically."""
    image = Image.fromarray(_pixels(array))
    info = PngInfo()
    for keyword, value in (text or {}).items():
        _check_text(keyword, value)
        info.add_itxt(keyword, value)  # always UTF-8
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def read_png_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts of a PNG file; ValueError where the file is none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            image.load()  # text may follow the pixels
            return {keyword: str(value) for keyword, value in image.text.items()}
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{os.fspath(path)} is not a PNG file") from error


def _pixels(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise ValueError(f"a picture's array must be uint8, not {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ValueError(
            f"a picture's array must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {array.shape}"
        )
    return np.ascontiguousarray(array)


def _check_text(keyword: str, value: str) -> None:
    if not (0 < len(keyword) <= _KEYWORD_LENGTH and keyword.isascii() and keyword.isprintable()):
        raise ValueError(f"a PNG keyword has 1 to {_KEYWORD_LENGTH} printable ASCII characters, not {keyword!r}")
    if "\0" in value:
        raise ValueError(f"a PNG text cannot hold a NUL character: {keyword}")
