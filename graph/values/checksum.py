"""Checksums of values: CRC-32 over the bytes of tensors, arrays and plain data.

A CRC-32 finds every single flipped bit and all but one in 2³² of other accidents, at memory speed (`zlib.crc32`). It is
no defence against somebody who alters a file on purpose and computes the checksum again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a dense CPU tensor in row-major order; a view of its memory if it is contiguous."""
    import torch

    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().data


def file_checksum(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """The checksum, 8 hexadecimal digits, of a file's metadata and its tensors: names, dtypes, shapes and bytes.

    The tensors are dense and on the CPU. The order of the names does not matter.
    """
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    crc = zlib.crc32(json.dumps([dict(metadata), shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensor_bytes(tensors[name]), crc)
    return f"{crc:08x}"
