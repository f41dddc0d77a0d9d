"""Sizes, texts and tensors that the examples are made of.

All sizes differ, so that a node that confuses two axes is detected: a batch of 2, 4 channels, 8 × 12 positions,
5 tokens of width 6, 7 classes, 100 training steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from guidegraph.graph.late import torch

Maker: TypeAlias = Callable[[int], Any]
"""Makes an example from a seed."""

BATCH = 2
SIZES: Mapping[str, int] = {"B": BATCH, "C": 4, "H": 8, "W": 12, "M": 5, "D": 6, "K": 7, "T": 100, "N": 3, "R": 5}
TEXTS = ("a red circle on grass", "two blue cats", "a green square under the night sky")


def draw_normal(axes: Sequence[str | int], seed: int) -> Any:
    """Standard normal float32 values. Letters stand for ``SIZES``; any other letter for 3."""
    shape = [axis if isinstance(axis, int) else SIZES.get(axis, 3) for axis in axes]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))


def make_integers(axes: Sequence[str | int], seed: int, below: int = 7) -> Any:
    """Integers 0 … below − 1, int64, all different along the first axis if possible."""
    shape = [axis if isinstance(axis, int) else SIZES.get(axis, 3) for axis in axes]
    count = 1
    for size in shape:
        count *= size
    return (torch.arange(count) * 3 + seed + 1).remainder(below).reshape(shape)
