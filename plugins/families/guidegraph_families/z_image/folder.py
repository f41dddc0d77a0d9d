"""Z-Image's transformer in diffusers' layout (`ZImageTransformer2DModel`): its config and its names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_numbers
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.filling import join_rows
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.parts.measure import build_config
from guidegraph_families.z_image.network import PATCH, ROTARY_BASE, TIME_RANGE, ZImageConfig, z_image_layers

CLASS = "ZImageTransformer2DModel"
USED = ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads", "cap_feat_dim", "axes_dims")
IGNORED = ("axes_lens",)
"""The largest places: here there are none."""

FIXED: dict[str, tuple[Any, ...]] = {
    "all_patch_size": ([PATCH], (PATCH,)),
    "all_f_patch_size": ([1], (1,)),
    "norm_eps": (1e-5,),
    "qk_norm": (True,),
    "rope_theta": (ROTARY_BASE,),
    "t_scale": (TIME_RANGE,),
    "siglip_feat_dim": (None,),
}
AXES = (32, 48, 48)
NORMS = {".attention.norm_q.": ".attention.q_norm.", ".attention.norm_k.": ".attention.k_norm."}


def read_z_image_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> ZImageConfig:
    """Read the hyper-parameters from a config.json of diffusers; `kind` is the prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    width, heads = read_integer(config, "dim", 3840, path), read_integer(config, "n_heads", 30, path)
    if read_integer(config, "n_kv_heads", heads, path) != heads:
        raise ValueError(f"'{path}': 'n_kv_heads' is not 'n_heads', {heads}: heads that share keys are not supported")
    return build_config(
        ZImageConfig,
        "Z-Image",
        str(path),
        in_channels=read_integer(config, "in_channels", 16, path),
        patch=PATCH,
        width=width,
        depth=read_integer(config, "n_layers", 30, path),
        refiners=read_integer(config, "n_refiner_layers", 2, path),
        heads=heads,
        hidden=int(width / 3 * 8),
        context_dim=read_integer(config, "cap_feat_dim", 2560, path),
        axes=read_numbers(config, "axes_dims", AXES, path, integers=True),
        kind=kind,
    )


def z_image_tensors(tensors: Mapping[str, Tensor], config: ZImageConfig) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the names of the single file, and join queries, keys and values.

    Unknown names stay, and are left over in filling.
    """
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in NORMS.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return join_rows(renamed, z_image_layers(config))
