"""Random damage to pictures, as from an autoencoder or a half-trained generator, to train a detector on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guidegraph.graph.training.ranks import local_rows


def degrade(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, tint, soil, shift and mirror pictures (B, 3, H, W) in [-1, 1] at random."""
    height, width = image.shape[2:]
    image = soil(image, generator)
    down, right, mirror = (float(torch.rand(1, generator=generator)) for _ in range(3))
    top, left = int(7 * down), int(7 * right)
    image = F.pad(image, (3, 3, 3, 3), mode="replicate")[:, :, top : top + height, left : left + width]
    return (image.flip(3) if mirror < 0.5 else image).clamp(-1, 1)


def soil(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, tint and soil pictures (B, 3, H, W) at random, without moving anything. Values stay roughly in [-1, 1]."""

    def uniform(batch: int, *shape: int) -> Tensor:
        return local_rows(batch, lambda count: torch.rand((count, *shape), generator=generator))

    def normal(batch: int, *shape: int) -> Tensor:
        return local_rows(batch, lambda count: torch.randn((count, *shape), generator=generator))

    batch, _, height, width = image.shape
    image = blur(image, 0.56 + 0.44 * float(torch.rand(1, generator=generator)))
    image = image * (0.9 + 0.2 * uniform(batch, 3, 1, 1)) + 0.16 * (uniform(batch, 3, 1, 1) - 0.5)
    stains = F.interpolate(
        normal(batch, 3, max(height // 4, 1), max(width // 4, 1)), size=(height, width), mode="bilinear"
    )
    return image + 0.12 * uniform(batch, 1, 1, 1) * stains + 0.10 * uniform(batch, 1, 1, 1) * normal(*image.shape)


def blur(image: Tensor, scale: float) -> Tensor:
    """Blur pictures by scaling them down by `scale` and up again."""
    height, width = image.shape[2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    if size == (height, width):
        return image
    small = F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)


def shift_and_mirror(sample: Tensor, pixels: int, u: Tensor) -> Tensor:
    """Shift samples (B, C, H, W) by up to `pixels` each and mirror half of them; u (3, B) is uniform in [0, 1)."""
    height, width = sample.shape[2:]
    padded = F.pad(sample, (pixels,) * 4, mode="replicate")
    down, right = (u[:2] * (2 * pixels + 1)).long()
    shifted = [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(zip(down, right, strict=True))]
    batch = torch.stack(shifted)
    return torch.where((u[2] < 0.5)[:, None, None, None], batch.flip(3), batch)
