"""Flux.1's transformer in diffusers' layout (`FluxTransformer2DModel`): its config and its names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_flag, read_integer, read_numbers
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.filling import LayerRows, join_rows
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.flux.network import PATCH, FluxConfig
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
LAYERS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
DOUBLE_LAYERS = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE_LAYERS = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
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


def flux_layers(config: FluxConfig) -> dict[str, LayerRows]:
    """The network's layers by their names in diffusers."""
    layers = {theirs: LayerRows(ours) for theirs, ours in LAYERS.items()}
    layers["norm_out.linear"] = LayerRows("final_layer.adaLN_modulation.1", swapped=True)  # scale before shift
    for index in range(config.depth):
        layers |= dict(_double_layers(f"transformer_blocks.{index}", f"double_blocks.{index}", config.width))
    for index in range(config.single_depth):
        layers |= dict(_single_layers(f"single_transformer_blocks.{index}", f"single_blocks.{index}", config))
    return layers


def _double_layers(theirs: str, ours: str, width: int) -> Iterator[tuple[str, LayerRows]]:
    for name, layer in DOUBLE_LAYERS.items():
        yield f"{theirs}.{name}", LayerRows(f"{ours}.{layer}")
    for number, letter in enumerate("qkv"):
        rows = (number * width, width)
        yield f"{theirs}.attn.to_{letter}", LayerRows(f"{ours}.img_attn.qkv", *rows)
        yield f"{theirs}.attn.add_{letter}_proj", LayerRows(f"{ours}.txt_attn.qkv", *rows)


def _single_layers(theirs: str, ours: str, config: FluxConfig) -> Iterator[tuple[str, LayerRows]]:
    for name, layer in SINGLE_LAYERS.items():
        yield f"{theirs}.{name}", LayerRows(f"{ours}.{layer}")
    for number, letter in enumerate("qkv"):
        yield f"{theirs}.attn.to_{letter}", LayerRows(f"{ours}.linear1", number * config.width, config.width)
    yield f"{theirs}.proj_mlp", LayerRows(f"{ours}.linear1", 3 * config.width, config.hidden)


def _rename_norm(name: str) -> str:
    """The name of a norm's weight in the single file; other names stay."""
    match = re.match(r"(single_)?transformer_blocks\.(\d+)\.(attn\.norm_\w+)\.weight$", name)
    if match is None:
        return name
    norms, block = (SINGLE_NORMS, "single_blocks") if match[1] else (NORMS, "double_blocks")
    return f"{block}.{match[2]}.{norms[match[3]]}.scale" if match[3] in norms else name
