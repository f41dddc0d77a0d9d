"""Data of two Gaussians along a flow: the denoiser in closed form, and the exact path of a sample.

In one dimension the probability flow keeps the quantile of a sample, so its end follows from its start. The denoiser is
also a node: `--plugin tests.nodes.sampling.mixture`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guidegraph import hookimpl, node
from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Condition, Denoiser, Prediction, PredictionKind, Schedule

WEIGHTS, MEANS, STD = (0.3, 0.7), (-0.9, 0.6), 0.35


def x0_star(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """E[x0 | x] for x = αx0 + σε."""
    variance = alpha**2 * STD**2 + sigma**2
    logits = torch.stack(
        [torch.as_tensor(w).log() - (x - alpha * m) ** 2 / (2 * variance) for w, m in zip(WEIGHTS, MEANS, strict=True)]
    )
    means = torch.stack([m + alpha * STD**2 * (x - alpha * m) / variance for m in MEANS])
    return (torch.softmax(logits, 0) * means).sum(0)


def eps_star(x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    """E[ε | x], without a division by σ."""
    variance = alpha**2 * STD**2 + sigma**2
    logits = torch.stack(
        [torch.as_tensor(w).log() - (x - alpha * m) ** 2 / (2 * variance) for w, m in zip(WEIGHTS, MEANS, strict=True)]
    )
    noises = torch.stack([sigma * (x - alpha * m) / variance for m in MEANS])
    return (torch.softmax(logits, 0) * noises).sum(0)


class MixtureDenoiser:
    """A denoiser of the mixture, whatever its schedule: `(x, t, condition) -> Prediction` of a kind."""

    def __init__(self, schedule: Schedule, kind: PredictionKind = "flow") -> None:
        self.schedule, self.kind = schedule, kind

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        alpha, sigma = self.schedule.along(x, t)
        eps, x0 = eps_star(x, alpha, sigma), x0_star(x, alpha, sigma)
        values = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}
        return Prediction(values[self.kind], self.kind)


def quantile_of(x: Tensor, alpha: float, sigma: float) -> Tensor:
    scale = (alpha**2 * STD**2 + sigma**2) ** 0.5
    parts = [w * torch.special.ndtr((x - alpha * m) / scale) for w, m in zip(WEIGHTS, MEANS, strict=True)]
    return sum(parts, torch.zeros_like(x))


def follow_path(x: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """The sample at (α, σ) `end` on the path through x at `start`, by bisection of its quantile."""
    quantile = quantile_of(x, *start)
    low, high = torch.full_like(x, -9.0), torch.full_like(x, 9.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = quantile_of(middle, *end) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def sample_mixture(
    sampler: Sampler, x: Tensor, schedule: Schedule, kind: PredictionKind = "flow", noises: Any = None
) -> Tensor:
    denoiser, state = MixtureDenoiser(schedule, kind), sampler.state
    for i, t in enumerate(sampler.steps.split(1)):
        noise = None if noises is None else noises[i]
        x, state = step(sampler.scheduler, x, denoiser(x, t), state, t, noise=noise)
    return x


END = 0.1
"""σ where the paths of `flow_error` end."""


def flow_error(name: str, steps: int, settings: Any, start: float = 1.0) -> float:
    """The largest error of a solver over 64 samples, with even steps of σ from `start` to END."""
    schedule = schedules.flow()
    sigmas = torch.linspace(start, END, steps + 1, dtype=torch.float64).tolist()
    levels = grids.sigmas(schedule, sigmas=sigmas, final="listed")
    x = torch.linspace(-2.5, 2.5, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    x = x if start == 1 else follow_path(x, (0.0, 1.0), (1 - start, start))
    actual = sample_mixture(getattr(samplers, name)(schedule, levels, **settings), x, schedule)
    return float((actual - follow_path(x, (1 - start, start), (1 - END, END))).abs().max())


@node("mixture.denoiser")
def mixture_denoiser(schedule: Schedule, *, kind: PredictionKind = "flow") -> Denoiser:
    """The exact denoiser of the mixture on a schedule."""
    return MixtureDenoiser(schedule, kind)


@hookimpl
def guidegraph_nodes() -> Sequence[Callable[..., Any]]:
    return (mixture_denoiser,)
