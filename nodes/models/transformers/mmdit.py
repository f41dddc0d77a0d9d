"""MMDiT: a transformer over the patches of a picture and the tokens of a text, each with its own weights.

Esser et al. 2024 (arXiv:2403.03206), section 4: both streams are joined for attention alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from guidegraph.nodes.checkpoints.filling import LayerRows, join_rows
from guidegraph.nodes.guidance.hooks import Site
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import NO_HOOKS, Attend, Hooks
from guidegraph.nodes.models.transformers.layers import (
    PatchEmbedding,
    PatchHead,
    TimestepMLP,
    TokenAttention,
    TokenMLP,
    VectorMLP,
    chunk_modulation,
    crop_table,
    initialise,
    modulate,
    modulation,
    rotary_angles,
    sincos_positions,
)
from guidegraph.nodes.types import PredictionKind

Positions: TypeAlias = Literal["table", "rotary"]


@dataclass(frozen=True)
class MMDiTConfig:
    """Hyper-parameters of an MMDiT.

    in_channels: of x; spatial_channels: of the spatial condition, concatenated to x. out_channels: as
    x has, or twice as many if the second half is a learned variance. patch: side of a patch. width: of a token; depth:
    blocks; hidden: width of the feed-forwards. context_dim: width of the condition's tokens; vector_dim: of its vector,
    None for a model without one. positions: a learned table of side × side patches, of which a picture takes the
    middle, or a rotation of queries and keys, for any size. qk_norm: normalises queries and keys. dual: the blocks with
    a second attention, among the patches alone (Stable Diffusion 3.5 medium). kind: the prediction.
    """

    in_channels: int = 4
    out_channels: int = 4
    spatial_channels: int = 0
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    context_dim: int = 384
    vector_dim: int | None = 384
    positions: Positions = "table"
    side: int = 64
    qk_norm: bool = True
    dual: tuple[int, ...] = ()
    kind: PredictionKind = "eps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dual", tuple(sorted(set(self.dual))))
        unit = 4 * self.heads if self.positions == "rotary" else 4
        if self.width % unit:
            raise ValueError(
                f"an MMDiT with {self.positions} positions has a width that is a multiple of {unit}; found {self.width}"
            )
        if any(index not in range(self.depth) for index in self.dual):
            raise ValueError(f"'dual' lists blocks of 0 … {self.depth - 1}; found {self.dual}")

    @property
    def factor(self) -> int:
        """The sides of x are multiples of this."""
        return self.patch


class MMDiTStream(nn.Module):
    """The weights of a block for one of its streams.

    dual: with a second attention among the stream's own tokens. last: the stream ends here, after the attention's
    projections.
    """

    def __init__(self, config: MMDiTConfig, *, dual: bool = False, last: bool = False) -> None:
        super().__init__()
        self.parts = 2 if last else 9 if dual else 6
        self.attn = TokenAttention(config.width, config.heads, norm=config.qk_norm, out=not last)
        self.attn2 = TokenAttention(config.width, config.heads, norm=config.qk_norm) if dual else None
        self.mlp = None if last else TokenMLP(config.width, config.hidden)
        self.adaLN_modulation = modulation(config.width, self.parts)

    def modulation(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate (B, 1, C) of the attention, then of the feed-forward, then of the second attention."""
        return chunk_modulation(self.adaLN_modulation, embedding, self.parts)

    def change(self, h: Tensor, attended: Tensor, parts: tuple[Tensor, ...], own: Tensor | None = None) -> Tensor:
        """The change (B, N, C) to add to tokens, from attended values (B, heads, N, D), also of `attn2`."""
        assert self.mlp is not None
        change = parts[2] * self.attn.merge(attended)
        if own is not None:
            change = change + parts[8] * own
        return torch.addcmul(change, parts[5], self.mlp(modulate(h + change, parts[3], parts[4])))


class MMDiTBlock(nn.Module):
    """Joint attention of the patches and the tokens of the text; everything else is apart.

    The last block does not use the text after its attention.
    """

    def __init__(self, config: MMDiTConfig, index: int) -> None:
        super().__init__()
        self.context_block = MMDiTStream(config, last=index == config.depth - 1)
        self.x_block = MMDiTStream(config, dual=index in config.dual)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        embedding: Tensor,
        mask: Tensor | None = None,
        angles: Tensor | None = None,
        joint: Attend = attention,
        own: Attend = attention,
    ) -> tuple[Tensor, Tensor | None]:
        """The changes to add to the patches (B, N, C) and to the text (B, L, C); None for the text in the last block.

        mask (B, N + L), true where a key may be attended to; angles (N, D/2) turn the patches' queries and keys. joint,
        own: the attention of both streams, and the second one of the patches.
        """
        patches, text = self.x_block, self.context_block
        parts, text_parts = patches.modulation(embedding), text.modulation(embedding)
        of_patches = patches.attn.project(modulate(x, parts[0], parts[1]), angles)
        of_text = text.attn.project(modulate(context, text_parts[0], text_parts[1]))
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(of_patches, of_text, strict=True))
        attended = joint(query, key, value, mask)
        count = x.shape[1]
        second = None
        if patches.attn2 is not None:
            second = patches.attn2(modulate(x, parts[6], parts[7]), own, angles)
        change = patches.change(x, attended[:, :, :count], parts, second)
        return change, None if text.mlp is None else text.change(context, attended[:, :, count:], text_parts)


class MMDiT(nn.Module):
    """A multimodal diffusion transformer."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config.in_channels + config.spatial_channels, config.width, config.patch)
        if config.positions == "table":
            self.pos_embed = nn.Parameter(torch.empty(1, config.side**2, config.width))
        self.t_embedder = TimestepMLP(config.width)
        self.y_embedder = None if config.vector_dim is None else VectorMLP(config.vector_dim, config.width)
        self.context_embedder = nn.Linear(config.context_dim, config.width)
        self.joint_blocks = nn.ModuleList(MMDiTBlock(config, index) for index in range(config.depth))
        self.final_layer = PatchHead(config.width, config.patch, config.out_channels)
        self.own_sites = {block: Site("self", "block", i) for i, block in enumerate(config.dual)}
        self.sites = tuple(
            site
            for index in range(config.depth)
            for site in (
                Site("input", "block", index),
                Site("joint", "block", index),
                self.own_sites.get(index),
                Site("skip", "block", index),
                Site("feature", "block", index),
            )
            if site is not None
        )
        initialise(self)
        if config.positions == "table":
            size = (config.side, config.side)
            table = sincos_positions(config.width, size, config.side, self.pos_embed.device)
            self.pos_embed.data.copy_(table[None])

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

        tokens (B, L, D) with mask (B, L), true where a token counts; vector (B, D), added to the embedding of t;
        spatial (B, C, H, W), concatenated to x along the channels.
        """
        config = self.config
        size = (x.shape[2] // config.patch, x.shape[3] // config.patch)
        h = self.x_embedder(x if spatial is None else torch.cat([x, spatial], dim=1))
        angles = None
        if config.positions == "table":
            h = h + crop_table(self.pos_embed, config.side, size)
        else:
            angles = rotary_angles(config.width // config.heads, size, x.device)
        embedding = self.t_embedder(t)
        if self.y_embedder is not None and vector is not None:
            embedding = embedding + self.y_embedder(vector)
        context: Tensor = self.context_embedder(tokens)
        keys = None if mask is None else torch.cat([mask.new_ones(h.shape[:2]), mask], dim=1)
        for index, block in enumerate(self.joint_blocks):
            joint = hooks.attend(Site("joint", "block", index), size)
            own = hooks.attend(self.own_sites.get(index), size)
            entered = hooks.input_tokens(Site("input", "block", index), h, size)
            change, text_change = block(entered, context, embedding, keys, angles, joint, own)
            h = hooks.block(index, h, change, size)
            if text_change is not None:
                context = hooks.text_block(index, context, text_change)
        out: Tensor = self.final_layer(h, embedding, size)
        return out

    def list_lora_layers(self) -> dict[str, LayerRows]:
        """Its layers by their names in diffusers, for LoRA files."""

        return sd3_layers(self.config)


QKV = ("q", "k", "v")
TABLES = {"pos_embed.pos_embed": "pos_embed"}
"""Tensors that are no weight or bias of a layer."""

LAYERS = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
BLOCK_LAYERS = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    **{f"attn.to_{part}": f"x_block.attn.{part}" for part in "qkv"},
    **{f"attn.add_{part}_proj": f"context_block.attn.{part}" for part in "qkv"},
    **{f"attn2.to_{part}": f"x_block.attn2.{part}" for part in "qkv"},
    **{f"attn.norm_{part}": f"x_block.attn.ln_{part}" for part in "qk"},
    **{f"attn.norm_added_{part}": f"context_block.attn.ln_{part}" for part in "qk"},
    **{f"attn2.norm_{part}": f"x_block.attn2.ln_{part}" for part in "qk"},
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}


def sd3_layers(config: MMDiTConfig) -> dict[str, LayerRows]:
    """The network's layers by their names in diffusers, also in blocks that a network of this config lacks."""
    layers = {theirs: LayerRows(ours) for theirs, ours in LAYERS.items()}
    layers["norm_out.linear"] = LayerRows("final_layer.adaLN_modulation.1", swapped=True)  # scale before shift
    for index in range(config.depth):
        for theirs, ours in BLOCK_LAYERS.items():
            owner, _, part = ours.rpartition(".")
            rows = LayerRows(f"joint_blocks.{index}.{ours}")
            if part in QKV:
                start = QKV.index(part) * config.width
                rows = LayerRows(f"joint_blocks.{index}.{owner}.qkv", start, config.width)
            layers[f"transformer_blocks.{index}.{theirs}"] = rows
    last = f"transformer_blocks.{config.depth - 1}.norm1_context.linear"
    layers[last] = replace(layers[last], swapped=True)
    return layers


def sd3_tensors(tensors: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the names of the single file, and join queries, keys and values.

    Unknown names stay, and are left over in filling.
    """
    return join_rows({TABLES.get(name, name): tensor for name, tensor in tensors.items()}, sd3_layers(config))
