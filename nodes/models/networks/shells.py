"""A U-Net as nested shells: each goes one block down, lets everything deeper run, and comes one block up.

Ends the construction of a network that has far more layers than the file has tensors.

A config of a few bytes can ask for a billion layers, which would take hours to make before they are compared with the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from guidegraph.nodes.models.networks.hooks import Hooks


def run_shells(
    h: Tensor,
    depth: int,
    down: Callable[[int, Tensor], Tensor],
    middle: Callable[[Tensor], Tensor],
    up: Callable[[int, Tensor], Tensor],
    hooks: Hooks,
) -> Tensor:
    """Run a U-Net with `depth` blocks on each path, without its head, and apply the rules of its features.

    h: the input of the first block down. down(i, h): block i of the down path, finest first; its output is the skip
    of block depth − 1 − i of the up path. middle(h): after the last block down. up(i, h): block i of the up path,
    coarsest first, whose input is the features from below and the skip, along the channels. A rule at "deep.up.i"
    decides whether anything deeper runs.
    """

    if hooks.idle:
        skips: list[Tensor] = []
        for level in range(depth):
            h = down(level, h)
            skips.append(h)
        h = middle(h)
        for index in range(depth):
            h = up(index, torch.cat([h, skips.pop()], dim=1))
        return h

    def run_shell(level: int, h: Tensor) -> Tensor:
        skipped = hooks.feature("down", level, down(level, h))
        index = depth - 1 - level

        def run_deeper() -> Tensor:
            return run_shell(level + 1, skipped) if index else hooks.feature("middle", 0, middle(skipped))

        inner, joined = hooks.skip(index, hooks.deep(index, run_deeper, skipped), skipped)
        return hooks.feature("up", index, up(index, torch.cat([inner, joined], dim=1)))

    return run_shell(0, h)


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
