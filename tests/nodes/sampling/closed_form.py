"""Gaussian data N(0.2, 0.5²): the denoiser, the ODE's solution and a sampling loop, all in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Prediction, Schedule

MEAN, STD = 0.2, 0.5


def scaled_linear() -> Schedule:
    return schedules.scaled_linear(beta_start=0.00085, beta_end=0.012)


def eps_star(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """E[ε | x] for x = αx0 + σε."""
    return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def x0_star(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """E[x0 | x]."""
    return MEAN + alpha * STD**2 * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def network(x: Tensor, alpha: Any, sigma: Any, kind: Any = "eps") -> Prediction:
    eps, x0 = eps_star(x, alpha, sigma), x0_star(x, alpha, sigma)
    return Prediction({"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind], kind)


def ode_solution(x: Tensor, start: tuple[Any, Any], end: tuple[Any, Any]) -> Tensor:
    """The solution of the probability flow from x at (α, σ): its distance from the mean in deviations is constant."""
    (a, s), (b, r) = start, end
    return b * MEAN + (x - a * MEAN) * ((b**2 * STD**2 + r**2) / (a**2 * STD**2 + s**2)) ** 0.5


def sample(
    sampler: Sampler,
    x: Tensor,
    noises: Sequence[Tensor] | None = None,
    kind: Any = "eps",
    schedule: Schedule | None = None,
    rows: int | None = None,
) -> Tensor:
    """Run the unrolled loop of a workflow. Like a network, the denoiser depends only on x, t and the schedule."""
    schedule = schedule or scaled_linear()
    state = sampler.state
    for i, t in enumerate(sampler.steps[:rows].split(1)):
        alpha, sigma = schedule.alpha_sigma(t.to(x.dtype))
        noise = None if noises is None else noises[i]
        x, state = step(sampler.scheduler, x, network(x, alpha, sigma, kind), state, t, noise=noise)
    return x


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
