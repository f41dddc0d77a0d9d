"""Nodes with a prescribed prediction and score: `--plugin tests.nodes.sampling.toy_denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from guidegraph import Prediction, Sample, Score, hookimpl, node

CALLS: list[int] = []
"""The step of each call."""


@node("toy.predict")
def predict(
    x: Sample, index: int, *, gain: float = 1.0, first: int = 0, last: int = 99, samples: int | None = None
) -> Prediction:
    """x̂0 of root mean square 1; of `gain` in the first `samples` in steps `first` to `last`, counted from 0."""
    CALLS.append(index)
    x0 = torch.ones_like(x)
    if first <= index <= last:
        x0[:samples] *= gain
    return Prediction(x0, "x0")


@node("toy.pull")
def pull(x: Sample) -> Score:
    """A score towards 0."""
    return -x


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    return (predict, pull)
