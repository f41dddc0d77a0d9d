"""Autoencoders, KL- and VQ-regularised: pictures in [-1, 1] to latents of unit variance, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.graph.training.precision import without_autocast
from guidegraph.graph.training.ranks import current_rank, sum_over_ranks
from guidegraph.nodes.models.own.layers import Downsample, ResidualBlock, Upsample, group_norm
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


DEAD = 0.1
"""A code is dead if, on average, fewer vectors of a batch than this map to it."""


class Quantised(NamedTuple):
    """The quantiser's output for vectors z_e (B, D, h, w); e is the nearest code of each.

    z: e, with the gradient of z_e (the straight-through estimator). codes: (B, h, w), the index of e, int64. codebook:
    ‖sg(z_e) − e‖², which trains only the codes. commitment: ‖z_e − sg(e)‖², which trains only the encoder and is
    multiplied by β. Both are means over elements.
    """

    z: Tensor
    codes: Tensor
    codebook: Tensor
    commitment: Tensor


class VectorQuantiser(nn.Module):
    """A codebook of `codes` vectors of width `width`.

    decay: None trains the codes by the gradient of the codebook term (van den Oord et al. 2017, eq. 3). With a number
    they are moving averages of the vectors that map to them (there, appendix A), kept in buffers and updated by each
    `forward` in training mode; a dead code is set to a random vector of the batch. The update is not undone if the
    step is interrupted after it, in a loop inside a training body. In distributed training the vectors of all ranks
    count as one batch.
    """

    codebook: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, decay: float | None = None) -> None:
        super().__init__()
        self.decay = decay
        start = torch.empty(codes, width).uniform_(-1, 1)
        if decay is None:
            self.codebook = nn.Parameter(start)
            return
        self.register_buffer("codebook", start)
        self.register_buffer("count", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, width))

    def nearest(self, z: Tensor) -> Tensor:
        """The index (B, h, w) of the code nearest to each vector of z (B, D, h, w), in float32 at least."""
        with torch.no_grad(), without_autocast(z.device):
            wide = torch.promote_types(z.dtype, torch.float32)
            vectors, codes = flatten_vectors(z).to(wide), self.codebook.to(wide)
            distance = codes.square().sum(1) - 2 * vectors @ codes.T  # without ‖z‖², which is the same for all codes
            return distance.argmin(1).reshape(z.shape[0], *z.shape[2:])

    def lookup(self, index: Tensor) -> Tensor:
        """The codes (B, D, h, w) of indices (B, h, w)."""
        return self.codebook[index].permute(0, 3, 1, 2)

    def quantise(self, z: Tensor) -> Tensor:
        """The nearest codes (B, D, h, w) of vectors z (B, D, h, w). Idempotent: a code maps to itself."""
        return self.lookup(self.nearest(z)).to(z.dtype)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise z (B, D, h, w) for training."""
        z = z.float()
        index = self.nearest(z)
        e = self.lookup(index).float()
        codebook, commitment = (z.detach() - e).square().mean(), (z - e.detach()).square().mean()
        quantised = Quantised(z + (e - z).detach(), index, codebook, commitment)
        if self.training and self.decay is not None:
            self.follow(z.detach(), index)
        return quantised

    @torch.no_grad()
    def follow(self, z: Tensor, index: Tensor) -> None:
        """One step of the moving averages: N ← γN + (1−γ)n, m ← γm + (1−γ)Σz, e = m/N, with γ the decay.

        n and Σz are over the batch of all ranks.
        """
        assert self.decay is not None
        vectors, chosen = flatten_vectors(z).to(self.total.dtype), index.flatten()
        counts = torch.bincount(chosen, minlength=len(self.count)).to(self.count.dtype)
        sums = torch.zeros_like(self.total).index_add_(0, chosen, vectors)
        counts, sums, fresh = sum_over_ranks([counts, sums, draw_vectors(vectors, len(self.count))])
        self.count.lerp_(counts, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.count < DEAD
        self.count.masked_fill_(dead, 1.0)
        self.total.copy_(torch.where(dead[:, None], fresh, self.total))
        self.codebook.copy_(self.total / self.count[:, None])


def draw_vectors(vectors: Tensor, count: int) -> Tensor:
    """Draw `count` random vectors (count, D) of the batch of all ranks; zeros for vectors on other ranks.

    All ranks draw the same indices from torch's generator, so the sum over ranks has each vector.
    """
    rank, size = current_rank(), len(vectors)
    picked = torch.randint(size * rank.count, (count,), device="cpu").to(vectors.device) - rank.index * size
    is_local = (picked >= 0) & (picked < size)
    return vectors[picked.clamp(0, size - 1)] * is_local[:, None]


def flatten_vectors(z: Tensor) -> Tensor:
    """Reshape (B, D, h, w) to (B · h · w, D)."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


class Usage(NamedTuple):
    """share: fraction of codes in use, in [0, 1]. perplexity: exp of the entropy of their frequencies, 1 … codes."""

    share: Tensor
    perplexity: Tensor


def measure_usage(index: Tensor, codes: int) -> Usage:
    """Measure how evenly indices (any shape, int64, below `codes`) use the codes; both outputs are scalars ()."""
    frequency = torch.bincount(index.flatten(), minlength=codes).float()
    p = frequency / frequency.sum()
    return Usage((frequency > 0).float().mean(), torch.special.entr(p).sum().exp())
