"""Ends the construction of a network that has far more layers than the file has tensors.

A config of a few bytes can ask for a billion layers, which would take hours to make before they are compared with the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.tensor}
)
"""Functions that make the tensors of layers. Others may not fail: a `no_grad` that ends calls torch to put it back."""

CALLS_A_TENSOR = 8
"""Calls of them for each tensor of a file. A network makes one or two."""


class TooManyLayers(ValueError):
    """A config asks for a network that is much larger than its file."""


class BoundedBuild(TorchFunctionMode):
    """A context in which a network is built for a file with this number of tensors. Acts on its own thread alone.

    Raises ``TooManyLayers`` once it has made more tensors than any network of that size needs.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.calls_left = CALLS_A_TENSOR * (tensors + 25)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.calls_left -= func in FACTORIES
        if self.calls_left < 0 and func in FACTORIES:
            raise TooManyLayers(f"the config asks for more layers than fit the {self.tensors} tensors of the file")
        return func(*args, **(kwargs or {}))


def check_depth(layers: int, tensors: int, source: str) -> None:
    """Raise ``ValueError`` that names `source` for more layers than a file has tensors."""
    if layers > tensors:
        raise ValueError(
            f"'{source}' does not fit: its config asks for {layers} layers, and it holds {tensors} tensors"
        )
