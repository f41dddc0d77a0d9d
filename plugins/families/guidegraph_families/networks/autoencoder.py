"""The first stages that latent diffusion released (Rombach et al. 2022), KL and VQ, under their released names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.attention import training_kernel
from guidegraph.nodes.models.own.autoencoder import ScaledAutoencoder
from guidegraph.nodes.models.own.layers import GroupNorm, Upsample

EPS = 1e-6


@dataclass(frozen=True)
class FirstStageShape:
    """Hyper-parameters of a released first stage; f = 2^(len(widths) − 1).

    widths: channels of each resolution, finest first. blocks: residual blocks at a resolution on the way down (one more
    on the way up). encoder_attention, decoder_attention: the levels (0 is the finest) with self-attention;
    middle: whether the middle has it. z_channels: between the networks and the 1 × 1 convolutions;
    latent_channels: of the latent. quant, post_quant: whether the 1 × 1 convolutions exist.
    codes: vectors of the codebook, 0 for a KL autoencoder.
    """

    in_channels: int = 3
    out_channels: int = 3
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()
    middle: bool = True
    z_channels: int = 4
    latent_channels: int = 4
    quant: bool = True
    post_quant: bool = True
    codes: int = 0
    groups: int = 32

    @property
    def factor(self) -> int:
        """Side of one latent cell in pixels."""
        return int(2 ** (len(self.widths) - 1))


class ResnetBlock(nn.Module):
    """GN-SiLU-conv twice with a skip; (B, channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, EPS)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_channels, EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)
        return out


class AttnBlock(nn.Module):
    """Self-attention of one head over the pixels of (B, C, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        with training_kernel(query):
            attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.proj_out(attended[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))
        return out


class AsymmetricDownsample(nn.Module):
    """Half the resolution by a strided convolution that pads at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Level(nn.Module):
    """The blocks of one resolution, attention after each if the level has it, and the change of resolution."""

    def __init__(self, widths: tuple[int, ...], attention: bool, groups: int, resample: nn.Module | None) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.block = nn.ModuleList(ResnetBlock(start, end, groups) for start, end in pairs)
        self.attn = nn.ModuleList(AttnBlock(end, groups) for _, end in pairs if attention)
        if isinstance(resample, AsymmetricDownsample):
            self.downsample = resample
        elif resample is not None:
            self.upsample = resample

    def forward(self, h: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            h = block(h)
            if len(self.attn):
                h = self.attn[i](h)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                h = getattr(self, name)(h)
        return h


class Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, channels: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        if attention:
            self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, h: Tensor) -> Tensor:
        h = self.block_1(h)
        if hasattr(self, "attn_1"):
            h = self.attn_1(h)
        out: Tensor = self.block_2(h)
        return out


class Encoder(nn.Module):
    """Picture (B, in_channels, H, W) to (B, outputs, H/f, W/f)."""

    def __init__(self, shape: FirstStageShape, outputs: int) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(shape.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            inside = (widths[max(level - 1, 0)], *[width] * shape.blocks)
            resample = None if level == last else AsymmetricDownsample(width)
            self.down.append(Level(inside, level in shape.encoder_attention, shape.groups, resample))
        self.mid = Middle(widths[-1], shape.middle, shape.groups)
        self.norm_out = GroupNorm(shape.groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """(B, z_channels, H/f, W/f) to a picture (B, out_channels, H, W); `up` is numbered from the finest level."""

    def __init__(self, shape: FirstStageShape) -> None:
        super().__init__()
        widths, last = shape.widths, len(shape.widths) - 1
        self.conv_in = nn.Conv2d(shape.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], shape.middle, shape.groups)
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            inside = (widths[min(level + 1, last)], *[width] * (shape.blocks + 1))
            resample = Upsample(width) if level else None
            self.up.append(Level(inside, level in shape.decoder_attention, shape.groups, resample))
        self.norm_out = GroupNorm(shape.groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], shape.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Codebook(nn.Module):
    """A codebook of `codes` vectors of width `width`; replaces a vector by the nearest code."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def forward(self, z: Tensor) -> Tensor:
        """The nearest codes (B, D, h, w) of vectors z (B, D, h, w); distances in float32 at least."""
        wide = torch.promote_types(z.dtype, torch.float32)
        vectors, codes = z.permute(0, 2, 3, 1).to(wide), self.embedding.weight.to(wide)
        index = (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(-1)
        nearest: Tensor = self.embedding(index)
        return nearest.permute(0, 3, 1, 2)


class ReleasedFirstStage(ScaledAutoencoder):
    """An autoencoder under its released names; KL and VQ are its kinds."""

    def __init__(self, shape: FirstStageShape, moments: int, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.config = shape
        self.scale = scale
        self.shift = shift
        self.encoder = Encoder(shape, moments * shape.z_channels)
        self.decoder = Decoder(shape)
        if shape.quant:
            self.quant_conv = nn.Conv2d(moments * shape.z_channels, moments * shape.latent_channels, 1)
        if shape.post_quant:
            self.post_quant_conv = nn.Conv2d(shape.latent_channels, shape.z_channels, 1)

    def encode_features(self, image: Tensor) -> Tensor:
        """The output of the encoder and its 1 × 1 convolution."""
        h: Tensor = self.encoder(image)
        return self.quant_conv(h) if hasattr(self, "quant_conv") else h

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.conv_in.weight.dtype

    def reconstruct(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.post_quant_conv(z) if hasattr(self, "post_quant_conv") else z)
        return picture


class ReleasedKL(ReleasedFirstStage):
    """AutoencoderKL: q(z | x) is a diagonal Gaussian, and its mean is the latent."""

    def __init__(self, shape: FirstStageShape, scale: float, shift: float = 0.0) -> None:
        super().__init__(shape, 2, scale, shift)

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (B, c, h, w), unscaled."""
        mean, log_variance = self.encode_features(image).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def latent(self, image: Tensor) -> Tensor:
        return self.moments(image)[0]


class ReleasedVQ(ReleasedFirstStage):
    """VQModel: the quantiser is part of the decoder; the latent is not yet quantised."""

    def __init__(self, shape: FirstStageShape, scale: float, shift: float = 0.0) -> None:
        super().__init__(shape, 1, scale, shift)
        self.quantize = Codebook(shape.codes, shape.latent_channels)

    def latent(self, image: Tensor) -> Tensor:
        return self.encode_features(image)

    def reconstruct(self, z: Tensor) -> Tensor:
        return super().reconstruct(self.quantize(z))
