"""Renames the layers of diffusers' transformers, and joins their queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rename_layer(name: str, layers: Mapping[str, str]) -> str:
    """The name of a weight after that of its layer was replaced; unknown names stay."""
    for theirs, ours in layers.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name[len(theirs) :]
    return name


def join_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join weights or biases named `….q.…`, `….k.…` and `….v.…` to one `….qkv.…`, queries first."""
    joined = dict(tensors)
    for name in tensors:
        owner, _, end = name.rpartition(".")
        if not owner.endswith(".q"):
            continue
        names = [f"{owner[:-1]}{letter}.{end}" for letter in "qkv"]
        if all(part in tensors for part in names):
            joined[f"{owner[:-1]}qkv.{end}"] = torch.cat([joined.pop(part) for part in names])
    return joined
