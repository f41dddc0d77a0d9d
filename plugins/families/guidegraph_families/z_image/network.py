"""Z-Image (Z-Image Team, Alibaba, 2025, arXiv:2511.22699): one stream of patches and a text's tokens.

Blocks of its own refine either of them first. Both are filled up to a multiple of 32 with learned tokens, to which all
others attend. The network is told 1000 − t and gives −u. Parameters have the names of the released single files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidegraph.nodes.checkpoints.filling import LayerRows
from guidegraph.nodes.guidance.hooks import Site, SiteKind
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.embeddings import timestep_embedding
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, AttentionLayer, Hooks
from guidegraph.nodes.models.transformers.denoiser import TransformerDenoiser
from guidegraph.nodes.models.transformers.layers import (
    NORM_EPS,
    WAVES,
    HeadNorm,
    axis_angles,
    check_axis_widths,
    patch_places,
    patches_to_picture,
    rotate_pairs,
    turns_of,
)
from guidegraph.nodes.types import PredictionKind

SITE_KINDS: tuple[SiteKind, ...] = ("input", "joint", "skip", "feature")
"""The sites of a block of both streams."""

PATCH = 2
"""The side of a patch of every release."""

ROTARY_BASE = 256.0
MULTIPLE = 32
"""Both sequences are filled up to a multiple of this."""

TIME_RANGE = 1000.0
EMBEDDING, EMBEDDING_HIDDEN = 256, 1024
"""Width of the embedding of t, if the tokens are not narrower, and of its hidden layer."""


@dataclass(frozen=True)
class ZImageConfig:
    """Hyper-parameters of a Z-Image.

    in_channels: of x. patch: side of a patch. width: of a token; depth: blocks; refiners: blocks for the picture
    alone, and for the text alone; hidden: width of the feed-forwards. context_dim: width of the condition's tokens.
    axes: the values of a head that turn by the place in the sequence, by row and by column. eps: of the norms. kind:
    the prediction.
    """

    in_channels: int = 16
    patch: int = 2
    width: int = 3840
    depth: int = 30
    refiners: int = 2
    heads: int = 30
    hidden: int = 10240
    context_dim: int = 2560
    axes: tuple[int, int, int] = (32, 48, 48)
    eps: float = 1e-5
    kind: PredictionKind = "flow"

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        check_axis_widths("a Z-Image", self.axes, self.width, self.heads)

    @property
    def out_channels(self) -> int:
        """As many as x has."""
        return self.in_channels

    @property
    def spatial_channels(self) -> int:
        """No spatial condition."""
        return 0

    @property
    def vector_dim(self) -> None:
        """No vector."""
        return None

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch

    @property
    def embedding(self) -> int:
        """Width of the embedding of t."""
        return min(self.width, EMBEDDING)


class TimeEmbedder(nn.Module):
    """The embedding (B, E) of times (B) on an axis of 0 … 1000."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WAVES, EMBEDDING_HIDDEN), nn.SiLU(), nn.Linear(EMBEDDING_HIDDEN, width))

    def forward(self, t: Tensor) -> Tensor:
        embedding: Tensor = self.mlp(timestep_embedding(t, WAVES).to(next(self.mlp.parameters()).dtype))
        return embedding


class RotaryAttention(AttentionLayer):
    """Multi-head self-attention over tokens (B, N, C) without biases; queries and keys are normalised and turned."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = HeadNorm(width // heads, eps)
        self.k_norm = HeadNorm(width // heads, eps)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, turns: Tensor, mask: Tensor | None, attend: Attend) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(h).chunk(3, dim=2)
        )
        query, key = rotate_pairs(self.q_norm(query), turns), rotate_pairs(self.k_norm(key), turns)
        out: Tensor = self.out(attend(query, key, value, mask).transpose(1, 2).flatten(2))
        return out


class GatedFeedForward(nn.Module):
    """W₂ (SiLU(W₁ x) · W₃ x) over tokens (B, N, C) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(h)) * self.w3(h))
        return out


class ZImageBlock(nn.Module):
    """Attention and feed-forward with a norm before and after each; the picture's are scaled and gated by t."""

    def __init__(self, config: ZImageConfig, *, modulated: bool = True) -> None:
        super().__init__()
        width, eps = config.width, config.eps
        self.attention = RotaryAttention(width, config.heads, eps)
        self.feed_forward = GatedFeedForward(width, config.hidden)
        self.attention_norm1, self.attention_norm2 = HeadNorm(width, eps), HeadNorm(width, eps)
        self.ffn_norm1, self.ffn_norm2 = HeadNorm(width, eps), HeadNorm(width, eps)
        self.adaLN_modulation = nn.Sequential(nn.Linear(config.embedding, 4 * width)) if modulated else None

    def forward(
        self,
        h: Tensor,
        embedding: Tensor,
        turns: Tensor,
        mask: Tensor | None = None,
        attend: Attend = attention,
    ) -> Tensor:
        """The change to add to tokens (B, N, C); mask (B, N) is true where a key may be attended to."""
        scale1, gate1, scale2, gate2 = self._modulate(embedding)
        attended = self.attention(self.attention_norm1(h) * scale1, turns, mask, attend)
        change: Tensor = gate1 * self.attention_norm2(attended)
        fed: Tensor = gate2 * self.ffn_norm2(self.feed_forward(self.ffn_norm1(h + change) * scale2))
        return change + fed

    def _modulate(self, embedding: Tensor) -> tuple[Tensor | float, ...]:
        """Scale and gate (B, 1, C) of the attention and of the feed-forward."""
        if self.adaLN_modulation is None:
            return (1.0, 1.0, 1.0, 1.0)
        scale1, gate1, scale2, gate2 = self.adaLN_modulation(embedding)[:, None].chunk(4, dim=2)
        return 1 + scale1, gate1.tanh(), 1 + scale2, gate2.tanh()


class ScaledHead(nn.Module):
    """Tokens (B, N, C) as packed patches (B, N, outputs), after a norm that is scaled by t."""

    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.patch**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.embedding, config.width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        normed = F.layer_norm(h, h.shape[-1:], eps=NORM_EPS)
        patches: Tensor = self.linear(normed * (1 + self.adaLN_modulation(embedding)[:, None]))
        return patches


class ZImage(nn.Module):
    """The transformer of Z-Image."""

    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.x_embedder = nn.Linear(config.patch**2 * config.in_channels, width)
        self.t_embedder = TimeEmbedder(config.embedding)
        self.cap_embedder = nn.Sequential(
            HeadNorm(config.context_dim, config.eps), nn.Linear(config.context_dim, width)
        )
        self.x_pad_token, self.cap_pad_token = (nn.Parameter(torch.zeros(1, width)) for _ in range(2))
        self.noise_refiner = nn.ModuleList(ZImageBlock(config) for _ in range(config.refiners))
        self.context_refiner = nn.ModuleList(ZImageBlock(config, modulated=False) for _ in range(config.refiners))
        self.layers = nn.ModuleList(ZImageBlock(config) for _ in range(config.depth))
        self.final_layer = ScaledHead(config)
        refined = [Site("self", "block", i) for i in range(config.refiners)]
        blocks = [Site(kind, "block", i) for i in range(config.depth) for kind in SITE_KINDS]
        self.sites = (*refined, *blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of the computation."""
        return next(self.parameters()).dtype

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
        """u (B, C, H, W) for x (B, C, H, W) at times t (B) in 0 … 1000.

        tokens (B, L, D) with mask (B, L), true where a token counts, at the beginning of each row. vector and spatial
        are None: a Z-Image takes none.
        """
        patch = self.config.patch
        size = (x.shape[2] // patch, x.shape[3] // patch)
        count = size[0] * size[1]
        embedding = self.t_embedder(TIME_RANGE - t)
        grid = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
        patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # channels vary fastest in a token
        h = _fill_up(self.x_embedder(patches), self.x_pad_token)
        text, text_keys, text_places = self._embed_text(tokens, mask)
        places = F.pad(patch_places(size, x.device), (0, 0, 0, h.shape[1] - count))
        ends = text_keys.sum(1)[:, None] + 1  # the picture comes after its text
        first = torch.where(torch.arange(h.shape[1], device=x.device) < count, ends, 0)
        places = torch.cat([first[:, :, None].to(places), places[None, :, 1:].expand(x.shape[0], -1, -1)], dim=2)
        of_picture, of_text, of_both = (
            turns_of(axis_angles(positions, self.config.axes, ROTARY_BASE)[:, None])
            for positions in (places, text_places, torch.cat([places, text_places], dim=1))
        )
        for index, block in enumerate(self.noise_refiner):
            h = h + block(h, embedding, of_picture, None, hooks.attend(Site("self", "block", index), size))
        for block in self.context_refiner:
            text = text + block(text, embedding, of_text, None if mask is None else text_keys)
        keys = None if mask is None else torch.cat([text_keys.new_ones(h.shape[:2]), text_keys], dim=1)
        context = torch.cat([h[:, count:], text], dim=1)
        h = self._run_blocks(h[:, :count], context, embedding, of_both, keys, size, hooks)
        return -patches_to_picture(self.final_layer(h, embedding), patch, size)

    def _run_blocks(
        self,
        h: Tensor,
        context: Tensor,
        embedding: Tensor,
        turns: Tensor,
        keys: Tensor | None,
        size: tuple[int, int],
        hooks: Hooks,
    ) -> Tensor:
        """The patches (B, N, C) after all blocks, computed together with all other tokens, `context` (B, M, C)."""
        count, last = h.shape[1], len(self.layers) - 1
        for index, block in enumerate(self.layers):
            attend = hooks.attend(Site("joint", "block", index), size)
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            change = block(torch.cat([entered, context], dim=1), embedding, turns, keys, attend)
            h = hooks.block(index, h, change[:, :count], size)
            if index < last:  # nothing uses the context after it
                context = hooks.text_block(index, context, change[:, count:])
        return h

    def _embed_text(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The text's tokens (B, M, C), which of them are keys (B, M), and their places (B, M, 3).

        A sample's tokens are filled up to a multiple of 32; those beyond, up to the longest sample's, are no keys.
        """
        text = _fill_up(self.cap_embedder(tokens), self.cap_pad_token)
        index = torch.arange(text.shape[1], device=tokens.device)[None].expand(text.shape[0], -1)
        length = tokens.new_full((text.shape[0], 1), tokens.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        length = length.long()
        text = torch.where((index < length)[:, :, None], text, self.cap_pad_token.to(text.dtype))
        keys = index < length + -length % MULTIPLE
        return text, keys, F.pad((index + 1)[:, :, None].float(), (0, 2))

    def list_lora_layers(self) -> dict[str, LayerRows]:
        """Its layers by their names in diffusers, for LoRA files."""
        return z_image_layers(self.config)


def _fill_up(h: Tensor, token: Tensor) -> Tensor:
    """Tokens (B, N, C) with a learned token (1, C) at the end of each row, up to a multiple of 32."""
    return torch.cat([h, token.to(h.dtype).expand(h.shape[0], -h.shape[1] % MULTIPLE, -1)], dim=1)


class ZImageDenoiser(TransformerDenoiser):
    """The `NetworkDenoiser` of a Z-Image; tokens that the mask of a text leaves out do not count."""

    network: ZImage
    mixes_tokens = True

    @property
    def config(self) -> ZImageConfig:
        return self.network.config


LAYERS = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
}


def z_image_layers(config: ZImageConfig) -> dict[str, LayerRows]:
    """The network's layers by their names in diffusers, where these are others."""
    layers = {theirs: LayerRows(ours) for theirs, ours in LAYERS.items()}
    counts = {"noise_refiner": config.refiners, "context_refiner": config.refiners, "layers": config.depth}
    for stack, count in counts.items():
        for block in (f"{stack}.{index}.attention" for index in range(count)):
            layers[f"{block}.to_out.0"] = LayerRows(f"{block}.out")
            for number, letter in enumerate("qkv"):
                layers[f"{block}.to_{letter}"] = LayerRows(f"{block}.qkv", number * config.width, config.width)
    return layers
