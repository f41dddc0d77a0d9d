"""PixArt in diffusers' layout (`PixArtTransformer2DModel`): config from config.json, the authors' names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_number
from guidegraph.nodes.checkpoints.diffusers.block_names import join_parts, join_qkv, rename_layer
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.transformers.measure import build_config
from guidegraph.nodes.models.transformers.pixart import PixArtConfig
from guidegraph.nodes.types import PredictionKind

CLASSES = ("PixArtTransformer2DModel", "Transformer2DModel")
"""Released folders have the second name, which diffusers gave to several networks."""

USED = (
    "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "cross_attention_dim",
    "sample_size", "patch_size", "interpolation_scale", "use_additional_conditions", "caption_channels",
)  # fmt: skip
IGNORED = ("dropout", "norm_num_groups", "upcast_attention", "num_embeds_ada_norm")
"""Without effect on the result."""

FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "attention_type": ("default",),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6,),
}
SIZED = 128
"""`sample_size` whose network has embeddings of the picture's size, if its config does not say."""

SCALED = 64
"""`sample_size` for each unit of `interpolation_scale`, if its config does not say."""

LAYERS = {
    "pos_embed.proj": "x_embedder.proj",
    "pos_embed.pos_embed": "pos_embed",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "scale_shift_table": "final_layer.scale_shift_table",
    "proj_out": "final_layer.linear",
}
BLOCK_LAYERS = {
    **{f"attn1.to_{part}": f"attn.{part}" for part in "qkv"},
    "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear",
    **{f"attn2.to_{part}": f"cross_attn.{part}" for part in "kv"},
    "attn2.to_out.0": "cross_attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}


def read_pixart_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> PixArtConfig:
    """Read the hyper-parameters of a PixArt from a config.json of diffusers; `kind` is its prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    sample_size = read_integer(config, "sample_size", 128, path)
    sized = config.get("use_additional_conditions")
    if sized is None:
        sized = sample_size == SIZED
    if sized:
        raise ValueError(
            f"'{path}' describes PixArt-α with embeddings of the picture's size ('use_additional_conditions'), which "
            "is not supported: use PixArt-Σ"
        )
    channels = read_integer(config, "in_channels", 4, path)
    patch = read_integer(config, "patch_size", 2, path)
    heads = read_integer(config, "num_attention_heads", 16, path)
    width = heads * read_integer(config, "attention_head_dim", 72, path)
    if read_integer(config, "cross_attention_dim", 1152, path) != width:
        raise ValueError(f"'{path}': 'cross_attention_dim' is not the width of the heads, {width}")
    scale = float(max(sample_size // SCALED, 1))
    if config.get("interpolation_scale") is not None:
        scale = read_number(config, "interpolation_scale", scale, path)
    return build_config(
        PixArtConfig,
        "PixArt",
        str(path),
        in_channels=channels,
        out_channels=channels if config.get("out_channels") is None else read_integer(config, "out_channels", 8, path),
        patch=patch,
        width=width,
        depth=read_integer(config, "num_layers", 28, path),
        heads=heads,
        hidden=4 * width,
        context_dim=read_integer(config, "caption_channels", None, path),
        grid=sample_size // patch / scale,
        kind=kind,
    )


def pixart_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the authors' names; unknown names stay, and are left over in filling."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.match(r"transformer_blocks\.(\d+)\.(.+)$", name)
        if match is None:
            renamed[rename_layer(name, LAYERS)] = tensor
        else:
            renamed[f"blocks.{match[1]}.{rename_layer(match[2], BLOCK_LAYERS)}"] = tensor
    return join_parts(join_qkv(renamed), "kv", "kv_linear")
