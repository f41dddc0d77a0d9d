"""Weights as they are in a file: floats of one dtype, or int8 with a scale for every 64 values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = ":scale"
"""What follows the name of an int8 tensor in the name of its scales; no name of a parameter has a colon."""
BLOCK = 64
"""Values that share a scale."""
LEAST = 1024
"""Smaller tensors stay float16 in a file of int8."""
LARGEST = 127


def pack_weights(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file for a module's state, contiguous and on the CPU.

    dtype: of floating tensors with at least one axis; single numbers stay as they are. int8: tensors of two axes or
    more, and of `LEAST` values or more, become int8 with scales, NAME:scale; the others become float16.
    Raises ``ValueError`` for a finite value that the dtype does not hold.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if dtype == torch.int8 and tensor.is_floating_point() and tensor.ndim > 1 and tensor.numel() >= LEAST:
            packed[name], packed[name + SCALE] = quantise(tensor.detach().cpu())
        else:
            packed[name] = to_storage(tensor, torch.float16 if dtype == torch.int8 else dtype)
        stored = packed.get(name + SCALE, packed[name])
        if not stored.isfinite().all() and tensor.isfinite().all():
            raise ValueError(
                f"'{name}' has values up to {float(tensor.abs().max()):g}, which {stored.dtype} does not hold: save in "
                "bfloat16 or float32"
            )
    return packed


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as int8 in [−127, 127] of the same shape, and a float16 scale for every `BLOCK` values in order.

    Their product differs from the weight by at most half a scale, and by half a per mille of the block's largest value.
    """
    blocks = _to_blocks(weight.float().reshape(-1))
    smallest = torch.finfo(torch.float16).smallest_normal
    scale = (blocks.abs().amax(1) / LARGEST).clamp(min=smallest).half()
    values = (blocks / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return values.reshape(-1)[: weight.numel()].reshape(weight.shape).contiguous(), scale


def unpack_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's state from the tensors of a file; int8 with scales becomes float32. Raises ``ValueError``."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            if (weight := name.removesuffix(SCALE)) not in tensors:
                raise ValueError(f"'{name}' has the scales of no tensor: the file lacks '{weight}'")
        elif (scale := tensors.get(name + SCALE)) is None:
            state[name] = tensor
        else:
            blocks = -(-tensor.numel() // BLOCK)
            if tensor.dtype != torch.int8 or scale.dtype != torch.float16 or scale.shape != (blocks,):
                raise ValueError(
                    f"'{name}' has scales: expected int8 and a float16 for every {BLOCK} values, found {tensor.dtype} "
                    f"{tuple(tensor.shape)} and {scale.dtype} {tuple(scale.shape)}"
                )
            values = _to_blocks(tensor.reshape(-1).float()) * scale.float()[:, None]
            state[name] = values.reshape(-1)[: tensor.numel()].reshape(tensor.shape)
    return state


def _to_blocks(values: Tensor) -> Tensor:
    """Values (N) as rows of `BLOCK`, the last one filled up with zeros."""
    return F.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)


def to_storage(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the CPU; floating tensors of at least one axis in `dtype`, single numbers as they are."""
    narrow = tensor.is_floating_point() and tensor.ndim > 0
    return tensor.detach().to(device="cpu", dtype=dtype if narrow else tensor.dtype).contiguous()
