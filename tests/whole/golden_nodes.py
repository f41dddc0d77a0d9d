"""A denoiser of two convolutions and a condition for it, as nodes of a plugin, for goldens of an export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from guidegraph import Condition, Denoiser, Prediction, hookimpl, node


class Network(nn.Module):
    """ε of two convolutions, with the time and the vector of a condition (B, 8) in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        assert condition is not None
        assert condition.vector is not None
        vector = condition.vector + (t / 1000)[:, None]
        return Prediction(self.second(nn.functional.silu(self.first(x) + vector[:, :, None, None])), "eps")


@node("golden.denoiser", host=True)
def denoiser() -> Denoiser:
    """A denoiser with weights of a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().eval().requires_grad_(False)


@node("golden.condition", host=True)
def condition(*, value: float = 0.0) -> Condition:
    """A condition whose vector holds one value."""
    return Condition(vector=torch.full((1, 8), value))


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [denoiser, condition]
