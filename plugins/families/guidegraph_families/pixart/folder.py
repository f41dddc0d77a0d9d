"""PixArt in diffusers' layout (`PixArtTransformer2DModel`): config from config.json, the authors' names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_number
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.filling import join_rows
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.parts.measure import build_config
from guidegraph_families.pixart.network import PixArtConfig, pixart_layers

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

TABLES = {"pos_embed.pos_embed": "pos_embed", "scale_shift_table": "final_layer.scale_shift_table"}
"""Tensors that are no weight or bias of a layer; each block has such a table too."""


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


def pixart_tensors(tensors: Mapping[str, Tensor], config: PixArtConfig) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the authors' names, and join queries, keys and values.

    Unknown names stay, and are left over in filling.
    """
    renamed = {
        re.sub(r"^transformer_blocks\.(\d+)\.scale_shift_table$", r"blocks.\1.scale_shift_table", name): tensor
        for name, tensor in tensors.items()
    }
    return join_rows({TABLES.get(name, name): tensor for name, tensor in renamed.items()}, pixart_layers(config))
