"""Small nodes for the tests of `guidegraph export`: one that can be traced, and ones that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidegraph import Sample, Tensor, hookimpl, node


@node("tiny.times")
def times(x: Sample, weight: Tensor, *, by: float = 2.0) -> Sample:
    """x times a weight and a number."""
    return x * weight * by


@node("tiny.weight", host=True)
def weight(*, name: str = "half") -> Tensor:
    """A weight by its name, as a checkpoint has one."""
    import torch

    return torch.full((1, 3, 1, 1), {"half": 0.5, "whole": 1.0}[name])


@node("tiny.branch")
def branch(x: Sample) -> Sample:
    """A branch on the values of x, which no graph has."""
    return x if x.sum() > 0 else -x


@node("tiny.outside", host=True)
def outside(x: Sample) -> Sample:
    """Something that runs in Python alone."""
    return x


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [times, weight, branch, outside]
