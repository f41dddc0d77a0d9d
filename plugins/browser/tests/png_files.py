"""PNG files of every kind: Pillow writes only some of those that it reads."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""The samples of a pixel, by the colour type."""
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def write_png(
    samples: NDArray[Any], kind: int, depth: int, *, interlaced: bool = False, chunks: dict[str, bytes] | None = None
) -> bytes:
    """A PNG of samples (H, W, C). kind: the colour type. chunks: those before the data, such as PLTE and tRNS."""
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    parts = [
        samples[top::down, left::across] for left, top, across, down in (PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    data = b"".join(_pack_lines(part, depth) for part in parts if part.size)
    listed = {"IHDR": header, **(chunks or {}), "IDAT": zlib.compress(data), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), content) for name, content in listed.items())


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _pack_lines(samples: NDArray[Any], depth: int) -> bytes:
    """The lines of a pass, filtered in turn by each of the five filters."""
    height, width, channels = samples.shape
    values = samples.reshape(height, width * channels)
    if depth == 16:
        lines = values.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        lines = values.astype(np.uint8)
    else:
        bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    above = np.zeros_like(lines[0])
    packed = []
    for row, line in enumerate(lines):
        shifted = [np.concatenate([np.zeros(step, np.uint8), values])[: len(values)] for values in (line, above)]
        left, over, corner = (values.astype(int) for values in (shifted[0], above, shifted[1]))
        distances = np.abs([over - corner, left - corner, left + over - 2 * corner])
        paeth = np.choose(distances.argmin(0), [left, over, corner])
        expected = (np.zeros_like(left), left, over, (left + over) // 2, paeth)[row % 5]
        packed.append(bytes([row % 5]) + ((line - expected) % 256).astype(np.uint8).tobytes())
        above = line
    return b"".join(packed)
