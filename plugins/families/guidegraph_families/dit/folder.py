"""DiTs in diffusers' layout (`DiTTransformer2DModel`): config from config.json, the authors' names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.checkpoints.config_values import read_integer, read_number
from guidegraph.nodes.checkpoints.diffusers.config import check_config
from guidegraph.nodes.checkpoints.filling import have_equal_rows, join_mapped, list_mapped_files
from guidegraph.nodes.models.transformers.dit import DiTConfig
from guidegraph.nodes.types import PredictionKind
from guidegraph_families.parts.measure import build_config

CLASS = "DiTTransformer2DModel"
NORM = "ada_norm_zero"
"""The `norm_type` of a DiT, by which one is known under the name `Transformer2DModel` of released folders."""

USED = (
    "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "sample_size",
    "patch_size", "norm_eps",
)  # fmt: skip
IGNORED = ("dropout", "norm_num_groups", "upcast_attention", "num_embeds_ada_norm")
"""Without effect on the result, or inferred from the tensors."""

FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "attention_type": ("default",),
    "norm_type": (NORM,),
    "norm_elementwise_affine": (False,),
}
FREQUENCY_SHIFT = 1
"""diffusers' frequencies of t are 10000^(−i / 127), the authors' 10000^(−i / 128); it draws with its own."""

LAYERS = {
    "pos_embed.proj": "x_embedder.proj",
    "pos_embed.pos_embed": "pos_embed",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
BLOCK_LAYERS = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "attn1.to_q": "attn.q",
    "attn1.to_k": "attn.k",
    "attn1.to_v": "attn.v",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
EMBEDDINGS = {
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
"""Embeddings of t and of labels, of which diffusers keeps a copy in each block."""


def read_dit_config(config: Mapping[str, Any], path: Path, kind: PredictionKind) -> DiTConfig:
    """Read the hyper-parameters of a DiT from a config.json of diffusers; `kind` is its prediction.

    Raises one ``ValueError`` that names the file and the fields with unsupported values.
    """
    check_config(config, path, USED, FIXED, IGNORED)
    channels = read_integer(config, "in_channels", 4, path)
    patch = read_integer(config, "patch_size", 2, path)
    heads = read_integer(config, "num_attention_heads", 16, path)
    width = heads * read_integer(config, "attention_head_dim", 72, path)
    return build_config(
        DiTConfig,
        "DiT",
        str(path),
        in_channels=channels,
        out_channels=channels if config.get("out_channels") is None else read_integer(config, "out_channels", 4, path),
        patch=patch,
        width=width,
        depth=read_integer(config, "num_layers", 28, path),
        heads=heads,
        hidden=4 * width,
        grid=read_integer(config, "sample_size", 32, path) // patch,
        frequency_shift=FREQUENCY_SHIFT,
        mlp_eps=read_number(config, "norm_eps", 1e-5, path),
        kind=kind,
    )


def dit_tensors(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename tensors of diffusers to the authors' names; unknown names stay, and are left over in filling.

    Raises ``ValueError`` if the blocks' copies of an embedding differ: a DiT has one.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.match(r"transformer_blocks\.(\d+)\.(norm1\.emb\.)?(.+)$", name)
        if match is None:
            renamed[rename_layer(name, LAYERS)] = tensor
        elif match[2]:
            embedding = rename_layer(match[3], EMBEDDINGS)
            _check_equal(renamed.setdefault(embedding, tensor), tensor, name, source)
        else:
            renamed[f"blocks.{match[1]}.{rename_layer(match[3], BLOCK_LAYERS)}"] = tensor
    return join_qkv(renamed)


def _check_equal(first: Tensor, tensor: Tensor, name: str, source: str) -> None:
    if first.shape != tensor.shape or not (tensor.is_meta or torch.equal(first, tensor)):
        raise ValueError(
            f"'{source}': {name} differs from the other blocks' copies, and a DiT has one embedding of t and of labels "
            "for all blocks. It was trained with one for each, which is not supported: nothing was loaded"
        )


def rename_layer(name: str, layers: Mapping[str, str]) -> str:
    """The name of a weight with the name of its layer replaced; unknown names stay."""
    for theirs, ours in layers.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name[len(theirs) :]
    return name


def join_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join weights or biases named `….q.…`, `….k.…` and `….v.…` to one `….qkv.…`, queries first.

    Layers of which one is missing, or of another width, stay and are left over in filling.
    """
    joined, mapped = dict(tensors), list_mapped_files()
    for first in tensors:
        owner, _, end = first.rpartition(".")
        if not owner.endswith(".q"):
            continue
        parts = [f"{owner[:-1]}{letter}.{end}" for letter in "qkv"]
        if all(part in tensors for part in parts) and have_equal_rows([tensors[part] for part in parts]):
            joined[f"{owner[:-1]}qkv.{end}"] = join_mapped([joined.pop(part) for part in parts], mapped)
    return joined
