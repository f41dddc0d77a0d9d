"""Converts pictures to the value range and size that an external network takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_picture_range(image: Tensor, range: str, size: int | None) -> Tensor:
    """Convert pictures (B, 3, H, W) in [-1, 1] to float32 in `range`, resized to `size` × `size` unless it is None.

    range: "-1..1", "0..1", "0..255" (integers as floats), or "uint8" (bytes). Bilinear with antialiasing.
    """
    x = image.float()
    if size is not None and x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    if range == "-1..1":
        return x
    if range == "0..1":
        return (x + 1) / 2
    levels = ((x + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8) if range == "uint8" else levels
