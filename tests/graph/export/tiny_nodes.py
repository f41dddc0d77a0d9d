"""Small nodes for the tests of `guidegraph export`: one that can be traced, and ones that cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from guidegraph import Sample, Scale, Tensor, hookimpl, node


@node("tiny.times")
def times(x: Sample, weight: Tensor, *, by: float = 2.0) -> Sample:
    """x times a weight and a number."""
    return x * weight * by


@node("tiny.weight", host=True)
def weight(*, name: str = "half") -> Tensor:
    """A weight by its name, as a checkpoint has one."""
    import torch

    return torch.full((1, 3, 1, 1), {"half": 0.5, "whole": 1.0}[name])


class ForeignModel:
    """A model that no graph can hold."""

    not_exportable = "is compiled already; load the model that it was compiled from"

    def apply(self, x: Sample) -> Sample:
        return x * 0.5


@node("tiny.foreign", host=True)
def foreign() -> ForeignModel:
    """A model that no graph can hold."""
    return ForeignModel()


@node("tiny.apply")
def apply(x: Sample, model: ForeignModel) -> Sample:
    """What a model makes of x."""
    return model.apply(x)


@node("tiny.branch")
def branch(x: Sample) -> Sample:
    """A branch on the values of x, which no graph has."""
    return x if x.sum() > 0 else -x


@node("tiny.late")
def late(x: Sample, *, i: int) -> Sample:
    """x, and half of it from the eleventh step on."""
    import torch

    return x * torch.where(torch.as_tensor(i) >= 10, 0.5, 1.0)


@node("tiny.amount")
def amount(*, i: int) -> Scale:
    """1 from the eleventh step on, and 0 before."""
    import torch

    if isinstance(i, int):
        return float(i >= 10)
    return torch.where(i >= 10, 1.0, 0.0)


@node("tiny.mix", needs=lambda amount: {"x"} if amount == 0 else {"x", "other"})
def mix(x: Sample, other: Sample, *, amount: Scale = 0.0) -> Sample:
    """x where the amount is 0, else partly the other."""
    return x + amount * (other - x)


@node("tiny.bound")
def bound(x: Sample, *, most: float = math.inf) -> Sample:
    """x, up to a bound."""
    return x.clamp(max=most)


@node("tiny.maybe")
def maybe(x: Sample, *, by: float | None = None) -> Sample:
    """x, times a number if there is one."""
    return x if by is None else x * by


@node("tiny.outside", host=True)
def outside(x: Sample) -> Sample:
    """Something that runs in Python alone."""
    return x


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [times, weight, foreign, apply, branch, late, amount, mix, bound, maybe, outside]
