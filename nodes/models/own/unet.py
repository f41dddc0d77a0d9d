"""The U-Net: AdaGN from time and a vector, cross-attention to tokens, a spatial condition by concatenation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Hooks, SiteBlock, number_sites
from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d
from guidegraph.nodes.models.networks.shells import run_shells
from guidegraph.nodes.models.own.layers import (
    Downsample,
    ResidualBlock,
    SpatialTransformer,
    Upsample,
    group_norm,
    timestep_embedding,
    zero_init,
)
from guidegraph.nodes.sampler_types import PredictionKind

COORDINATES = 6
"""The number of `coordinate_channels`."""


def coordinate_channels(x: Tensor) -> Tensor:
    """Where each pixel of x (B, C, H, W) is: (B, 6, H, W), in the dtype of x (Liu et al. 2018, CoordConv).

    These are u, sin πu and cos πu of the place u in (−1, 1), from top to bottom and then from left to right.
    """
    height, width = x.shape[2:]
    maps = []
    for length, shape in ((height, (1, 1, height, 1)), (width, (1, 1, 1, width))):
        place = ((2 * torch.arange(length, device=x.device) + 1) / length - 1).reshape(shape)
        maps += [place, torch.sin(torch.pi * place), torch.cos(torch.pi * place)]
    return torch.cat([values.to(x.dtype).expand(x.shape[0], 1, height, width) for values in maps], dim=1)


@dataclass(frozen=True)
class UNetConfig:
    """Hyper-parameters of a UNet.

    multipliers: width of each resolution in units of `channels`, finest first.
    blocks: residual blocks at a resolution on the way down (one more on the way up).
    attention: the levels (0 is the finest) with self- and cross-attention; the middle always has it.
    context_dim: width of the tokens, vector_dim: of the vector, spatial_channels: of the spatial
    condition; None or 0 if the model does not take it.
    coordinates: whether the first convolution also sees its position, by `coordinate_channels`.
    patch: folds patch × patch values of x and of the spatial condition into channels before the first convolution and
    unfolds them after the last, which makes models on pixels cheaper.
    kind: the prediction: ε, x0 or v.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2)
    heads: int = 4
    context_dim: int | None = None
    vector_dim: int | None = None
    spatial_channels: int = 0
    patch: int = 1
    kind: PredictionKind = "eps"
    coordinates: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


class UNetBlock(nn.Module):
    """A residual block, with attention if the level has it."""

    def __init__(self, channels: int, out_channels: int, attention: bool, config: UNetConfig) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, out_channels, 4 * config.channels)
        self.transformer = SpatialTransformer(out_channels, config.context_dim, config.heads) if attention else None

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        h: Tensor = self.residual(x, embedding)
        if self.transformer is not None:
            h = self.transformer(h, tokens, mask, hooks)
        return h


class UNetTrunk(nn.Module):
    """The encoder half of a U-Net with its middle, shared by the denoiser and the classifier of noisy samples."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        embedding = 4 * width
        self.time_embedding = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.vector_embedding = None if config.vector_dim is None else nn.Linear(config.vector_dim, embedding)
        self.fold = nn.PixelUnshuffle(config.patch) if config.patch > 1 else nn.Identity()
        coordinates = COORDINATES if config.coordinates else 0
        inputs = (config.in_channels + coordinates + config.spatial_channels) * config.patch**2
        self.stem = PackedConv2d(inputs, width, 3, padding=1)

        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        skips = [width]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                out = multiplier * config.channels
                self.down.append(UNetBlock(width, out, level in config.attention, config))
                width = out
                skips.append(width)
            if level < len(config.multipliers) - 1:
                self.downsample.append(Downsample(width))
                skips.append(width)

        self.middle_in = UNetBlock(width, width, True, config)
        self.middle_out = UNetBlock(width, width, False, config)
        self.width = width
        self.skips = tuple(skips)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        return self.stem.weight.dtype

    def embed(self, t: Tensor, vector: Tensor | None) -> Tensor:
        """The embedding (B, 4 · channels) of times (B) and, if the model takes one, of a vector (B, D)."""
        embedding: Tensor = self.time_embedding(timestep_embedding(t, self.config.channels).to(self.dtype))
        if self.vector_embedding is not None and vector is not None:
            embedding = embedding + self.vector_embedding(vector)
        return embedding

    def encode(
        self,
        x: Tensor,
        embedding: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> tuple[Tensor, list[Tensor]]:
        """The features (B, width, h, w) of the coarsest resolution, and the skip features, in the order of `skips`."""
        h, skips = self.input(x, spatial), []
        for index in range(len(self.skips)):
            h = hooks.feature("down", index, self.run_down(index, h, embedding, tokens, mask, hooks))
            skips.append(h)
        return hooks.feature("middle", 0, self.run_middle(h, embedding, tokens, mask, hooks)), skips

    def input(self, x: Tensor, spatial: Tensor | None = None) -> Tensor:
        """The input of the first convolution: x with its coordinates and with the spatial condition, folded."""
        parts = [x]
        if self.config.coordinates:
            parts.append(coordinate_channels(x))
        if spatial is not None:
            parts.append(spatial)
        folded: Tensor = self.fold(torch.cat(parts, dim=1) if len(parts) > 1 else x)
        return folded

    def run_down(
        self, index: int, h: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None, hooks: Hooks
    ) -> Tensor:
        """The skip features of an index, in the order of `skips`, from those before; for index 0 from `input`."""
        out: Tensor
        if index == 0:
            out = self.stem(h)
            return out
        level, block = divmod(index - 1, self.config.blocks + 1)
        if block == self.config.blocks:
            out = self.downsample[level](h)
        else:
            out = self.down[level * self.config.blocks + block](h, embedding, tokens, mask, hooks)
        return out

    def run_middle(
        self, h: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None, hooks: Hooks
    ) -> Tensor:
        """The features (B, width, h, w) of the coarsest resolution after the middle."""
        out: Tensor = self.middle_out(self.middle_in(h, embedding, tokens, mask, hooks), embedding)
        return out

    def blocks(self) -> list[SiteBlock]:
        """The blocks that compute the skip features, and the middle, in order of execution."""
        blocks: list[SiteBlock] = [("down", [self.stem])]
        for level in range(len(self.config.multipliers)):
            start = level * self.config.blocks
            blocks += [("down", [stage]) for stage in self.down[start : start + self.config.blocks]]
            blocks += [("down", [layer]) for layer in self.downsample[level : level + 1]]
        return [*blocks, ("middle", [self.middle_in, self.middle_out])]


class UNet(UNetTrunk):
    """A denoising U-Net (Dhariwal & Nichol 2021; Rombach et al. 2022) with every condition optional."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        width, skips = self.width, list(self.skips)
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                out = multiplier * config.channels
                self.up.append(UNetBlock(width + skips.pop(), out, level in config.attention, config))
                width = out
            if level:
                self.upsample.append(Upsample(width))

        self.norm = group_norm(width)
        self.head = zero_init(PackedConv2d(width, config.out_channels * config.patch**2, 3, padding=1))
        self.unfold = nn.PixelShuffle(config.patch) if config.patch > 1 else nn.Identity()
        self.sites = number_sites([*self.blocks(), *(("up", [stage]) for stage in self.up)])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """Output (B, out_channels, H, W) for x (B, in_channels, H, W) at times t (B).

        vector (B, D); tokens (B, L, D) with mask (B, L), true where a token counts; spatial (B, C, H, W),
        concatenated to x along the channels.
        """
        embedding = self.embed(t, vector)
        context = (embedding, tokens, mask, hooks)

        def run_up(index: int, h: Tensor) -> Tensor:
            level, block = divmod(index, self.config.blocks + 1)
            h = self.up[index](h, *context)
            if block == self.config.blocks and level < len(self.upsample):
                h = self.upsample[level](h)
            return h

        h = run_shells(
            self.input(x, spatial),
            len(self.up),
            lambda index, h: self.run_down(index, h, *context),
            lambda h: self.run_middle(h, *context),
            run_up,
            hooks,
        )
        out: Tensor = self.unfold(self.head(F.silu(self.norm(h))))
        return out
