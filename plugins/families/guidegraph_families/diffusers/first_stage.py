"""Loads first stages in diffusers' layout (`AutoencoderKL`, `VQModel`) by renaming their tensors to CompVis names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_number, read_signed
from guidegraph.nodes.checkpoints.diffusers.config import check_config, read_json
from guidegraph.nodes.checkpoints.read_tensors import read_tensors
from guidegraph_families.networks.autoencoder import ReleasedFirstStage
from guidegraph_families.parts.first_stage import build_first_stage

CLASSES = ("AutoencoderKL", "VQModel")
USED = (
    "scaling_factor", "shift_factor", "norm_num_groups", "block_out_channels", "latent_channels", "vq_embed_dim",
)  # fmt: skip
IGNORED = (
    "in_channels", "out_channels", "down_block_types", "up_block_types", "layers_per_block", "sample_size",
    "num_vq_embeddings", "force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention",
    "dropout",
)  # fmt: skip
"""Inferred from the tensors, or without effect on the result."""

FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "norm_type": ("group",),
    "lookup_from_codebook": (False,),
}
SCALE = 0.18215
"""The default of both classes."""

ATTENTION = {
    "group_norm": "norm",
    "to_q": "q", "query": "q",
    "to_k": "k", "key": "k",
    "to_v": "v", "value": "v",
    "to_out.0": "proj_out", "proj_attn": "proj_out",
}  # fmt: skip
"""CompVis names of an attention layer by diffusers' names, new and old."""


def load_first_stage(tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> ReleasedFirstStage:
    """Load a frozen `AutoencoderKL` or `VQModel` of diffusers, on the run's device and in its dtype.

    tensors: under diffusers' names; config: its config.json. Raises ``ValueError`` if the config has unsupported
    values, or the tensors do not make a complete first stage.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    scale = SCALE if not config.get("scaling_factor") else read_number(config, "scaling_factor", SCALE, path)
    shift = 0.0 if config.get("shift_factor") is None else read_signed(config, "shift_factor", path)
    groups = 32 if config.get("norm_num_groups") is None else read_integer(config, "norm_num_groups", 32, path)
    return build_first_stage(to_compvis(tensors), str(path), scale, groups, shift)


def to_compvis(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of a first stage to CompVis names; unknown names stay, and are left over in filling."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"encoder\.down_blocks\.(\d+)\.", name))]
    levels = 1 + max(numbers, default=-1)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        compvis_name = rename_weight(name, levels)
        is_convolution = re.search(r"\.(q|k|v|proj_out)\.weight$", compvis_name) and tensor.ndim == 2
        renamed[compvis_name] = tensor[:, :, None, None] if is_convolution else tensor
    return renamed


def rename_weight(name: str, levels: int) -> str:
    """The CompVis name for a diffusers name of a first stage with `levels` resolutions."""
    name = re.sub(r"^encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1.", name)
    name = re.sub(r"^decoder\.up_blocks\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", name)
    name = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", name)
    name = re.sub(r"\.mid_block\.resnets\.(\d+)\.", lambda match: f".mid.block_{int(match[1]) + 1}.", name)
    name = re.sub(r"\.mid_block\.attentions\.0\.", ".mid.attn_1.", name)
    name = name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.")
    name = name.replace(".conv_shortcut.", ".nin_shortcut.").replace(".conv_norm_out.", ".norm_out.")
    inside = re.match(r"(.*\.attn(?:_|\.)\d+\.)(.+)\.(weight|bias)$", name)
    return f"{inside[1]}{ATTENTION.get(inside[2], inside[2])}.{inside[3]}" if inside else name


STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names of weights in diffusers, and in transformers, now and formerly."""

VARIANTS = ("", "fp16")
"""Full precision first; a folder may hold only half precision."""

NOT_AVERAGED = ("non_ema",)
"""Variant of the U-Net's weights without moving averages, in the folders of Stable Diffusion 1.4 and 1.5."""


def read_component(folder: Path, ema: bool = True) -> Mapping[str, Tensor]:
    """Read the tensors of a component, memory-mapped; without ema, from the variant without moving averages.

    Raises ``ValueError`` if there are none, or a shard is missing.
    """
    for suffix in ("safetensors", "bin"):
        for variant in VARIANTS if ema else NOT_AVERAGED:
            dot = f".{variant}" if variant else ""
            for stem in STEMS:
                if (file := folder / f"{stem}{dot}.{suffix}").is_file():
                    return read_tensors(file)
                if (index := folder / f"{stem}.{suffix}.index{dot}.json").is_file():
                    return _read_shards(index)
    listing = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    if not ema:
        raise ValueError(
            f"'{folder}' holds no weights beside those that are its moving averages, or may be: expected "
            f"{STEMS[0]}.{NOT_AVERAGED[0]}.safetensors; found {listing or 'nothing'}: leave ema out"
        )
    raise ValueError(
        f"'{folder}' holds no weights: expected {STEMS[0]}.safetensors or model.safetensors, whole or with an index, "
        f"or the same as fp16 or .bin; found {listing or 'nothing'}. The folder is incomplete: nothing was loaded"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all shards that an index names, which must lie in the index's folder."""
    shard_names = read_json(index).get("weight_map")
    if not isinstance(shard_names, dict) or not all(isinstance(name, str) for name in shard_names.values()):
        raise ValueError(f"'{index}' is not an index of weights: expected a 'weight_map' from names to files")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shard_names.values())):
        if name != Path(name).name:
            raise ValueError(f"'{index}' names '{name}', which is not the plain name of a file beside it")
        tensors.update(read_tensors(index.parent / name))
    missing = [name for name in shard_names if name not in tensors]
    if missing:
        raise ValueError(f"'{index}' names {len(missing)} tensors that its files do not hold: {', '.join(missing[:4])}")
    return tensors
