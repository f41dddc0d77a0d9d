"""The KL autoencoder: pictures in [-1, 1] to latents of unit variance, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.layers import Downsample, ResidualBlock, Upsample, group_norm

INITIAL_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of a KLAutoencoder; f = patch · 2^(len(multipliers) − 1).

    `patch` folds patch × patch pixels into channels before the first convolution, and unfolds them
    after the last, which saves most of the work at full resolution.
    """

    in_channels: int = 3
    latent_channels: int = 4
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    patch: int = 2

    @property
    def factor(self) -> int:
        """How many pixels one latent cell spans on a side."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


def stages(config: AutoencoderConfig) -> list[int]:
    """The width of each resolution, finest first."""
    return [config.channels * multiplier for multiplier in config.multipliers]


def build_encoder(config: AutoencoderConfig) -> nn.Sequential:
    """Picture (B, 3, H, W) to moments (B, 2 c, H/f, W/f)."""
    widths = stages(config)
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(config.patch),
        nn.Conv2d(config.in_channels * config.patch**2, widths[0], 3, padding=1),
    ]
    width = widths[0]
    for level, next_width in enumerate(widths):
        if level:
            layers.append(Downsample(width))
        for _ in range(config.blocks):
            layers.append(ResidualBlock(width, next_width))
            width = next_width
    layers += [ResidualBlock(width, width), group_norm(width), nn.SiLU()]
    head = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)
    if head.bias is not None:  # a small variance at first, or the decoder learns to ignore a latent drowned in noise
        nn.init.constant_(head.bias[config.latent_channels :], INITIAL_LOG_VARIANCE)
    return nn.Sequential(*layers, head)


def build_decoder(config: AutoencoderConfig) -> nn.Sequential:
    """Latent (B, c, H/f, W/f) to picture (B, 3, H, W)."""
    widths = stages(config)[::-1]
    width = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), ResidualBlock(width, width)]
    for level, next_width in enumerate(widths):
        if level:
            layers.append(Upsample(width))
        for _ in range(config.blocks + 1):
            layers.append(ResidualBlock(width, next_width))
            width = next_width
    layers += [group_norm(width), nn.SiLU()]
    layers += [nn.Conv2d(width, config.in_channels * config.patch**2, 3, padding=1), nn.PixelShuffle(config.patch)]
    return nn.Sequential(*layers)


class KLAutoencoder(nn.Module):
    """A KL-regularised autoencoder (Rombach et al. 2022, section 3.1) that owns the scale of its latents.

    The buffer `scale` is measured after training (one over the standard deviation of the latents), so
    that `encode` gives unit variance and the caller never sees the factor.
    """

    scale: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config)
        self.register_buffer("scale", torch.ones(()))

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (B, c, h, w), unscaled."""
        moments = self.encoder(image)
        width = self.config.latent_channels
        return moments[:, :width], moments[:, width:].clamp(-30.0, 20.0)

    def reconstruct(self, z: Tensor) -> Tensor:
        """The picture (B, 3, H, W) of an unscaled latent."""
        picture: Tensor = self.decoder(z)
        return picture

    def encode(self, image: Tensor) -> Tensor:
        """The mean latent (B, c, h, w) of pictures (B, 3, H, W) in [-1, 1], scaled to unit variance."""
        mean, _ = self.moments(image.to(self.scale.dtype))
        return (mean * self.scale).to(image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1], of latents as `encode` gives them."""
        return self.reconstruct(latent.to(self.scale.dtype) / self.scale).to(latent.dtype)

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from a sample of q(z | x) with the given standard normal noise, mean and log-variance."""
        mean, log_variance = self.moments(image)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return self.reconstruct(z), mean, log_variance


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) ‖ N(0, 1)), summed over latent elements and averaged over the batch."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the horizontal and vertical differences: a light term for sharp edges."""
    error = prediction - target
    return F.l1_loss(error[..., 1:], error[..., :-1]) + F.l1_loss(error[..., 1:, :], error[..., :-1, :])
