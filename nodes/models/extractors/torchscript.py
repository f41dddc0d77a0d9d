"""A TorchScript file as a feature extractor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScriptedFeatures(nn.Module):
    """A `FeatureExtractor`: pictures, converted to the network's range and size, to (B, D) float32."""

    def __init__(self, network: nn.Module, name: str, range: str, size: int | None, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.name, self.range, self.size, self.arguments = name, range, size, arguments

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """The features of pictures (B, 3, H, W) in [-1, 1]. Raises ``ValueError`` if the network does not fit."""
        x = self.prepare_pictures(image)
        try:
            features = self.network(x, **self.arguments)
        except Exception as error:  # of any kind; its text has many lines
            (*_, last) = str(error).strip().splitlines() or [""]
            raise ValueError(
                f"'{self.name}' failed on {x.dtype} pictures of shape {tuple(x.shape)}: {last.strip()}. Look at "
                "`range`, `size` and `arguments`"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[0] != image.shape[0]:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"'{self.name}' must give features (B, D), one row for each of {len(x)}; found {shape}")
        return (features.float(),)

    def prepare_pictures(self, image: Tensor) -> Tensor:
        return to_picture_range(image, self.range, self.size)


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
