"""Types with something called ``fit_to_inputs``, and nodes of them, as nodes of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from guidegraph import Sample, Tensor, hookimpl, node
from guidegraph.graph.types import structured
from tests.graph.acceleration.quick_nodes import Network


@structured
@dataclass(frozen=True)
class Failing:
    """A weight whose method fails or, without a reason, returns nothing."""

    leaf_axes: ClassVar = {"weight": ("B",)}

    weight: Tensor
    reason: str

    def fit_to_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.reason:
            raise RuntimeError(self.reason)


@structured
@dataclass(frozen=True)
class Flagged:
    """A weight with a field of the name of the method."""

    leaf_axes: ClassVar = {"weight": ("B",)}

    weight: Tensor
    fit_to_inputs: bool = True


class FittedNetwork(Network):
    """A model with a method of that name for something else."""

    def fit_to_inputs(self, x: torch.Tensor, target: torch.Tensor) -> None:
        raise AssertionError


@node("fit.model")
def model() -> torch.nn.Module:
    """Random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FittedNetwork()


@node("fit.failing")
def failing(*, reason: str = "") -> Failing:
    """A weight of 1."""
    return Failing(torch.ones(1), reason)


@node("fit.flagged")
def flagged() -> Flagged:
    """A weight of 1."""
    return Flagged(torch.ones(1))


@node("fit.weigh")
def weigh(x: Sample, weight: Failing | Flagged) -> Sample:
    """A sample times a weight."""
    return torch.sin(x) * weight.weight.reshape(-1, 1, 1, 1)


@node("fit.double")
def double(x: Sample) -> Sample:
    """A sample of twice the height."""
    return x.repeat(1, 1, 2, 1)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [model, failing, flagged, weigh, double]
