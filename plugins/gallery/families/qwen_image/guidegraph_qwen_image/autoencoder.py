"""The video autoencoder of Qwen-Image for pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrameAutoencoder(nn.Module):
    """An `Autoencoder` of an `AutoencoderKLQwenImage`: latents are (z − latents_mean) / latents_std of one frame."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, config = network, network.config
        self.factor: int = network.spatial_compression_ratio
        for name, values in (("mean", config.latents_mean), ("std", config.latents_std)):
            value = torch.tensor(values, dtype=network.dtype, device=network.device).reshape(1, -1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w): the mode of the posterior.

        Raises ``ValueError`` for sides that are not multiples of the factor.
        """
        channels = self.network.config.input_channels
        if image.shape[1] != channels or image.shape[2] % self.factor or image.shape[3] % self.factor:
            raise ValueError(
                f"this autoencoder takes pictures of {channels} channels whose sides are multiples of {self.factor}; "
                f"found shape {tuple(image.shape)}: resize them with image.resize"
            )
        frames = image.to(self.network.dtype).unsqueeze(2)
        z: Tensor = self.network.encode(frames).latent_dist.mode().squeeze(2)
        return ((z - self.mean) / self.std).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, H, W)."""
        z = latent.to(self.network.dtype) * self.std + self.mean
        image: Tensor = self.network.decode(z.unsqueeze(2)).sample.squeeze(2)
        return image.to(latent.dtype)
