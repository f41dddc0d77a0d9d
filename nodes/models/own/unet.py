"""The U-Net: AdaGN from time and a vector, cross-attention to tokens, a spatial condition by concatenation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.models.networks.hooks import NO_HOOKS, HookedModel, Hooks, SiteBlock, number_sites
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
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction

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


class NetworkPorts(Protocol):
    """The part of a network's config that describes its inputs and its output: channels, sides, widths, the kind."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def spatial_channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def vector_dim(self) -> int | None: ...
    @property
    def context_dim(self) -> int | None: ...
    @property
    def kind(self) -> PredictionKind: ...


class NetworkDenoiser(HookedModel, ABC):
    """`(x, t, condition) -> Prediction` of a network, computed in the network's dtype and given in the dtype of x.

    Twice the channels of x in the output means a learned variance in the second half, raw, in [-1, 1] (Nichol &
    Dhariwal 2021, eq. 15).
    """

    @property
    @abstractmethod
    def config(self) -> NetworkPorts:
        """The config of the network."""

    @property
    def kind(self) -> PredictionKind:
        """The kind of every prediction."""
        return self.config.kind

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` for a shape of x that the network does not take."""
        check_shape(self.config, shape)

    def extra_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Inputs that only this network takes, by name; x (B, C, H, W)."""
        return {}

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        Raises ``ValueError`` for a size of x, or a condition, that the network does not take. A vector given with
        tokens may be left unused, as Stable Diffusion leaves the pooled one of CLIP.
        """
        network = self.network
        config, dtype = self.config, network.dtype
        self.check_shape(x.shape)
        check_spatial(config, x, condition.spatial)
        check_fields(config, condition)

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        out = network(
            x.to(dtype),
            t,
            vector=None if config.vector_dim is None else cast(condition.vector),
            tokens=cast(condition.tokens),
            mask=condition.mask,
            spatial=cast(condition.spatial),
            hooks=hooks or self.hooks,
            **self.extra_inputs(x),
        ).to(x.dtype)
        if config.out_channels == 2 * config.in_channels:
            return Prediction(out[:, : config.in_channels], config.kind, out[:, config.in_channels :])
        return Prediction(out, config.kind)


class UNetDenoiser(NetworkDenoiser):
    """The `NetworkDenoiser` of a UNet."""

    network: UNet

    @property
    def config(self) -> UNetConfig:
        return self.network.config


def check_shape(config: NetworkPorts, shape: Sequence[int]) -> None:
    """Raise ``ValueError`` if a network does not take x (B, C, H, W) of this shape."""
    if len(shape) != 4 or shape[1] != config.in_channels:
        raise ValueError(
            f"this denoiser takes x (B, C, H, W) of {config.in_channels} channels; found x of shape {tuple(shape)}"
        )
    if shape[2] % config.factor or shape[3] % config.factor:
        raise ValueError(
            f"this denoiser takes sides that are multiples of {config.factor}; found x of shape {tuple(shape)}"
        )


def check_spatial(config: NetworkPorts, x: Tensor, spatial: Tensor | None) -> None:
    """Raise ``ValueError`` if a network does not take the spatial condition, at the size of x (B, C, H, W)."""
    if (0 if spatial is None else spatial.shape[1]) != config.spatial_channels:
        got = "none" if spatial is None else f"one of {spatial.shape[1]}"
        raise ValueError(
            f"this denoiser takes a spatial condition of {config.spatial_channels} channels, and got {got}: see "
            "condition.spatial, and condition.null for the null condition"
            if config.spatial_channels
            else f"this denoiser takes no spatial condition, and got {got} channels"
        )
    if spatial is not None and spatial.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"the spatial condition must have the size of x, {tuple(x.shape[2:])}; found {tuple(spatial.shape[2:])}: "
            "set the size of condition.spatial"
        )


def drop_full_mask(condition: Condition) -> Condition:
    """The condition without a mask that leaves nothing out: attention without one has faster kernels.

    A mask that is traced stays, since its values are unknown.
    """
    mask = condition.mask
    return replace(condition, mask=None) if mask is not None and has_values(mask) and bool(mask.all()) else condition


def check_fields(config: NetworkPorts, condition: Condition) -> None:
    """Raise ``ValueError`` if the vector or the tokens do not have the widths that a network takes."""
    unused = condition.tokens is not None and config.context_dim is not None and config.vector_dim is None
    vector, tokens = None if unused else _find_width(condition.vector), _find_width(condition.tokens)
    if (vector, tokens) == (config.vector_dim, config.context_dim):
        return
    for name, actual, width, null in (
        ("a vector", vector, config.vector_dim, "label.embed without a label"),
        ("tokens", tokens, config.context_dim, "text.encode with an empty prompt"),
    ):
        if actual == width:
            continue
        if width is None:
            raise ValueError(f"this denoiser takes no {name.removeprefix('a ')} in its condition, and got {name}")
        got = "none" if actual is None else f"width {actual}"
        raise ValueError(f"this denoiser takes {name} of width {width}, and got {got}: the null condition is {null}")


def _find_width(value: Tensor | None) -> int | None:
    """The size of the last axis; None for an absent field."""
    return None if value is None else value.shape[-1]
