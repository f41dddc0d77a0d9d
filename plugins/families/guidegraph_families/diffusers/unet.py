"""U-Nets in diffusers' layout (`UNet2DConditionModel`, `UNet2DModel`): shape from config.json, canonical names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import (
    format_value,
    read_choice,
    read_flag,
    read_integer,
    read_number,
    read_numbers,
)
from guidegraph.nodes.checkpoints.diffusers.config import check_config, expand_levels
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.networks.config import UNetShape

CLASSES = ("UNet2DConditionModel", "UNet2DModel")
USED = (
    "in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types", "up_block_types",
    "mid_block_type", "attention_head_dim", "cross_attention_dim", "transformer_layers_per_block", "norm_num_groups",
    "norm_eps", "flip_sin_to_cos", "freq_shift", "downsample_padding", "use_linear_projection", "addition_embed_type",
    "class_embed_type", "projection_class_embeddings_input_dim", "num_class_embeds", "resnet_time_scale_shift",
    "addition_time_embed_dim", "add_attention", "downsample_type", "upsample_type", "attn_norm_num_groups",
)  # fmt: skip
IGNORED = ("sample_size", "dropout", "upcast_attention", "num_train_timesteps", "addition_embed_type_num_heads")
"""Without effect on the result: attention is as exact as its dtype."""

FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "mid_block_scale_factor": (1, 1.0),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "resnet_out_scale_factor": (1, 1.0),
    "attention_type": ("default",),
    "num_attention_heads": (None,),
    "only_cross_attention": (False, None),
    "encoder_hid_dim_type": (None,),
}
ATTENTION_BLOCKS = {
    "UNet2DConditionModel": ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
    "UNet2DModel": ("AttnDownBlock2D", "AttnUpBlock2D"),
}
PLAIN_BLOCKS = ("DownBlock2D", "UpBlock2D", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
MIDDLES = {"UNet2DConditionModel": "UNetMidBlock2DCrossAttn", "UNet2DModel": "UNetMidBlock2D"}


def read_unet_shape(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> UNetShape:
    """Read the shape of a U-Net from a config.json of diffusers; `kind` is its prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    name = read_choice(config, "_class_name", "", path, CLASSES)
    widths = tuple(int(width) for width in read_numbers(config, "block_out_channels", None, path, integers=True))
    levels = len(widths)
    depths, pooling = _levels(config, path, name, levels)
    tokens = name == "UNet2DConditionModel"
    middle = config.get("mid_block_type", MIDDLES[name])
    if middle != MIDDLES[name]:
        raise ValueError(
            f"'{path}': 'mid_block_type' is {format_value(middle)}, and only {MIDDLES[name]!r} is supported"
        )
    middle_depth = _depths(config, levels, path)[-1] if tokens else int(read_flag(config, "add_attention", True, path))
    groups = 32 if config.get("norm_num_groups") is None else read_integer(config, "norm_num_groups", 32, path)
    if config.get("attn_norm_num_groups") not in (None, groups):
        raise ValueError(f"'{path}': 'attn_norm_num_groups' differs from 'norm_num_groups', which is not supported")
    if config.get("downsample_padding", 1) not in (0, 1):
        padding = format_value(config["downsample_padding"])
        raise ValueError(f"'{path}': 'downsample_padding' is {padding}; expected 0 or 1")
    channels, out = (read_integer(config, f"{end}_channels", 4, path) for end in ("in", "out"))
    sample = channels if out == 2 * channels else out
    if sample > channels:
        raise ValueError(f"'{path}': the network takes {channels} channels and gives {out}, which is not supported")
    try:
        return UNetShape(
            in_channels=sample,
            out_channels=out,
            spatial_channels=channels - sample,
            channels=widths[0],
            widths=widths,
            blocks=_read_uniform(config, "layers_per_block", 2, path),
            depths=depths,
            middle_depth=middle_depth,
            heads=_heads(config, widths, tokens, path),
            context_dim=_read_uniform(config, "cross_attention_dim", 1280, path) if tokens else None,
            linear_projections=bool(config.get("use_linear_projection", False)),
            new_attention_order=True,
            scale_shift=_scale_shift(config, path),
            resblock_updown=pooling,
            classes=_classes(config, path),
            adm_channels=_adm_channels(config, path),
            groups=groups,
            norm_eps=read_number(config, "norm_eps", 1e-5, path),
            sine_first=not config.get("flip_sin_to_cos", True),
            frequency_shift=read_integer(config, "freq_shift", 0, path, low=0, high=max(widths[0] // 2 - 1, 0)),
            asymmetric_downsample=config.get("downsample_padding", 1) == 0,
            kind=kind,
            size_width=_size_width(config, path),
        )
    except ValueError as error:
        raise ValueError(f"'{path}' describes no U-Net that can be built: {error}") from None


def unet_layout(shape: UNetShape) -> UNetLayout:
    """The positions of a U-Net's layers in diffusers' names."""
    levels = len(shape.depths)
    up = frozenset(levels - 1 - level for level, depth in enumerate(shape.depths) if depth)
    return UNetLayout(levels, shape.blocks, up)


def unet_tensors(tensors: Mapping[str, Tensor], shape: UNetShape) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the names of a ReleasedUNet of this shape and of its label embedding."""
    return canonical_tensors(tensors, unet_layout(shape))


def _levels(config: Mapping[str, Any], path: Path, name: str, levels: int) -> tuple[tuple[int, ...], bool]:
    """The depth of attention of each level, and whether residual blocks change the resolution."""
    down, up = (list(_read_list(config, f"{way}_block_types", path)) for way in ("down", "up"))
    attention = ATTENTION_BLOCKS[name]
    unknown = {kind if isinstance(kind, str) else format_value(kind) for kind in (*down, *up)}
    unknown -= {*attention, *PLAIN_BLOCKS}
    if unknown:
        raise ValueError(f"'{path}': blocks of type {', '.join(sorted(unknown))} are not supported")
    mirrored = [kind.replace("Up", "Down") for kind in reversed(up)]
    if len(down) != levels or mirrored != down:
        raise ValueError(f"'{path}': the blocks on the way up, {up}, do not mirror those on the way down, {down}")
    depths = [
        depth if kind in attention else 0 for kind, depth in zip(down, _depths(config, levels, path), strict=True)
    ]
    pooling = set()
    for kind in down[:-1]:
        by_type = config.get("downsample_type", "conv") == "resnet" and kind == "AttnDownBlock2D"
        pooling.add(kind.startswith("Resnet") or by_type)
    if len(pooling) > 1 or config.get("downsample_type", "conv") != config.get("upsample_type", "conv"):
        raise ValueError(f"'{path}': the levels change the resolution in different ways, which is not supported")
    return tuple(depths), pooling == {True}


def _depths(config: Mapping[str, Any], levels: int, path: Path) -> tuple[int, ...]:
    name = "transformer_layers_per_block"
    return expand_levels(config.get(name, 1), levels, name, path)


def _heads(config: Mapping[str, Any], widths: Sequence[int], tokens: bool, path: Path) -> tuple[int, ...]:
    """Number of heads of each level: with tokens, diffusers misuses `attention_head_dim` for it."""
    value = config.get("attention_head_dim", 8)
    if tokens:
        return expand_levels(value, len(widths), "attention_head_dim", path)
    if value is None:
        return (1,) * len(widths)
    head_channels = read_integer(config, "attention_head_dim", 8, path)
    return tuple(max(width // head_channels, 1) for width in widths)


def _scale_shift(config: Mapping[str, Any], path: Path) -> bool:
    value = config.get("resnet_time_scale_shift", "default")
    if value not in ("default", "scale_shift"):
        raise ValueError(
            f"'{path}': 'resnet_time_scale_shift' is {format_value(value)}; supported are 'default' and 'scale_shift'"
        )
    return bool(value == "scale_shift")


def _classes(config: Mapping[str, Any], path: Path) -> int | None:
    kind, classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind not in (None, "projection"):
        raise ValueError(f"'{path}': 'class_embed_type' is {format_value(kind)}; supported are none and 'projection'")
    return None if classes is None or kind is not None else read_integer(config, "num_class_embeds", None, path)


def _adm_channels(config: Mapping[str, Any], path: Path) -> int | None:
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise ValueError(
            f"'{path}': 'addition_embed_type' is {format_value(added)}; supported are none and 'text_time'"
        )
    if added is None and config.get("class_embed_type") != "projection":
        return None
    return read_integer(config, "projection_class_embeddings_input_dim", None, path)


def _size_width(config: Mapping[str, Any], path: Path) -> int | None:
    if config.get("addition_embed_type") is None or config.get("addition_time_embed_dim") is None:
        return None
    return read_integer(config, "addition_time_embed_dim", None, path)


def _read_uniform(config: Mapping[str, Any], name: str, default: int, path: Path) -> int:
    """Read an integer that is the same for all levels."""
    value = config.get(name, default)
    levels = value if isinstance(value, list | tuple) and value else [value]
    if any(item != levels[0] for item in levels):
        raise ValueError(
            f"'{path}': '{name}' is {format_value(value)}, and only one whole number for all levels is supported"
        )
    return read_integer({name: levels[0]}, name, default, path)


def _read_list(config: Mapping[str, Any], name: str, path: Path) -> Sequence[Any]:
    value = config.get(name)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"'{path}': '{name}' is {format_value(value)}; expected a list with an entry for each level")
    return value


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The names of an `AttentionBlock`'s layers in diffusers before 0.12, and their new names."""


@dataclass(frozen=True)
class UNetLayout:
    """levels: resolutions. blocks: residual blocks at each on the way down. up_attention: `up_blocks` with it."""

    levels: int
    blocks: int
    up_attention: frozenset[int]

    @property
    def each(self) -> int:
        """Entries of a level in `input_blocks` or `output_blocks`."""
        return self.blocks + 1

    def resampler(self, block: int) -> int:
        """Index of the resampling layer in an output block: after the attention, if any."""
        return 2 if block in self.up_attention else 1


def to_canonical(name: str, layout: UNetLayout) -> str:
    """The canonical name of a layer or weight; unknown names stay."""
    for theirs, ours in OUTSIDE.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return _resnet(ours + name[len(theirs) :])
    if name.startswith("class_embedding.linear_"):
        number = name.removeprefix("class_embedding.linear_")
        return f"label_emb.0.{2 * (int(number[0]) - 1)}{number[1:]}"
    if name.startswith("class_embedding."):
        return name.replace("class_embedding.", "label_emb.", 1)
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)$", name)
    if not match:
        return name
    way, kind, suffix = match[1], match[3], match[5]
    block, j = int(match[2]), int(match[4])
    if kind == "downsamplers":
        return _resnet(f"input_blocks.{(block + 1) * layout.each}.0{re.sub(r'^.conv(?=[.]|$)', '.op', suffix)}")
    if kind == "upsamplers":
        return _resnet(f"output_blocks.{block * layout.each + layout.blocks}.{layout.resampler(block)}{suffix}")
    position = block * layout.each + j
    prefix = f"input_blocks.{position + 1}" if way == "down" else f"output_blocks.{position}"
    return _resnet(f"{prefix}.{0 if kind == 'resnets' else 1}{suffix}")


def to_diffusers(name: str, layout: UNetLayout) -> str:
    """diffusers' name for the canonical name of a layer or weight; unknown names stay."""
    for theirs, ours in OUTSIDE.items():
        if name == ours or name.startswith(f"{ours}."):
            return _resnet_back(theirs + name[len(ours) :])
    match = re.match(r"(input|output)_blocks\.(\d+)\.(\d+)(.*)$", name)
    if not match:
        return name
    position, index, suffix = int(match[2]), int(match[3]), match[4]
    if match[1] == "input":
        block, j = divmod(position - 1, layout.each)
        if j == layout.blocks:
            return _resnet_back(f"down_blocks.{block}.downsamplers.0{re.sub(r'^.op(?=[.]|$)', '.conv', suffix)}")
        return _resnet_back(f"down_blocks.{block}.{('resnets', 'attentions')[index]}.{j}{suffix}")
    block, j = divmod(position, layout.each)
    if index == layout.resampler(block):
        return _resnet_back(f"up_blocks.{block}.upsamplers.0{suffix}")
    return _resnet_back(f"up_blocks.{block}.{('resnets', 'attentions')[index]}.{j}{suffix}")


def canonical_tensors(tensors: Mapping[str, Tensor], layout: UNetLayout) -> dict[str, Tensor]:
    """Rename tensors to canonical names; joins q, k and v of an `AttentionBlock` to one `qkv`, all queries first.

    Unknown names stay, and are left over in filling.
    """
    renamed = {_new_attention(to_canonical(name, layout)): tensor for name, tensor in tensors.items()}
    blocks = {name.removesuffix(".group_norm.weight") for name in renamed if name.endswith(".group_norm.weight")}
    for block in blocks:
        _join(renamed, block)
    return renamed


def _join(tensors: dict[str, Tensor], block: str) -> None:
    """Convert the layers of diffusers' `AttentionBlock` to guided-diffusion's norm, qkv and proj_out, in place."""
    for end in ("weight", "bias"):
        parts = [f"{block}.{name}.{end}" for name in ("to_q", "to_k", "to_v")]
        if all(part in tensors for part in parts):
            joined = torch.cat([tensors.pop(part).flatten(1 if end == "weight" else 0) for part in parts])
            tensors[f"{block}.qkv.{end}"] = joined[:, :, None] if end == "weight" else joined
        if f"{block}.to_out.0.{end}" in tensors:
            out = tensors.pop(f"{block}.to_out.0.{end}")
            tensors[f"{block}.proj_out.{end}"] = out.flatten(1)[:, :, None] if end == "weight" else out
        if f"{block}.group_norm.{end}" in tensors:
            tensors[f"{block}.norm.{end}"] = tensors.pop(f"{block}.group_norm.{end}")


def _new_attention(name: str) -> str:
    return re.sub(
        r"(\.1)\.(query|key|value|proj_attn)\.(weight|bias)$",
        lambda match: f"{match[1]}.{OLD_ATTENTION[match[2]]}.{match[3]}",
        name,
    )


def _resnet(name: str) -> str:
    """Rename the layers of a residual block; names of other layers never match."""
    match = re.match(r"((?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.[02])\.(\w+)(.*)$", name)
    return f"{match[1]}.{RESNET[match[2]]}{match[3]}" if match and match[2] in RESNET else name


def _resnet_back(name: str) -> str:
    for theirs, ours in RESNET.items():
        name = re.sub(
            rf"^(.*\.(?:resnets|downsamplers|upsamplers)\.\d+)\.{re.escape(ours)}(?=\.|$)", rf"\1.{theirs}", name
        )
    return name
