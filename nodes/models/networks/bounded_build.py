"""Ends the construction of a network that has far more layers than the file has tensors.

A config of a few bytes can ask for a billion layers, which would take hours to make before they are compared with the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

CALLS_A_TENSOR = 40
"""Calls of torch for each tensor of a file. Building and initialising a network takes about five."""


class TooManyLayers(ValueError):
    """A config asks for a network that is much larger than its file."""


class BoundedBuild(TorchFunctionMode):
    """A context in which a network is built for a file with so many tensors. Acts on its own thread alone.

    Raises ``TooManyLayers`` once torch is called more often than any network of that size needs.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.left = CALLS_A_TENSOR * (tensors + 25)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise TooManyLayers(f"the config asks for more layers than fit the {self.tensors} tensors of the file")
        return func(*args, **(kwargs or {}))


def check_depth(layers: int, tensors: int, source: str) -> None:
    """Raise ``ValueError`` that names `source` for more layers than a file has tensors."""
    if layers > tensors:
        raise ValueError(
            f"'{source}' does not fit: its config asks for {layers} layers, and it holds {tensors} tensors"
        )
