"""A U-Net as nested shells: each goes one block down, lets everything deeper run, and comes one block up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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

    def run_shell(level: int, h: Tensor) -> Tensor:
        skipped = hooks.feature("down", level, down(level, h))
        index = depth - 1 - level

        def run_deeper() -> Tensor:
            return run_shell(level + 1, skipped) if index else hooks.feature("middle", 0, middle(skipped))

        inner, joined = hooks.skip(index, hooks.deep(index, run_deeper, skipped), skipped)
        return hooks.feature("up", index, up(index, torch.cat([inner, joined], dim=1)))

    return run_shell(0, h)
