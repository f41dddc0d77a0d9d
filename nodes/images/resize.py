"""Resizing with antialiasing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_antialiased(x: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize x (B, C, H, W) to size (H, W), bilinear or bicubic, in its dtype.

    Half precision is computed in float32: torch has no half-precision kernel for this on a CPU.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(wide, size, mode=mode, antialias=True).to(x.dtype)
