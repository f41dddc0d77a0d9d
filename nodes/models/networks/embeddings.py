"""Sinusoidal embeddings of times and of the sizes of pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def timestep_embedding(t: Tensor, width: int, *, sine_first: bool = False, frequency_shift: int = 0) -> Tensor:
    """Sinusoidal embedding (B, width) float32 of times (B), of frequencies 10000^(−i / (width/2 − frequency_shift))."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(10_000.0) / (half - frequency_shift) * steps)[None]
    waves = (torch.sin(angles), torch.cos(angles)) if sine_first else (torch.cos(angles), torch.sin(angles))
    return F.pad(torch.cat(waves, dim=1), (0, width % 2))


def embed_sizes(sizes: Tensor, width: int) -> Tensor:
    """SDXL's embedding (1, 6 · width), float32, of six sizes in pixels (Podell et al. 2023, section 2.2).

    sizes: (6) float32, height and width before scaling, rows and columns cropped at the top and at the left, and
    height and width of the result.
    """
    return timestep_embedding(sizes, width).reshape(1, -1)
