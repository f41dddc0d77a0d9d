"""PNG files with texts, such as the workflow and the parameters of the picture.

Pillow is not used to write them, since importing it takes longer than writing a picture.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.files.atomic_write import write_bytes
from guidegraph_runtime.files.regular_files import open_regular
from guidegraph_runtime.pictures.picture_files import open_picture

_KEYWORD_LENGTH = 79  # PNG specification, 11.3.3.1
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # 11.2.1, by channels: grey, RGB, RGBA
_DEPTH = 8
_BLOCK_ROWS = 64
"""How many rows are filtered at once: the trials take about 30 times their memory."""


def write_png(path: str | os.PathLike[str], array: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Write a grey (H W or H W 1), RGB (H W 3) or RGBA (H W 4) picture with `text` in its text chunks, atomically."""
    write_bytes(path, encode_png(array, text))


def encode_png(array: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """A grey (H W or H W 1), RGB (H W 3) or RGBA (H W 4) picture as the bytes of a PNG, `text` in its text chunks."""
    if array.dtype != np.uint8:
        raise ValueError(f"a picture's array must be uint8, not {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _COLOUR_TYPES)) or 0 in array.shape:
        raise ValueError(
            f"a picture's array must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {array.shape}"
        )
    pixels = array.reshape(*array.shape[:2], -1)
    height, width, channels = pixels.shape
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((_DEPTH, _COLOUR_TYPES[channels], 0, 0, 0))
    chunks = [_chunk(b"IHDR", header), *_text_chunks(text or {})]
    chunks += [_chunk(b"IDAT", zlib.compress(_filter_rows(pixels).tobytes())), _chunk(b"IEND", b"")]
    return _SIGNATURE + b"".join(chunks)


def add_png_text(path: Path, text: Mapping[str, str]) -> None:
    """Put texts into a PNG file, right behind its header. Raises ``ValueError`` for any other file."""
    with open_regular(path) as file:
        data = file.read()
    start = len(_SIGNATURE) + 25  # the header's chunk: its length, name, 13 bytes and checksum
    if not data.startswith(_SIGNATURE) or len(data) < start:
        raise ValueError(f"{path} is not a PNG file")
    path.write_bytes(data[:start] + b"".join(_text_chunks(text)) + data[start:])


def _text_chunks(text: Mapping[str, str]) -> list[bytes]:
    chunks = []
    for keyword, value in text.items():
        if not (0 < len(keyword) <= _KEYWORD_LENGTH and keyword.isascii() and keyword.isprintable()):
            raise ValueError(f"a PNG keyword has 1 to {_KEYWORD_LENGTH} printable ASCII characters, not {keyword!r}")
        if "\0" in value:
            raise ValueError(f"a PNG text cannot hold a NUL character: {keyword}")
        # 11.3.3.4: uncompressed, no language, UTF-8.
        chunks.append(_chunk(b"iTXt", keyword.encode() + b"\0" * 5 + value.encode()))
    return chunks


def read_png_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the texts of a PNG file. Raises ``ValueError`` for any other file."""
    from PIL import UnidentifiedImageError
    from PIL.PngImagePlugin import PngImageFile

    try:
        with open_regular(path) as file, open_picture(file, os.fspath(path), ("PNG",)) as image:
            assert isinstance(image, PngImageFile)
            image.load()  # text may follow the pixels
            return {keyword: str(value) for keyword, value in image.text.items()}
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{os.fspath(path)} is not a PNG file") from error


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def _filter_rows(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Filter each row and prepend the filter's number (9.2): the one with the smallest sum of signed bytes (12.7)."""
    height, width, channels = pixels.shape
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    above = np.zeros((width, channels), np.uint8)
    for start in range(0, height, _BLOCK_ROWS):
        block = np.concatenate([above[None], pixels[start : start + _BLOCK_ROWS]])
        above, x = block[-1], np.pad(block, ((0, 0), (1, 0), (0, 0))).astype(np.int16)
        current, a, b, c = x[1:, 1:], x[1:, :-1], x[:-1, 1:], x[:-1, :-1]  # pixel, left, above, above left
        to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
        paeth = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))  # 9.4
        predictions = (np.zeros_like(current), a, b, (a + b) >> 1, paeth)
        rows = np.stack([(current - guess).astype(np.uint8).reshape(len(current), -1) for guess in predictions])
        chosen = np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=2).argmin(axis=0)
        filtered[start : start + len(current), 0] = chosen
        filtered[start : start + len(current), 1:] = rows[chosen, np.arange(len(current))]
    return filtered
