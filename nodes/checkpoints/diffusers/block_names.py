"""Renames the layers of diffusers' transformers, and joins their queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from guidegraph.nodes.checkpoints.layer_rows import have_equal_rows, join_mapped, list_mapped_files


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
