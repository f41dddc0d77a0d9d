"""What every autoencoder of pictures does around its networks: checks, dtypes and the scale of the latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.nodes.shape_checks import check_channels, check_sides


class ScaledAutoencoder(nn.Module, ABC):
    """An `Autoencoder` that owns the scale of its latents; its config has in_channels, latent_channels and factor."""

    config: Any
    scale: Tensor | float

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the weights: that of the computation."""

    @abstractmethod
    def latent(self, image: Tensor) -> Tensor:
        """The latent (B, c, h, w) of pictures, unscaled."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """The picture (B, 3, H, W) of an unscaled latent."""

    def encode(self, image: Tensor) -> Tensor:
        """The latent (B, c, h, w) of pictures (B, 3, H, W) in [-1, 1], scaled to unit variance."""
        check_channels(image, self.config.in_channels, "the autoencoder")
        check_sides(image, self.config.factor, "the autoencoder")
        return (self.latent(image.to(self.dtype)) * self.scale).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1], of latents as `encode` gives them."""
        check_channels(latent, self.config.latent_channels, "the decoder")
        return self.reconstruct(latent.to(self.dtype) / self.scale).to(latent.dtype)
