"""DiT: a transformer over the patches of a picture, conditioned by adaptive norms (Peebles & Xie 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidegraph.nodes.guidance.hooks import Site, SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, Hooks
from guidegraph.nodes.models.transformers.layers import (
    NORM_EPS,
    PatchEmbedding,
    PatchHead,
    TimestepMLP,
    TokenAttention,
    TokenMLP,
    chunk_modulation,
    initialise,
    modulate,
    modulation,
    sincos_positions,
)
from guidegraph.nodes.types import PredictionKind

SITE_KINDS: tuple[SiteKind, ...] = ("input", "self", "skip", "feature")
"""The sites of a block."""


@dataclass(frozen=True)
class DiTConfig:
    """Hyper-parameters of a DiT.

    in_channels: of x; spatial_channels: of the spatial condition, concatenated to x. out_channels: as
    x has, or twice as many if the second half is a learned variance. patch: side of a patch. width: of a token; depth:
    blocks; hidden: width of the feed-forward. grid: patches along a side in training. conditional: takes a vector of
    the tokens' width, added to the embedding of t. frequency_shift, mlp_eps: diffusers' values differ from the
    authors'. kind: the prediction.
    """

    in_channels: int = 4
    out_channels: int = 4
    spatial_channels: int = 0
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    grid: int = 16
    conditional: bool = True
    frequency_shift: int = 0
    mlp_eps: float = NORM_EPS
    kind: PredictionKind = "eps"

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"a DiT's width is a multiple of 4, for its positions; found {self.width}")

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch

    @property
    def vector_dim(self) -> int | None:
        """Width of the condition's vector, or None."""
        return self.width if self.conditional else None

    @property
    def context_dim(self) -> None:
        """No tokens."""
        return None


class DiTBlock(nn.Module):
    """Self-attention and feed-forward, each with a shift, a scale and a gate of the embedding (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.mlp_eps
        self.attn = TokenAttention(config.width, config.heads)
        self.mlp = TokenMLP(config.width, config.hidden)
        self.adaLN_modulation = modulation(config.width, 6)

    def forward(self, h: Tensor, embedding: Tensor, attend: Attend = attention) -> Tensor:
        """The change (B, N, C) to add to tokens (B, N, C)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = chunk_modulation(self.adaLN_modulation, embedding, 6)
        attended: Tensor = gate1 * self.attn(modulate(h, shift1, scale1), attend)
        return torch.addcmul(attended, gate2, self.mlp(modulate(h + attended, shift2, scale2, self.eps)))


class DiT(nn.Module):
    """A diffusion transformer, without its embedding of class labels, which comes as the condition's vector."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config.in_channels + config.spatial_channels, config.width, config.patch)
        self.t_embedder = TimestepMLP(config.width, config.frequency_shift)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.final_layer = PatchHead(config.width, config.patch, config.out_channels)
        self.sites = tuple(Site(kind, "block", i) for i in range(config.depth) for kind in SITE_KINDS)
        initialise(self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        return self.t_embedder.dtype

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

        vector (B, width), added to the embedding of t; spatial (B, C, H, W), concatenated to x along the channels.
        tokens and mask are None: a DiT takes none.
        """
        size = (x.shape[2] // self.config.patch, x.shape[3] // self.config.patch)
        h = self.x_embedder(x if spatial is None else torch.cat([x, spatial], dim=1))
        h = h + sincos_positions(self.config.width, size, self.config.grid, x.device).to(h.dtype)
        embedding = self.t_embedder(t)
        if vector is not None:
            embedding = embedding + vector
        for index, block in enumerate(self.blocks):
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            change = block(entered, embedding, hooks.attend(Site("self", "block", index), size))
            h = hooks.block(index, h, change, size)
        out: Tensor = self.final_layer(h, embedding, size)
        return out
