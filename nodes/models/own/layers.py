"""Layers of the U-Net, the autoencoder and the detector.

Tensors are (B, C, H, W) or token sequences (B, L, C); times are (B) on the schedule's own axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.guidance.hooks import SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, AttentionInput, AttentionLayer, Hooks
from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (B, width) float32 of times (B), cosines first (Dhariwal & Nichol 2021)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.to(torch.float32)[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, whose check of the size takes longer than the operator needs for a small map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to the same shape. Raises ``ValueError`` if a group is a single value."""
        if x.numel() == self.num_groups:
            return super().forward(x)
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


def group_norm(channels: int, groups: int = 32) -> GroupNorm:
    """GroupNorm with at most `groups` groups of at least 4 channels."""
    return GroupNorm(math.gcd(min(groups, max(channels // 4, 1)), channels), channels)


def zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Zero the weights and bias of a layer, so that a residual branch starts as the identity. Returns the layer."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class AdaptiveGroupNorm(nn.Module):
    """AdaGN(h, y) = (1 + y_s) · GroupNorm(h) + y_b (Dhariwal & Nichol 2021, section 3.1, as released).

    y_s and y_b are a linear map of the SiLU of the embedding (B, E). The map starts at zero.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.scale = zero_init(nn.Linear(embedding, channels))
        self.shift = zero_init(nn.Linear(embedding, channels))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        y = F.silu(embedding)
        y_s = self.scale(y)[:, :, None, None]
        y_b = self.shift(y)[:, :, None, None]
        out: Tensor = (1 + y_s) * self.norm(h) + y_b
        return out


class ResidualBlock(nn.Module):
    """GN-SiLU-conv, (Ada)GN-SiLU-conv with a skip; without an embedding the second norm is plain."""

    def __init__(self, channels: int, out_channels: int, embedding: int | None = None) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = PackedConv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels) if embedding is None else AdaptiveGroupNorm(out_channels, embedding)
        self.conv2 = zero_init(PackedConv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) if embedding is None else self.norm2(h, embedding)
        h = self.conv2(F.silu(h))
        out: Tensor = self.skip(x) + h
        return out


class Attention(AttentionLayer):
    """Multi-head attention from queries (B, N, C) to keys and values (B, L, D).

    `mask` (B, L) is true where a key may be attended to; every row needs at least one such key. Raises ``ValueError``
    if the channels are not a multiple of the heads.
    """

    def __init__(self, channels: int, context: int, heads: int, site_kind: SiteKind = "self") -> None:
        super().__init__()
        self.site_kind = site_kind
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads: make them a multiple of 'heads'")
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(context, channels, bias=False)
        self.value = nn.Linear(context, channels, bias=False)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None, attend: Attend = attention) -> Tensor:
        heads = (self.heads, -1)  # (B, L, C) to (B, heads, L, C / heads)
        query: Tensor = self.query(x).unflatten(-1, heads).transpose(1, 2)
        key: Tensor = self.key(context).unflatten(-1, heads).transpose(1, 2)
        value: Tensor = self.value(context).unflatten(-1, heads).transpose(1, 2)
        attended = attend(query, key, value, mask)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Linear, GELU, linear; the hidden width is `expansion` times the width."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.wide = nn.Linear(channels, expansion * channels)
        self.out = zero_init(nn.Linear(expansion * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(self.wide(x)))
        return out


class SpatialTransformer(nn.Module, AttentionInput):
    """Self-attention, cross-attention to tokens and a feed-forward over the pixels of (B, C, H, W).

    Rombach et al. 2022, appendix E.2.1, in its pre-norm form. Without tokens the cross-attention is skipped.
    """

    def __init__(self, channels: int, context: int | None, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, channels, heads)
        self.norm2 = None if context is None else nn.LayerNorm(channels)
        self.cross_attention = None if context is None else Attention(channels, context, heads, "cross")
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)

    def forward(
        self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None, hooks: Hooks = NO_HOOKS
    ) -> Tensor:
        size = x.shape[-2:]
        entered = x if hooks.idle else hooks.input(self.input_site, x)
        h = entered.flatten(2).transpose(1, 2)
        normed = self.norm1(h)
        attend = attention if hooks.idle else hooks.attend(self.self_attention.site, size)
        h = h + self.self_attention(normed, normed, attend=attend)
        if tokens is not None and self.norm2 is not None and self.cross_attention is not None:
            attend = attention if hooks.idle else hooks.attend(self.cross_attention.site, size)
            h = h + self.cross_attention(self.norm2(h), tokens, mask, attend)
        h = h + self.feed_forward(self.norm3(h))
        out: Tensor = h.transpose(1, 2).unflatten(2, size)
        return out if entered is x else out + (x - entered)


class Downsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PackedConv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = PackedConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
