"""Stable Diffusion 3's transformer in diffusers' layout (`SD3Transformer2DModel`): its config and its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer
from guidegraph.nodes.checkpoints.diffusers.block_names import join_qkv, rename_layer
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.transformers.sd3 import build_mmdit_config
from guidegraph.nodes.models.transformers.mmdit import MMDiTConfig
from guidegraph.nodes.types import PredictionKind

CLASS = "SD3Transformer2DModel"
USED = (
    "patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
    "caption_projection_dim", "pooled_projection_dim", "out_channels", "pos_embed_max_size", "dual_attention_layers",
)  # fmt: skip
IGNORED = ("sample_size",)
"""Without effect: the positions are in the file."""

FIXED: dict[str, tuple[Any, ...]] = {"qk_norm": (None, "rms_norm")}
LAYERS = {
    "pos_embed.proj": "x_embedder.proj",
    "pos_embed.pos_embed": "pos_embed",
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


def read_sd3_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> MMDiTConfig:
    """Read the hyper-parameters from a config.json of diffusers; `kind` is the prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    channels = read_integer(config, "in_channels", 16, path)
    heads = read_integer(config, "num_attention_heads", 18, path)
    width = heads * read_integer(config, "attention_head_dim", 64, path)
    if read_integer(config, "caption_projection_dim", 1152, path) != width:
        raise ValueError(f"'{path}': 'caption_projection_dim' is not the width of the heads, {width}")
    dual = config.get("dual_attention_layers", ())
    if not isinstance(dual, list | tuple) or not all(isinstance(index, int) for index in dual):
        raise ValueError(f"'{path}': 'dual_attention_layers' is {dual!r:.60}; expected a list of whole numbers")
    return build_mmdit_config(
        str(path),
        in_channels=channels,
        out_channels=channels if config.get("out_channels") is None else read_integer(config, "out_channels", 16, path),
        patch=read_integer(config, "patch_size", 2, path),
        width=width,
        depth=read_integer(config, "num_layers", 18, path),
        heads=heads,
        hidden=4 * width,
        context_dim=read_integer(config, "joint_attention_dim", 4096, path),
        vector_dim=read_integer(config, "pooled_projection_dim", 2048, path),
        side=read_integer(config, "pos_embed_max_size", 96, path),
        qk_norm=config.get("qk_norm") is not None,
        dual=tuple(dual),
        kind=kind,
    )


def sd3_tensors(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the names of the single file; unknown names stay, and are left over in filling.

    depth: blocks. Where only a shift and a scale are left, diffusers stores the scale first: they are swapped.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.match(r"transformer_blocks\.(\d+)\.(.+)$", name)
        if match is None:
            renamed[rename_layer(name, LAYERS)] = tensor
        else:
            renamed[f"joint_blocks.{match[1]}.{rename_layer(match[2], BLOCK_LAYERS)}"] = tensor
    for layer in (f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1", "final_layer.adaLN_modulation.1"):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in renamed:
                renamed[name] = torch.cat(renamed[name].chunk(2)[::-1])
    return join_qkv(renamed)
