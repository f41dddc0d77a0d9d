"""Maps diffusers' names of a U-Net's layers to the canonical ones (guided-diffusion's and CompVis'), and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

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
