"""Tiny and released transformers of Stable Diffusion 3 of diffusers, and their weights in the single-file layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY: dict[str, dict[str, Any]] = {
    "3": {},
    "3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "3.5 large": {"qk_norm": "rms_norm"},
}
SHAPE: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}
RELEASED: dict[str, dict[str, Any]] = {
    "Stable Diffusion 3 medium": {"pos_embed_max_size": 192},
    "Stable Diffusion 3.5 medium": {
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    "Stable Diffusion 3.5 large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}
RELEASED_SHAPE: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}


def network(family: str, shape: dict[str, Any] = SHAPE) -> Any:
    """A tiny transformer of diffusers with random weights."""
    import diffusers

    model: Any = diffusers.SD3Transformer2DModel(**shape, **TINY[family]).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def single_file(model: Any) -> dict[str, Tensor]:
    """The weights under the names of the single file, the reverse of diffusers' own conversion."""
    state = model.state_dict()
    depth = len(model.transformer_blocks)
    layers = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
    }
    swapped = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
    tensors = {"pos_embed": state["pos_embed.pos_embed"]}
    for i in range(depth):
        ours, theirs = f"joint_blocks.{i}", f"transformer_blocks.{i}"
        attentions = {
            "x_block.attn": ("attn.to_{}", "attn.norm_{}"),
            "context_block.attn": ("attn.add_{}_proj", "attn.norm_added_{}"),
        }
        layers |= {
            f"{ours}.x_block.adaLN_modulation.1": f"{theirs}.norm1.linear",
            f"{ours}.x_block.attn.proj": f"{theirs}.attn.to_out.0",
            f"{ours}.x_block.mlp.fc1": f"{theirs}.ff.net.0.proj",
            f"{ours}.x_block.mlp.fc2": f"{theirs}.ff.net.2",
        }
        if i < depth - 1:
            layers |= {
                f"{ours}.context_block.adaLN_modulation.1": f"{theirs}.norm1_context.linear",
                f"{ours}.context_block.attn.proj": f"{theirs}.attn.to_add_out",
                f"{ours}.context_block.mlp.fc1": f"{theirs}.ff_context.net.0.proj",
                f"{ours}.context_block.mlp.fc2": f"{theirs}.ff_context.net.2",
            }
        else:
            swapped[f"{ours}.context_block.adaLN_modulation.1"] = f"{theirs}.norm1_context.linear"
        if i in model.config.dual_attention_layers:
            attentions["x_block.attn2"] = ("attn2.to_{}", "attn2.norm_{}")
            layers[f"{ours}.x_block.attn2.proj"] = f"{theirs}.attn2.to_out.0"
        for attention, (projection, norm) in attentions.items():
            for end in ("weight", "bias"):
                parts = [state[f"{theirs}.{projection.format(letter)}.{end}"] for letter in "qkv"]
                tensors[f"{ours}.{attention}.qkv.{end}"] = torch.cat(parts)
            if model.config.qk_norm is not None:
                for letter in "qk":
                    tensors[f"{ours}.{attention}.ln_{letter}.weight"] = state[f"{theirs}.{norm.format(letter)}.weight"]
    for name, theirs in layers.items():
        tensors |= {f"{name}.{end}": state[f"{theirs}.{end}"] for end in ("weight", "bias")}
    for name, theirs in swapped.items():
        for end in ("weight", "bias"):
            scale, shift = state[f"{theirs}.{end}"].chunk(2)
            tensors[f"{name}.{end}"] = torch.cat([shift, scale])
    return tensors
