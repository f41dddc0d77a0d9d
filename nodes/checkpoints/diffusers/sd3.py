"""Stable Diffusion 3's transformer in diffusers' layout (`SD3Transformer2DModel`): its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.nodes.checkpoints.config_values import read_integer
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.transformers.measure import build_config
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
    return build_config(
        MMDiTConfig,
        "MMDiT",
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
