"""Flux.1's transformer in diffusers' layout (`FluxTransformer2DModel`): its config and its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_flag, read_integer, read_numbers
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.filling import join_rows
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.flux.network import PATCH, FluxConfig, flux_layers
from guidegraph_families.parts.measure import build_config

CLASS = "FluxTransformer2DModel"
USED = (
    "in_channels", "out_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads",
    "joint_attention_dim", "pooled_projection_dim", "guidance_embeds", "axes_dims_rope",
)  # fmt: skip
FIXED: dict[str, tuple[Any, ...]] = {"patch_size": (1,)}
"""The pipeline packs the patches, so that the transformer has none."""

AXES = (16, 56, 56)
MLP_RATIO = 4
NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}


def read_flux_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> FluxConfig:
    """Read the hyper-parameters from a config.json of diffusers; `kind` is the prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED)
    area = PATCH**2
    inputs = read_integer(config, "in_channels", 64, path)
    outputs = inputs if config.get("out_channels") is None else read_integer(config, "out_channels", 64, path)
    heads = read_integer(config, "num_attention_heads", 24, path)
    width = heads * read_integer(config, "attention_head_dim", 128, path)
    if inputs % area or outputs % area or inputs < outputs:
        raise ValueError(
            f"'{path}': {inputs} channels in and {outputs} out are not those of packed patches of {PATCH} × {PATCH}"
        )
    return build_config(
        FluxConfig,
        "Flux",
        str(path),
        in_channels=outputs // area,
        spatial_channels=(inputs - outputs) // area,
        patch=PATCH,
        width=width,
        depth=read_integer(config, "num_layers", 19, path),
        single_depth=read_integer(config, "num_single_layers", 38, path),
        heads=heads,
        hidden=MLP_RATIO * width,
        context_dim=read_integer(config, "joint_attention_dim", 4096, path),
        vector_dim=read_integer(config, "pooled_projection_dim", 768, path),
        axes=read_numbers(config, "axes_dims_rope", AXES, path, integers=True),
        guidance=read_flag(config, "guidance_embeds", False, path),
        kind=kind,
    )


def flux_tensors(tensors: Mapping[str, Tensor], config: FluxConfig) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the names of the single file, and join those that it has as one.

    Unknown names stay, and are left over in filling.
    """
    return join_rows({_rename_norm(name): tensor for name, tensor in tensors.items()}, flux_layers(config))


def _rename_norm(name: str) -> str:
    """The name of a norm's weight in the single file; other names stay."""
    match = re.match(r"(single_)?transformer_blocks\.(\d+)\.(attn\.norm_\w+)\.weight$", name)
    if match is None:
        return name
    norms, block = (SINGLE_NORMS, "single_blocks") if match[1] else (NORMS, "double_blocks")
    return f"{block}.{match[2]}.{norms[match[3]]}.scale" if match[3] in norms else name
