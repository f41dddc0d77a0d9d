"""Tiny and released DiTs of diffusers, and their weights in the layout of DiT's authors."""

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
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
RELEASED: dict[str, dict[str, Any]] = {
    name: {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "sample_size": side,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
    }
    for name, side in (("DiT-XL-2-256", 32), ("DiT-XL-2-512", 64))
}

RELEASED_CONFIG: dict[str, Any] = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
"""config.json of the transformer in the released folder of 256 pixels."""


def network(**changes: Any) -> Any:
    """A tiny DiT of diffusers with random weights; all blocks have the same embeddings, as in the released ones."""
    import diffusers

    model: Any = diffusers.DiTTransformer2DModel(**{**TINY, **changes}).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    embeddings = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(embeddings)
    return model


def follow_authors(model: Any) -> Any:
    """Compute as the authors' software does where diffusers differs: the frequencies of t, and ε of a norm."""
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return model


def authors_tensors(model: Any) -> dict[str, Tensor]:
    """The weights of a DiT of diffusers under the names of the authors' software."""
    state = model.state_dict()
    first = "transformer_blocks.0.norm1.emb"
    layers = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": f"{first}.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{first}.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    tensors = {
        "pos_embed": model.pos_embed.pos_embed,
        "y_embedder.embedding_table.weight": state[f"{first}.class_embedder.embedding_table.weight"],
    }
    for i in range(len(model.transformer_blocks)):
        block = f"transformer_blocks.{i}"
        layers |= {
            f"blocks.{i}.adaLN_modulation.1": f"{block}.norm1.linear",
            f"blocks.{i}.attn.proj": f"{block}.attn1.to_out.0",
            f"blocks.{i}.mlp.fc1": f"{block}.ff.net.0.proj",
            f"blocks.{i}.mlp.fc2": f"{block}.ff.net.2",
        }
        for end in ("weight", "bias"):
            parts = [state[f"{block}.attn1.to_{letter}.{end}"] for letter in "qkv"]
            tensors[f"blocks.{i}.attn.qkv.{end}"] = torch.cat(parts)
    for ours, theirs in layers.items():
        tensors |= {f"{ours}.{end}": state[f"{theirs}.{end}"] for end in ("weight", "bias")}
    return tensors
