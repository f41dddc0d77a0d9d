"""PixArt: a transformer over the patches of a picture that attends to the tokens of a text.

Chen et al. 2023 (arXiv:2310.00426), section 2.3, and 2024 (arXiv:2403.04692). The embedding of t is projected once for
all blocks, and each adds a table of its own (adaLN-single).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.guidance.hooks import Site, SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, AttentionLayer, Hooks
from guidegraph.nodes.models.transformers.denoiser import TransformerDenoiser
from guidegraph.nodes.models.transformers.layers import (
    PatchEmbedding,
    TimestepMLP,
    TokenAttention,
    TokenMLP,
    initialise,
    modulate,
    modulation,
    patches_to_picture,
    sincos_positions,
)
from guidegraph.nodes.types import Condition, Prediction, PredictionKind


@dataclass(frozen=True)
class PixArtConfig:
    """Hyper-parameters of a PixArt.

    in_channels: of x. out_channels: as x has, or twice as many if the second half is a variance, which the
    denoiser leaves out. patch: side of a patch. width: of a token; depth: blocks; hidden: width of the feed-forward.
    context_dim: width of the condition's tokens. grid: the largest position, to which pictures of any size are scaled.
    kind: the prediction.
    """

    in_channels: int = 4
    out_channels: int = 8
    spatial_channels: int = 0
    patch: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    hidden: int = 4608
    context_dim: int = 4096
    grid: float = 32.0
    kind: PredictionKind = "eps"

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"a PixArt's width is a multiple of 4, for its positions; found {self.width}")

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch

    @property
    def vector_dim(self) -> None:
        """No vector."""
        return None


class TokenCrossAttention(AttentionLayer):
    """Multi-head attention of tokens (B, N, C) to a text's tokens (B, L, C).

    Raises ``ValueError`` if the width is not a multiple of the heads.
    """

    site_kind: SiteKind = "cross"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads: make it a multiple of 'heads'")
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None, attend: Attend = attention) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_linear(x), *self.kv_linear(text).chunk(2, dim=2))
        )
        out: Tensor = self.proj(attend(query, key, value, mask).transpose(1, 2).flatten(2))
        return out


class PixArtBlock(nn.Module):
    """Self-attention, attention to the text, and a feed-forward; the first and the last have adaptive norms."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.attn = TokenAttention(config.width, config.heads)
        self.cross_attn = TokenCrossAttention(config.width, config.heads)
        self.mlp = TokenMLP(config.width, config.hidden)
        self.scale_shift_table = modulation_table(6, config.width)

    def forward(
        self,
        h: Tensor,
        text: Tensor,
        shared: Tensor,
        mask: Tensor | None = None,
        own: Attend = attention,
        cross: Attend = attention,
    ) -> Tensor:
        """The change (B, N, C) to add to tokens (B, N, C).

        text (B, L, C) with mask (B, L); shared (B, 6, C), the shifts, scales and gates before the block's table. own,
        cross: the attention among the tokens, and to the text.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + shared).chunk(6, dim=1)
        attended: Tensor = gate1 * self.attn(modulate(h, shift1, scale1), own)
        change: Tensor = attended + self.cross_attn(h + attended, text, mask, cross)
        return torch.addcmul(change, gate2, self.mlp(modulate(h + change, shift2, scale2)))


class PixArtHead(nn.Module):
    """Tokens (B, N, C) as a picture (B, channels, h · patch, w · patch), after an adaptive norm with its table."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(width, patch * patch * channels)
        self.scale_shift_table = modulation_table(2, width)

    def forward(self, h: Tensor, embedding: Tensor, size: Sequence[int]) -> Tensor:
        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
        return patches_to_picture(self.linear(modulate(h, shift, scale)), self.patch, size)


class PixArt(nn.Module):
    """A PixArt of a text's tokens, as T5 gives them."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config.in_channels, config.width, config.patch)
        self.t_embedder = TimestepMLP(config.width)
        self.t_block = modulation(config.width, 6)
        self.y_embedder = nn.ModuleDict({"y_proj": TokenMLP(config.width, config.width, config.context_dim)})
        self.blocks = nn.ModuleList(PixArtBlock(config) for _ in range(config.depth))
        self.final_layer = PixArtHead(config.width, config.patch, config.out_channels)
        kinds: tuple[SiteKind, ...] = ("input", "self", "cross", "skip", "feature")
        self.sites = tuple(Site(kind, "block", index) for index in range(config.depth) for kind in kinds)
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
        tokens: Tensor,
        vector: Tensor | None = None,
        mask: Tensor | None = None,
        spatial: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Tensor:
        """Output (B, out_channels, H, W) for x (B, in_channels, H, W) at times t (B).

        tokens (B, L, D) with mask (B, L), true where a token counts. vector and spatial are None: a PixArt takes none.
        """
        config = self.config
        size = (x.shape[2] // config.patch, x.shape[3] // config.patch)
        h = self.x_embedder(x)
        h = h + sincos_positions(config.width, size, config.grid, x.device).to(h.dtype)
        embedding = self.t_embedder(t)
        shared = self.t_block(embedding).unflatten(1, (6, -1))
        text = self.y_embedder["y_proj"](tokens)
        for index, block in enumerate(self.blocks):
            own = hooks.attend(Site("self", "block", index), size)
            cross = hooks.attend(Site("cross", "block", index), size)
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            h = hooks.block(index, h, block(entered, text, shared, mask, own, cross), size)
        out: Tensor = self.final_layer(h, embedding, size)
        return out

    def list_lora_layers(self) -> dict[str, LayerRows]:
        """Its layers by their names in diffusers, for LoRA files."""
        return pixart_layers(self.config)


def modulation_table(parts: int, width: int) -> nn.Parameter:
    """Build a table (parts, width) of shifts, scales and gates, which is added to the table of t."""
    return nn.Parameter(torch.randn(parts, width) / width**0.5)


class PixArtDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a PixArt, without its variance, which the released models did not learn.

    Tokens that the mask of a text leaves out do not count.
    """

    network: PixArt

    @property
    def config(self) -> PixArtConfig:
        return self.network.config

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """As of any `NetworkDenoiser`, with no variance."""
        return replace(super().forward(x, t, condition, hooks), variance=None)


LAYERS = {
    "pos_embed.proj": "x_embedder.proj",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "proj_out": "final_layer.linear",
}
BLOCK_LAYERS = {
    "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}


def pixart_layers(config: PixArtConfig) -> dict[str, LayerRows]:
    """The network's layers by their names in diffusers, which has queries, keys and values apart."""
    layers = {theirs: LayerRows(ours) for theirs, ours in LAYERS.items()}
    for index in range(config.depth):
        theirs, ours = f"transformer_blocks.{index}", f"blocks.{index}"
        layers |= {f"{theirs}.{name}": LayerRows(f"{ours}.{own}") for name, own in BLOCK_LAYERS.items()}
        for name, joined, parts in (("attn1", "attn.qkv", "qkv"), ("attn2", "cross_attn.kv_linear", "kv")):
            for number, part in enumerate(parts):
                rows = LayerRows(f"{ours}.{joined}", number * config.width, config.width)
                layers[f"{theirs}.{name}.to_{part}"] = rows
    return layers
