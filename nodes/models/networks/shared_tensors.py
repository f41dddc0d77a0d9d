"""Copies of networks that share tensors, so that replacing weights never changes the original network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from guidegraph.graph.frozen_models import deepcopy_module

M = TypeVar("M", bound=nn.Module)


def copy_sharing_tensors(module: M, replaced: Mapping[str, Tensor] | None = None) -> M:
    """Copy a frozen module, sharing its tensors and tokenizers except those in `replaced`, by name.

    Raises ``KeyError`` for a name that the module does not have.
    """
    kept: list[object] = [*module.parameters(), *module.buffers()]
    kept += [inner.tokenizer for inner in module.modules() if hasattr(inner, "tokenizer")]
    copied: M = deepcopy_module(module, {id(item): item for item in kept})
    for name, tensor in (replaced or {}).items():
        owner_name, _, leaf = name.rpartition(".")
        owner = copied.get_submodule(owner_name)
        if leaf in owner._buffers:
            owner._buffers[leaf] = tensor
        elif leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            raise KeyError(name)
    return copied
