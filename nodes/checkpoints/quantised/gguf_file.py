"""Reads GGUF files of image models; the `gguf` package knows the formats of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidegraph.graph.trust.file_checks import open_regular
from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor
from guidegraph.nodes.checkpoints.quantised.gguf_header import (
    MAX_SIDE,
    DamagedHeader,
    GgufHeader,
    TensorInfo,
    read_header,
)
from guidegraph_runtime.machine.optional_packages import install_command

PLAIN: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Types whose values are stored one by one."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Beginning of the keys with the shapes of tensors that were stored with rows of another length."""

UNET = "model.diffusion_model."
UNETS = ("sd1", "sdxl")
"""Architectures whose files leave out the beginning that the single files of these models give their names."""

CHUNK = 1 << 18
"""Values that are computed at once: some steps need several times their memory."""


def read_gguf(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a GGUF file by name, memory-mapped; those in few bits are deferred, float32.

    The U-Nets of Stable Diffusion get the names of their single files. Raises ``ValueError`` that names the file if it
    is damaged or has weights of a type that cannot be read, or if the gguf package is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"'{path}' is a GGUF file, which the gguf package reads, and it is not installed: {install_command('gguf')}"
        ) from None
    with open_regular(path) as file:
        data = np.memmap(file, dtype=np.uint8, mode="c")
    try:
        header = read_header(data.data)
        tensors = {info.name: _read_tensor(info, header, data, gguf) for info in header.tensors}
    except DamagedHeader as error:
        raise ValueError(f"'{path}' is a damaged or truncated GGUF file ({error}): fetch or save it again") from None
    if header.metadata.get("general.architecture") in UNETS and not any(name.startswith(UNET) for name in tensors):
        return {UNET + name: tensor for name, tensor in tensors.items()}
    return tensors


def _read_tensor(info: TensorInfo, header: GgufHeader, data: NDArray[np.uint8], gguf: Any) -> Tensor:
    """Map a tensor. Raises ``DamagedHeader`` if it is not within the file, or of an unknown type."""
    try:
        kind = gguf.GGMLQuantizationType(info.type)
    except ValueError:
        raise DamagedHeader(f"'{info.name:.60}' has the type {info.type}, which is not known") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if info.shape[-1] % block:
        raise DamagedHeader(f"'{info.name:.60}' has rows of {info.shape[-1]}, no multiple of {kind.name}'s {block}")
    size = info.values // block * block_bytes
    if info.offset + size > len(data):
        raise DamagedHeader(f"'{info.name:.60}' ends beyond the {len(data)} bytes of the file")
    packed = data[info.offset : info.offset + size]
    shape = _find_shape(info, header)
    if kind.name in PLAIN:
        return (
            torch.from_numpy(np.array(packed) if info.offset % block_bytes else packed)
            .view(PLAIN[kind.name])
            .view(shape)
        )
    if not _can_dequantise(kind, block_bytes):
        raise DamagedHeader(f"'{info.name:.60}' has the type {kind.name}, which this gguf package cannot read")
    blocks = packed.reshape(-1, block_bytes)
    row = math.prod(shape[1:])

    def read_rows(start: int, stop: int) -> Tensor:
        return dequantise_values(blocks, block, kind, start * row, stop * row, gguf).reshape(stop - start, *shape[1:])

    return DeferredTensor(shape, read_rows, size)


@cache
def _can_dequantise(kind: Any, block_bytes: int) -> bool:
    """Whether the gguf package computes values of a type."""
    import gguf

    try:
        gguf.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _find_shape(info: TensorInfo, header: GgufHeader) -> tuple[int, ...]:
    """The shape of a tensor before it was stored."""
    original = header.metadata.get(ORIGINAL_SHAPE + info.name)
    if original is None:
        return info.shape
    if not isinstance(original, list) or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in original):
        raise DamagedHeader(f"the original shape of '{info.name:.60}' is {original!r:.60}")
    if not original or math.prod(original) != info.values:
        raise DamagedHeader(f"the original shape of '{info.name:.60}', {original}, has not its {info.values} values")
    return tuple(original)


def dequantise_values(blocks: NDArray[np.uint8], block: int, kind: Any, start: int, stop: int, gguf: Any) -> Tensor:
    """Compute the values start … stop − 1, float32, of blocks (N, bytes) that hold `block` values each."""
    values = torch.empty(stop - start)
    out = values.numpy()
    step = CHUNK // block
    for first in range(start // block, -(-stop // block), step):
        last = min(first + step, -(-stop // block))
        piece = gguf.dequantize(blocks[first:last].reshape(1, -1), kind).reshape(-1)
        low, high = max(start, first * block), min(stop, last * block)
        out[low - start : high - start] = piece[low - first * block : high - first * block]
    return values
