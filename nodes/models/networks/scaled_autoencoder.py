"""What every autoencoder of pictures does around its networks: checks, dtypes, scale and shift of the latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph.nodes.shape_checks import check_channels, check_sides


class ScaledAutoencoder(nn.Module, ABC):
    """An `Autoencoder` that owns the scale of its latents; its config has in_channels, latent_channels and factor.

    shift: the mean of unscaled latents, which is taken away before they are scaled.
    """

    config: Any
    scale: Tensor | float
    shift: float = 0.0

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""

    @abstractmethod
    def latent(self, image: Tensor) -> Tensor:
        """The latent (B, c, h, w) of pictures, unscaled."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """The picture (B, 3, H, W) of an unscaled latent."""

    def encode(self, image: Tensor) -> Tensor:
        """The latent (B, c, h, w) of pictures (B, 3, H, W) in [-1, 1], shifted and scaled to unit variance."""
        check_channels(image, self.config.in_channels, "the autoencoder")
        check_sides(image, self.config.factor, "the autoencoder")
        z = self.latent(image.to(self.dtype))
        return ((z - self.shift if self.shift else z) * self.scale).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1], of latents as `encode` gives them."""
        check_channels(latent, self.config.latent_channels, "the decoder")
        z = latent.to(self.dtype) / self.scale
        return self.reconstruct(z + self.shift if self.shift else z).to(latent.dtype)
