"""GGUF's formats of few bits, a value at a time, from ggml's description of their blocks (ggml-common.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


def half(data: bytes) -> float:
    value: float = struct.unpack("<e", data)[0]
    return value


def q8_0(block: bytes) -> list[float]:
    """A scale, then 32 signed bytes."""
    return [half(block[:2]) * value for value in struct.unpack("<32b", block[2:34])]


def q4_0(block: bytes) -> list[float]:
    """A scale, then 16 bytes: low nibbles are the first half, high ones the second, each less 8."""
    scale, nibbles = half(block[:2]), block[2:18]
    return [scale * ((byte & 15) - 8) for byte in nibbles] + [scale * ((byte >> 4) - 8) for byte in nibbles]


def q5_0(block: bytes) -> list[float]:
    """A scale, the fifth bits of 32 values, then their nibbles as in q4_0, less 16."""
    scale, high, nibbles = half(block[:2]), int.from_bytes(block[2:6], "little"), block[6:22]
    low = [byte & 15 for byte in nibbles] + [byte >> 4 for byte in nibbles]
    return [scale * ((value | (high >> i & 1) << 4) - 16) for i, value in enumerate(low)]


def scale_and_least(scales: bytes, index: int) -> tuple[int, int]:
    """The six bits each of a part's scale and minimum, packed into 12 bytes for 8 parts (K formats)."""
    if index < 4:
        return scales[index] & 63, scales[index + 4] & 63
    low = scales[index + 4]
    return (low & 15) | (scales[index - 4] >> 6) << 4, (low >> 4) | (scales[index] >> 6) << 4


def q4_k(block: bytes) -> list[float]:
    """Two scales of scales, 12 bytes of scales and minima, and 4 × 32 bytes: two parts of 32 values in each 32."""
    factor, least_factor, scales, nibbles = half(block[:2]), half(block[2:4]), block[4:16], block[16:144]
    values = []
    for part in range(8):
        scale, least = scale_and_least(scales, part)
        for byte in nibbles[32 * (part // 2) : 32 * (part // 2) + 32]:
            value = byte >> 4 if part % 2 else byte & 15
            values.append(factor * scale * value - least_factor * least)
    return values


def q5_k(block: bytes) -> list[float]:
    """As q4_k, with 32 bytes before the nibbles: bit p of byte i is the fifth of value i of part p."""
    factor, least_factor, scales, high, nibbles = (
        half(block[:2]), half(block[2:4]), block[4:16], block[16:48], block[48:176],
    )  # fmt: skip
    values = []
    for part in range(8):
        scale, least = scale_and_least(scales, part)
        for i in range(32):
            byte = nibbles[32 * (part // 2) + i]
            value = (byte >> 4 if part % 2 else byte & 15) | (high[i] >> part & 1) << 4
            values.append(factor * scale * value - least_factor * least)
    return values


def q6_k(block: bytes) -> list[float]:
    """128 bytes of nibbles, 64 of upper pairs of bits, 16 signed scales, and a scale of scales; less 32."""
    low, high, scales, factor = block[:128], block[128:192], struct.unpack("<16b", block[192:208]), half(block[208:])
    values = []
    for index in range(256):
        whole, rest = divmod(index, 128)
        quarter, place = divmod(rest, 32)
        byte = low[64 * whole + 32 * (quarter % 2) + place]
        nibble = byte >> 4 if quarter >= 2 else byte & 15
        pair = high[32 * whole + place] >> (2 * quarter) & 3
        values.append(factor * scales[index // 16] * ((nibble | pair << 4) - 32))
    return values


FORMATS: Mapping[str, tuple[int, int, Callable[[bytes], list[float]], tuple[int, ...]]] = {
    "Q8_0": (32, 34, q8_0, (0,)),
    "Q4_0": (32, 18, q4_0, (0,)),
    "Q5_0": (32, 22, q5_0, (0,)),
    "Q4_K": (256, 144, q4_k, (0, 2)),
    "Q5_K": (256, 176, q5_k, (0, 2)),
    "Q6_K": (256, 210, q6_k, (208,)),
}
"""Values and bytes of a block, its meaning, and where its half-precision scales are."""


def random_blocks(name: str, values: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random blocks (N, bytes) of a format, with scales near 0.01."""
    generator = np.random.default_rng(seed)
    size, length, _, places = FORMATS[name]
    blocks = generator.integers(0, 256, (values // size, length), dtype=np.uint8)
    for place in places:
        scales = generator.uniform(0.005, 0.02, values // size).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def values_of(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The values of blocks, float64."""
    return np.array([value for block in blocks for value in FORMATS[name][2](bytes(block))])
