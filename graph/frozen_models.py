"""Models as immutable values: modules are frozen and never changed in place."""

from __future__ import annotations

import copy
import sys
from typing import Any


def is_module(value: object) -> bool:
    """Whether a value is a ``torch.nn.Module``. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def freeze(value: Any) -> Any:
    """Put a module into evaluation mode without gradients, in place; return any other value unchanged."""
    if is_module(value) and (value.training or any(p.requires_grad for p in value.parameters())):
        value.eval().requires_grad_(False)
    return value


def copy_frozen(value: Any) -> Any:
    """A frozen copy of a module that shares its tensors, leaving the module unchanged; any other value itself."""
    if not is_module(value):
        return value
    import torch

    memo: dict[int, Any] = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in value.parameters()}
    memo |= {id(b): b for b in value.buffers()}
    return copy.deepcopy(value, memo).eval()
