"""Pixels as latents: a first stage with f = 1 and nothing to train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidegraph.nodes.shape_checks import check_channels


@dataclass(frozen=True)
class PixelSpaceConfig:
    """channels: number of channels of the pictures."""

    channels: int = 3


class PixelSpace(nn.Module):
    """An `Autoencoder` whose latent (B, 3, H, W) is the picture times `scale`, one over its standard deviation."""

    scale: Tensor

    def __init__(self, config: PixelSpaceConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("scale", torch.ones(()))

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1], of unit variance once the scale is measured."""
        check_channels(image, self.config.channels, "the first stage")
        return (image.to(self.scale.dtype) * self.scale).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """The pictures (B, C, H, W) of latents as `encode` gives them."""
        check_channels(latent, self.config.channels, "the first stage")
        return (latent.to(self.scale.dtype) / self.scale).to(latent.dtype)
