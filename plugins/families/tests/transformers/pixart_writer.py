"""Tiny and released PixArts of diffusers, and their weights in the layout of PixArt's authors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "cross_attention_dim": 32,
    "caption_channels": 24,
    "sample_size": 16,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
RELEASED: dict[str, dict[str, Any]] = {
    f"PixArt-Sigma-XL-2-{name}": {"sample_size": side, "interpolation_scale": scale}
    for name, side, scale in (("256", 32, 0.5), ("512-MS", 64, 1), ("1024-MS", 128, 2), ("2K-MS", 256, 4))
}
RELEASED_SHAPE: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "use_additional_conditions": False,
}


def network(**changes: Any) -> Any:
    """A tiny PixArt of diffusers with random weights."""
    import diffusers

    model: Any = diffusers.PixArtTransformer2DModel(**{**TINY, **changes}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def authors_tensors(model: Any, tokens: int = 300) -> dict[str, Tensor]:
    """The weights of a PixArt of diffusers under the names of the authors' software; tokens: of the null caption."""
    state = model.state_dict()
    layers = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
        "t_block.1": "adaln_single.linear",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.linear": "proj_out",
    }
    device = state["scale_shift_table"].device
    tensors = {
        "pos_embed": model.pos_embed.pos_embed,
        "y_embedder.y_embedding": torch.zeros(tokens, model.config.caption_channels, device=device),
        "final_layer.scale_shift_table": state["scale_shift_table"],
    }
    for i in range(len(model.transformer_blocks)):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        tensors[f"{ours}.scale_shift_table"] = state[f"{theirs}.scale_shift_table"]
        layers |= {
            f"{ours}.attn.proj": f"{theirs}.attn1.to_out.0",
            f"{ours}.cross_attn.q_linear": f"{theirs}.attn2.to_q",
            f"{ours}.cross_attn.proj": f"{theirs}.attn2.to_out.0",
            f"{ours}.mlp.fc1": f"{theirs}.ff.net.0.proj",
            f"{ours}.mlp.fc2": f"{theirs}.ff.net.2",
        }
        for name, source, letters in (("attn.qkv", "attn1", "qkv"), ("cross_attn.kv_linear", "attn2", "kv")):
            for end in ("weight", "bias"):
                parts = [state[f"{theirs}.{source}.to_{letter}.{end}"] for letter in letters]
                tensors[f"{ours}.{name}.{end}"] = torch.cat(parts)
    for name, theirs in layers.items():
        tensors |= {f"{name}.{end}": state[f"{theirs}.{end}"] for end in ("weight", "bias")}
    return tensors
