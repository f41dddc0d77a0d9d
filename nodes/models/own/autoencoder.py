"""Autoencoders, KL- and VQ-regularised: pictures in [-1, 1] to latents of unit variance, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.scaled_autoencoder import ScaledAutoencoder
from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, Upsample, group_norm
from guidegraph.nodes.models.own.quantiser import VectorQuantiser
from guidegraph.nodes.shape_checks import check_channels

INITIAL_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class AutoencoderConfig:
    """Hyper-parameters of an autoencoder; f = patch · 2^(len(multipliers) − 1).

    `patch` folds patch × patch pixels into channels before the first convolution, and unfolds them
    after the last, which saves most of the work at full resolution. `detail`: with 0, the unfolded pixels are the
    picture; otherwise they have `detail` channels, and a last convolution at full resolution mixes them, so that the
    borders of patches do not show as a grid. `decoder_channels` and `decoder_blocks` are for a decoder of another size
    than the encoder; 0 stands for the encoder's.
    """

    in_channels: int = 3
    latent_channels: int = 4
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    patch: int = 2
    detail: int = 0
    decoder_channels: int = 0
    decoder_blocks: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))

    @property
    def factor(self) -> int:
        """Side of one latent cell in pixels."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True)
class VQConfig(AutoencoderConfig):
    """Hyper-parameters of a VQAutoencoder: `codes` vectors as wide as the latent; decay: see VectorQuantiser."""

    codes: int = 1024
    decay: float | None = None


def level_widths(config: AutoencoderConfig, channels: int) -> list[int]:
    """The width of each resolution, finest first, of a part with that many channels at the finest."""
    return [channels * multiplier for multiplier in config.multipliers]


def build_encoder(config: AutoencoderConfig, outputs: int) -> nn.Sequential:
    """Picture (B, 3, H, W) to (B, outputs, H/f, W/f)."""
    widths = level_widths(config, config.channels)
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
    layers += [ResidualBlock(width, width), group_norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1)]
    return nn.Sequential(*layers)


def build_decoder(config: AutoencoderConfig) -> nn.Sequential:
    """Latent (B, c, H/f, W/f) to picture (B, 3, H, W)."""
    widths = level_widths(config, config.decoder_channels or config.channels)[::-1]
    width, blocks = widths[0], config.decoder_blocks or config.blocks
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), ResidualBlock(width, width)]
    for level, next_width in enumerate(widths):
        if level:
            layers.append(Upsample(width))
        for _ in range(blocks + 1):
            layers.append(ResidualBlock(width, next_width))
            width = next_width
    unfolded = config.detail or config.in_channels
    layers += [group_norm(width), nn.SiLU()]
    layers += [nn.Conv2d(width, unfolded * config.patch**2, 3, padding=1), nn.PixelShuffle(config.patch)]
    if config.detail:
        layers += [nn.SiLU(), nn.Conv2d(config.detail, config.in_channels, 3, padding=1)]
    return nn.Sequential(*layers)


class FirstStage(ScaledAutoencoder):
    """An autoencoder that owns the scale of its latents (Rombach et al. 2022, section 3.1); KL and VQ are its kinds.

    The buffer `scale` is measured after training (one over the standard deviation of the latents), so
    that `encode` gives unit variance and the caller never sees the factor.
    """

    scale: Tensor
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, outputs: int) -> None:
        super().__init__()
        self.encoder = build_encoder(config, outputs)
        self.decoder = build_decoder(config)
        self.register_buffer("scale", torch.ones(()))

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last convolution, where the adaptive weight compares gradients."""
        return [layer for layer in self.decoder if isinstance(layer, nn.Conv2d)][-1].weight

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype


class KLAutoencoder(FirstStage):
    """An autoencoder whose q(z | x) is held near N(0, 1) by a small divergence; its latent is the mean."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config, 2 * config.latent_channels)
        self.config = config
        bias = list(self.encoder[-1].parameters())[1]
        # A small variance at first, or the decoder learns to ignore a latent drowned in noise.
        nn.init.constant_(bias[config.latent_channels :], INITIAL_LOG_VARIANCE)

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (B, c, h, w), unscaled."""
        moments = self.encoder(image)
        width = self.config.latent_channels
        return moments[:, :width], moments[:, width:].clamp(-30.0, 20.0)

    def latent(self, image: Tensor) -> Tensor:
        return self.moments(image)[0]

    def reconstruct(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(z)
        return picture

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from a sample of q(z | x) with the given standard normal noise, mean and log-variance."""
        mean, log_variance = self.moments(image)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return self.reconstruct(z), mean, log_variance


class VQTerms(NamedTuple):
    """A reconstruction (B, 3, H, W), the indices (B, h, w) of its codes, and the two loss terms of the quantiser."""

    image: Tensor
    codes: Tensor
    codebook: Tensor
    commitment: Tensor


class VQAutoencoder(FirstStage):
    """An autoencoder whose quantiser is part of the decoder (Rombach et al. 2022, section 3.1, VQ-reg).

    Its latent is z_e, before quantisation, as diffusion needs it; `decode` quantises by itself.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__(config, config.latent_channels)
        self.config = config
        self.quantiser = VectorQuantiser(config.codes, config.latent_channels, config.decay)

    def latent(self, image: Tensor) -> Tensor:
        z: Tensor = self.encoder(image)
        return z

    def reconstruct(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.quantiser.quantise(z))
        return picture

    def forward(self, image: Tensor) -> VQTerms:
        """Reconstruct pictures (B, 3, H, W) in [-1, 1] with gradients, and return the terms of the loss."""
        quantised = self.quantiser(self.latent(image))
        picture = self.decoder(quantised.z.to(self.scale.dtype))
        return VQTerms(picture, quantised.codes, quantised.codebook, quantised.commitment)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) ‖ N(0, 1)), summed over latent elements and averaged over the batch."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the horizontal and vertical differences: a light term for sharp edges."""
    error = prediction - target
    return F.l1_loss(error[..., 1:], error[..., :-1]) + F.l1_loss(error[..., 1:, :], error[..., :-1, :])


class DecoderTraining(KLAutoencoder):
    """A `KLAutoencoder` with a frozen encoder."""

    def trainable_names(self) -> list[str]:
        """Names of the trainable parameters."""
        return [f"decoder.{name}" for name, _ in self.decoder.named_parameters()]


def freeze_encoder(autoencoder: KLAutoencoder) -> DecoderTraining:
    """A copy whose decoder can be trained further."""
    copy = DecoderTraining(autoencoder.config)
    copy.load_state_dict(autoencoder.state_dict())
    return copy


def renew_decoder(autoencoder: KLAutoencoder, *, channels: int, blocks: int) -> DecoderTraining:
    """A copy with the same latents and an untrained decoder; 0 channels or blocks stand for the encoder's."""
    config: AutoencoderConfig = replace(autoencoder.config, decoder_channels=channels, decoder_blocks=blocks)
    copy = DecoderTraining(config)
    copy.encoder.load_state_dict(autoencoder.encoder.state_dict())
    copy.scale.copy_(autoencoder.scale)
    return copy


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
