"""Weights in eight-bit floating point (fp8: e4m3fn, e5m2), plain or with scales.

Micikevicius et al. 2022 (arXiv:2209.05433) for the formats. A weight is its stored value times its scale; several
conventions name and shape the scales, and none is official.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.quantised.deferred import DeferredTensor, count_stored_bytes

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
FORMATS = ("float8_e4m3fn", "float8_e5m2")
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
"""Names of the scale of a layer's `weight`, also of that with blocks, which is a factor whatever its name says."""

UNUSED = ("scale_input", "input_scale")
"""Names of the scale of a layer's input, for arithmetic in fp8."""

MARK, LAYER_MARK = "scaled_fp8", "comfy_quant"
"""Name of an empty tensor that marks a file, and of the JSON that gives the format of a layer."""

Sharing: TypeAlias = Literal["all", "rows", "parts", "tiles"]
"""Which values of a weight share one number of its scale."""

TILE = 128
"""Side of the squares of a weight that share a scale, where scales have two axes."""


def dequantise(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Replace weights in fp8, and weights with a scale, by deferred tensors; scales and marks are left out.

    Raises ``ValueError`` that names the file for a scale without its weight or of a shape that does not fit, and for
    other formats of few bits.
    """
    plain: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        weight = f"{owner}.weight".removeprefix(".")
        if last in SCALES and tensor.is_floating_point():
            _check_scale(tensors, name, weight, scales, path)
            scales[weight] = tensor
        elif last == LAYER_MARK and weight in tensors:
            _check_format(tensor, name, path)
        elif not (last == MARK or (last in UNUSED and weight in tensors)):
            plain[name] = tensor
    for name, tensor in plain.items():
        if tensor.dtype in FLOAT8 or name in scales:
            plain[name] = _defer(tensor, scales.get(name), name, path)
    return plain


def _check_scale(
    tensors: Mapping[str, Tensor], name: str, weight: str, scales: Mapping[str, Tensor], path: Path
) -> None:
    if weight not in tensors:
        raise ValueError(f"'{path}' holds {name} and no {weight} that it scales: the file is incomplete")
    if weight in scales:
        raise ValueError(f"'{path}' holds two scales of {weight}, one of them {name}: keep one")
    if not tensors[weight].is_floating_point():
        kind = str(tensors[weight].dtype).removeprefix("torch.")
        raise ValueError(
            f"'{path}' holds {weight} as {kind} with scales, a format that is not read: take the file in "
            f"{' or '.join(FORMATS)}, GGUF, or half precision"
        )


def _check_format(tensor: Tensor, name: str, path: Path) -> None:
    """Raise ``ValueError`` if a layer's mark, JSON as bytes, names another format than fp8."""
    try:
        mark = json.loads(bytes(tensor.flatten().to(torch.uint8).tolist()).decode())
        layout = mark["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"'{path}': {name} is not JSON that names a format: the file is damaged") from None
    if layout not in FORMATS:
        raise ValueError(
            f"'{path}': {name} names the format {layout!r:.40}; take the file in {' or '.join(FORMATS)}, GGUF, or half "
            "precision"
        )


def _defer(tensor: Tensor, scale: Tensor | None, name: str, path: Path) -> Tensor:
    """A weight as float32 times its scale, computed when it is used."""
    sharing = None if scale is None else find_sharing(scale.shape, tensor.shape)
    if scale is not None and sharing is None:
        raise ValueError(
            f"'{path}': the scale of {name} has the shape {tuple(scale.shape)}, which fits no rows or blocks of the "
            f"weight's {tuple(tensor.shape)}: the file is damaged, or its convention is not known"
        )
    if tensor.is_meta:
        return tensor.float()
    if not tensor.ndim:
        return tensor.float() if scale is None else tensor.float() * scale.float().reshape(())

    def read_rows(start: int, stop: int) -> Tensor:
        rows = tensor[start:stop].float()
        return rows if scale is None or sharing is None else apply_scale(rows, scale.float(), sharing, start)

    return DeferredTensor(tensor.shape, read_rows, count_stored_bytes(tensor))


def find_sharing(scale: Sequence[int], weight: Sequence[int]) -> Sharing | None:
    """How values of a weight share the numbers of a scale, by their shapes; None if they do not fit."""
    numbers = math.prod(scale)
    if numbers == 1:
        return "all"
    if scale and weight and scale[0] == weight[0]:
        if numbers == weight[0]:
            return "rows"
        if len(scale) == 3 and scale[2] == 1 and len(weight) == 2 and weight[1] % scale[1] == 0:
            return "parts"
    is_tiled = len(weight) == 2 and tuple(scale) == (-(-weight[0] // TILE), -(-weight[1] // TILE))
    return "tiles" if is_tiled else None


def apply_scale(rows: Tensor, scale: Tensor, sharing: Sharing, start: int) -> Tensor:
    """Multiply the rows (R, …) of a weight from `start` by its scale.

    The scale is one number for all; (N) or (N, 1, …) for rows; (N, K, 1) for K equal parts of each row; or
    (⌈N / 128⌉, ⌈M / 128⌉) for tiles of a weight (N, M).
    """
    if sharing == "all":
        return rows * scale.reshape(())
    if sharing == "tiles":
        indices = torch.arange(start, start + rows.shape[0]) // TILE
        return rows * scale[indices].repeat_interleave(TILE, dim=1)[:, : rows.shape[1]]
    own = scale[start : start + rows.shape[0]]
    if sharing == "parts":
        scaled: Tensor = rows.unflatten(1, (scale.shape[1], -1)) * own
        return scaled.flatten(1)
    return rows * own.reshape(-1, *[1] * (rows.ndim - 1))
