"""Names of Stable Diffusion 3's transformer in diffusers and in the single file: of tensors and of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from guidegraph.nodes.checkpoints.filling import LayerRows, join_rows
from guidegraph.nodes.models.transformers.mmdit import MMDiTConfig

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
