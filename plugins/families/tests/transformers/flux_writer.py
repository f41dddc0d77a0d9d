"""Tiny and released transformers of Flux.1 of diffusers, and their weights in the layout of Black Forest Labs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY: dict[str, dict[str, Any]] = {
    "dev": {"guidance_embeds": True},
    "schnell": {},
    "depth dev": {"guidance_embeds": True, "in_channels": 32, "out_channels": 16},
}
SHAPE: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
}
RELEASED: dict[str, dict[str, Any]] = {
    "FLUX.1-dev": {"guidance_embeds": True},
    "FLUX.1-schnell": {},
    "FLUX.1-Depth-dev": {"guidance_embeds": True, "in_channels": 128, "out_channels": 64},
    "FLUX.1-Fill-dev": {"guidance_embeds": True, "in_channels": 384, "out_channels": 64},
}
BLOCKS = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
EMBEDDERS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}


def network(family: str, **changes: Any) -> Any:
    """A tiny transformer of diffusers with random weights."""
    import diffusers

    model: Any = diffusers.FluxTransformer2DModel(**{**SHAPE, **TINY[family], **changes}).eval().requires_grad_(False)
    return randomise(model)


def randomise(model: Any) -> Any:
    """Give a model random weights that keep the size of its features."""
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        spread = 0.15 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model


def single_file(model: Any) -> dict[str, Tensor]:
    """The weights under the names of the single file, the reverse of diffusers' own conversion."""
    state = model.state_dict()
    layers = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
    for ours, theirs in EMBEDDERS.items():
        if f"time_text_embed.{theirs}.linear_1.weight" in state:
            layers |= {
                f"{ours}.{end}_layer": f"time_text_embed.{theirs}.linear_{n}" for n, end in ((1, "in"), (2, "out"))
            }
    tensors: dict[str, Tensor] = {}
    for i in range(len(model.transformer_blocks)):
        ours, theirs = f"double_blocks.{i}", f"transformer_blocks.{i}"
        layers |= {f"{ours}.{layer}": f"{theirs}.{name}" for layer, name in BLOCKS.items()}
        streams = {"img": ("attn.to_{}", "attn.norm_{}"), "txt": ("attn.add_{}_proj", "attn.norm_added_{}")}
        for stream, (projection, norm) in streams.items():
            for end in ("weight", "bias"):
                parts = [state[f"{theirs}.{projection.format(letter)}.{end}"] for letter in "qkv"]
                tensors[f"{ours}.{stream}_attn.qkv.{end}"] = torch.cat(parts)
            for letter, name in (("q", "query"), ("k", "key")):
                weight = state[f"{theirs}.{norm.format(letter)}.weight"]
                tensors[f"{ours}.{stream}_attn.norm.{name}_norm.scale"] = weight
    for i in range(len(model.single_transformer_blocks)):
        ours, theirs = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        layers |= {f"{ours}.modulation.lin": f"{theirs}.norm.linear", f"{ours}.linear2": f"{theirs}.proj_out"}
        for end in ("weight", "bias"):
            parts = [state[f"{theirs}.attn.to_{letter}.{end}"] for letter in "qkv"]
            tensors[f"{ours}.linear1.{end}"] = torch.cat([*parts, state[f"{theirs}.proj_mlp.{end}"]])
        for letter, name in (("q", "query"), ("k", "key")):
            tensors[f"{ours}.norm.{name}_norm.scale"] = state[f"{theirs}.attn.norm_{letter}.weight"]
    for name, theirs in layers.items():
        tensors |= {f"{name}.{end}": state[f"{theirs}.{end}"] for end in ("weight", "bias")}
    for end in ("weight", "bias"):
        scale, shift = state[f"norm_out.linear.{end}"].chunk(2)
        tensors[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
    return tensors
