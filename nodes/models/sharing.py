"""Copies of networks that share tensors: a network that is given other weights never changes the one it came from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def shared_copy(module: M, replaced: Mapping[str, Tensor] | None = None) -> M:
    """A copy of a frozen module that shares its tensors and tokenizers, but for those in `replaced`, by name.

    Raises ``KeyError`` for a name that the module does not have.
    """
    kept: list[object] = [*module.parameters(), *module.buffers()]
    kept += [inner.tokenizer for inner in module.modules() if hasattr(inner, "tokenizer")]
    copied = copy.deepcopy(module, {id(item): item for item in kept})
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
