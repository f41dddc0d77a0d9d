"""Layers of the released U-Nets; their parameters have the names of the files.

Tensors are (B, C, H, W) or token sequences (B, L, C). Dhariwal & Nichol 2021, section 3; Rombach et al. 2022,
appendix E.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.guidance.hooks import SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, AttentionInput, AttentionLayer, Hooks
from guidegraph.nodes.models.networks.packed_convolution import PackedConv2d
from guidegraph.nodes.models.own.layers import GroupNorm
from guidegraph_families.networks.config import UNetShape


def attend_heads(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, inner: Attend = attention
) -> Tensor:
    """Attention over (B, L, heads, D) as (B, L, heads · D); `mask` (B, L) is true where a key may be attended to."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out = inner(query, key, value, mask)
    return out.transpose(1, 2).flatten(2)


class ReleasedDownsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.op = PackedConv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)
        self.asymmetric = asymmetric

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return out


class ReleasedResidualBlock(nn.Module):
    """GN-SiLU-conv, (Ada)GN-SiLU-conv with a skip (BigGAN's block if it changes the resolution).

    `resample` is "down" (2 × 2 means) or "up" (pixels repeated), applied before the first convolution and to the skip.
    """

    def __init__(self, channels: int, out_channels: int, shape: UNetShape, resample: str | None = None) -> None:
        super().__init__()
        self.scale_shift = shape.scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm(shape.groups, channels, shape.norm_eps),
            nn.SiLU(),
            PackedConv2d(channels, out_channels, 3, padding=1),
        )
        self.resample: nn.Module | None = None
        if resample is not None:
            self.resample = nn.AvgPool2d(2) if resample == "down" else nn.Upsample(scale_factor=2.0, mode="nearest")
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(shape.embedding, 2 * out_channels if shape.scale_shift else out_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(shape.groups, out_channels, shape.norm_eps),
            nn.SiLU(),
            nn.Identity(),  # in place of the dropout
            PackedConv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample is None:
            h: Tensor = self.in_layers(x)
        else:
            norm, activation, convolution = self.in_layers
            h = convolution(self.resample(activation(norm(x))))
            x = self.resample(x)
        y = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            norm, activation, _, convolution = self.out_layers
            y_s, y_b = y.chunk(2, dim=1)
            h = convolution(activation(torch.addcmul(y_b, norm(h), 1 + y_s)))
        else:
            h = self.out_layers(h + y)
        out: Tensor = self.skip_connection(x) + h
        return out


class AttentionBlock(AttentionLayer, AttentionInput):
    """Self-attention among the pixels of (B, C, H, W), with q, k and v from one layer.

    Its outputs are ordered (3, heads, D) in the new attention order, and (heads, 3, D) otherwise.
    """

    def __init__(self, channels: int, heads: int, shape: UNetShape) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = shape.new_attention_order
        self.norm = GroupNorm(shape.groups, channels, shape.norm_eps)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, hooks: Hooks = NO_HOOKS) -> Tensor:
        pixels = self.norm(hooks.input(self.input_site, x)).flatten(2).transpose(1, 2)
        qkv = F.linear(pixels, self.qkv.weight[:, :, 0], self.qkv.bias)
        if self.new_order:
            query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        else:
            query, key, value = qkv.unflatten(-1, (self.heads, 3, -1)).unbind(3)
        size = x.shape[-2:]
        attended = attend_heads(query, key, value, None, hooks.attend(self.site, size))
        h = F.linear(attended, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        out: Tensor = x + h.transpose(1, 2).unflatten(2, size)
        return out


class ReleasedAttention(AttentionLayer):
    """Multi-head attention from (B, N, C) to tokens (B, L, D), or to itself without them."""

    def __init__(self, channels: int, context: int, heads: int, site_kind: SiteKind = "self") -> None:
        super().__init__()
        self.site_kind = site_kind
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(
        self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None, inner: Attend = attention
    ) -> Tensor:
        source = x if tokens is None else tokens
        query, key, value = (
            layer(of).unflatten(-1, (self.heads, -1))
            for layer, of in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
        )
        out: Tensor = self.to_out(attend_heads(query, key, value, mask, inner))
        return out


class GEGLU(nn.Module):
    """a · GELU(b), where a and b are the halves of a linear layer's output (Shazeer 2020)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.proj(x).chunk(2, dim=-1)
        out: Tensor = a * F.gelu(b)
        return out


class ReleasedFeedForward(nn.Module):
    """GEGLU with four times the width inside, then linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module, AttentionInput):
    """Self-attention, cross-attention and a feed-forward, each after a LayerNorm and with a skip."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = ReleasedAttention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = ReleasedAttention(channels, context, heads, "cross")
        self.norm3 = nn.LayerNorm(channels)
        self.ff = ReleasedFeedForward(channels)

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None, size: Sequence[int], hooks: Hooks = NO_HOOKS
    ) -> Tensor:
        """x (B, N, C) holds the N pixels of a map of size (h, w)."""
        x = hooks.input_tokens(self.input_site, x, size)
        x = x + self.attn1(self.norm1(x), inner=hooks.attend(self.attn1.site, size))
        x = x + self.attn2(self.norm2(x), tokens, mask, hooks.attend(self.attn2.site, size))
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class ReleasedSpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of (B, C, H, W), with cross-attention to tokens (B, L, D)."""

    def __init__(self, channels: int, heads: int, depth: int, context: int, linear: bool, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, context, heads) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None, hooks: Hooks = NO_HOOKS) -> Tensor:
        # A 1 × 1 convolution is a linear layer over pixels, which are needed as a sequence here.
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        h = F.linear(pixels, self.proj_in.weight.flatten(1), self.proj_in.bias)
        for block in self.transformer_blocks:
            h = block(h, tokens, mask, x.shape[-2:], hooks)
        h = F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias)
        out: Tensor = x + h.transpose(1, 2).unflatten(2, x.shape[-2:])
        return out


class ReleasedAttentionPool(nn.Module):
    """Features (B, C, h, w) to (B, K): their mean attends to every position (Radford et al. 2021, section 2.3)."""

    def __init__(self, channels: int, cells: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(channels, cells + 1))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        cells = h.flatten(2)
        tokens = torch.cat([cells.mean(2, keepdim=True), cells], dim=2) + self.positional_embedding
        qkv = F.linear(tokens.transpose(1, 2), self.qkv_proj.weight[:, :, 0], self.qkv_proj.bias)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        pooled = attend_heads(query[:, :1], key, value)[:, 0]
        return F.linear(pooled, self.c_proj.weight[:, :, 0], self.c_proj.bias)
