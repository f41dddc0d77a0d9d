"""Nodes with a prescribed prediction and score: `--plugin tests.nodes.sampling.toy_denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from guidegraph import Prediction, Sample, Score, hookimpl, node

CALLS: list[int] = []
"""The step of each call."""


@node("toy.predict")
def predict(x: Sample, index: int, *, gain: float = 1.0, first: int = 0, last: int = 99) -> Prediction:
    """x̂0 of root mean square 1; of `gain` in the steps from `first` to `last`, counted from 0."""
    CALLS.append(index)
    return Prediction(torch.ones_like(x) * (gain if first <= index <= last else 1.0), "x0")


@node("toy.pull")
def pull(x: Sample) -> Score:
    """A score towards 0."""
    return -x


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    return (predict, pull)
