"""ODE solvers against the exact solution for Gaussian data: order of convergence, and equal results for ε, x0 and v."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from tests.nodes.sampling.closed_form import eps_star, normal, ode_solution, sample, scaled_linear

ORDERS = [
    ("euler", {}, 1.0),
    ("ddim", {}, 1.0),
    ("heun", {}, 2.0),
    ("edm", {}, 2.0),
    ("dpm2", {}, 2.0),
    ("dpmpp_2m", {}, 2.0),
    ("dpmpp_2m", {"solver_type": "heun"}, 2.0),
    ("dpmpp_2s", {}, 2.0),
    ("dpmpp_2s", {"solver_type": "heun"}, 2.0),
    ("dpm2_ancestral", {"eta": 0.0}, 2.0),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2.0),
    ("dpmpp_3m_sde", {"eta": 0.0}, 2.0),  # k-diffusion's quadratic counts half
    ("deis", {"order": 2}, 2.0),
    ("deis", {"order": 3}, 3.0),
    ("unipc", {"order": 2}, 3.0),
    ("pndm", {}, 2.0),  # its weights are those of equal steps
    ("pndm", {"warmup": "runge_kutta"}, 2.0),
    ("lms", {}, 3.7),
]


def error(name: str, steps: int, settings: dict[str, Any]) -> float:
    """From σ_max to σ_min on the Karras grid of `steps` steps; the last row, of length zero, is left out."""
    sampler: Sampler = getattr(samplers, name)(
        scaled_linear(), steps=steps + 1, sigmas="karras", final="first", **settings
    )
    table = sampler.scheduler
    last = {"heun": 2, "edm": 2, "dpm2": 2, "dpm2_ancestral": 2, "dpmpp_2s_ancestral": 2}.get(name, 1)
    x = normal(1, 64)
    truth = ode_solution(x, (table.alpha[0], table.sigma[0]), (table.alpha[-1], table.sigma[-1]))
    return float((sample(sampler, x, rows=len(sampler.steps) - last) - truth).abs().max())


@pytest.mark.parametrize(("name", "more", "expected"), ORDERS)
def test_order_of_convergence(name: str, more: dict[str, Any], expected: float) -> None:
    coarse, fine = error(name, 80, more), error(name, 160, more)
    order = math.log2(coarse / fine)
    assert order == pytest.approx(expected, abs=0.25), (coarse, fine)


def test_edm_with_churn_is_the_papers_algorithm_2() -> None:
    """In x/α, with noise added before each call; the first call's noise is part of its start."""
    schedule, n, churn, low, high = scaled_linear(), 12, 8.0, 0.05, 5.0
    sampler = samplers.edm(schedule, steps=n, churn=churn, s_min=low, s_max=high, s_noise=1.1)
    plain = samplers.edm(schedule, steps=n).scheduler
    x = normal(1, 64)
    noises = [normal(1, 64, seed=i + 1) for i in range(2 * n - 1)]
    grid = [*(plain.sigma / plain.alpha)[[0, *range(1, 2 * n - 1, 2)]].tolist(), 0.0]
    y = x / sampler.scheduler.alpha[0]

    def derivative(y: torch.Tensor, s: float) -> torch.Tensor:
        alpha = 1 / math.sqrt(1 + s * s)
        return eps_star(alpha * y, alpha, s * alpha)

    for i, (s, after) in enumerate(pairwise(grid)):
        gamma = min(churn / n, math.sqrt(2) - 1) if low <= s <= high else 0
        hat = s * (1 + gamma)
        if gamma:
            y = y + math.sqrt(hat**2 - s**2) * 1.1 * noises[2 * i - 1]
        d = derivative(y, hat)
        moved = y + (after - hat) * d
        y = y + (after - hat) * (d + derivative(moved, after)) / 2 if after else moved
    torch.testing.assert_close(sample(sampler, x, noises), y, atol=1e-6, rtol=0)


def test_edm_with_churn_ends_at_its_last_level() -> None:
    schedule = scaled_linear()
    levels = grids.sigmas(schedule, sigmas=[4.0, 2.0, 1.0], final="listed")
    churned, plain = (samplers.edm(schedule, levels, churn=churn, s_max=1.5).scheduler for churn in (1.0, 0.0))
    torch.testing.assert_close(churned.matrix, plain.matrix)


def test_unipc_of_third_order_is_better_than_of_second() -> None:
    assert error("unipc", 40, {"order": 3}) < error("unipc", 40, {"order": 2}) / 5


@pytest.mark.parametrize(
    "name", ["ddim", "pndm", "euler", "heun", "dpm2", "lms", "dpmpp_2m", "dpmpp_2s", "unipc", "deis"]
)
def test_eps_x0_and_v_predictions_give_the_same_sample(name: str) -> None:
    sampler: Sampler = getattr(samplers, name)(scaled_linear(), steps=12)
    x = normal(1, 64)
    by_eps = sample(sampler, x)
    for kind in ("x0", "v"):
        assert float((sample(sampler, x, kind=kind) - by_eps).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "lms", "dpmpp_2m", "unipc"])
def test_float32_follows_float64(name: str) -> None:
    sampler: Sampler = getattr(samplers, name)(scaled_linear(), steps=20)
    x = normal(1, 64)
    single = sample(sampler, x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, sample(sampler, x).float(), atol=2e-5, rtol=1e-4)


def test_stochastic_samplers_reach_the_datas_deviation() -> None:
    schedule = scaled_linear()
    for name, settings in [
        ("ddpm", {}),
        ("ddim", {"eta": 0.5}),
        ("euler_ancestral", {}),
        ("dpm2_ancestral", {}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.5}),
        ("dpmpp_2s_ancestral", {}),
        ("dpmpp_3m_sde", {}),
        ("dpmpp_sde", {}),
        ("edm", {"churn": 20.0, "s_noise": 1.0}),
    ]:
        sampler: Sampler = getattr(samplers, name)(schedule, steps=300, **settings)
        rows = len(sampler.steps)
        x = sample(sampler, normal(1, 4000), [normal(1, 4000, seed=i + 1) for i in range(rows)])
        assert x.mean().item() == pytest.approx(0.2, abs=0.03), name
        assert x.std().item() == pytest.approx(0.5, abs=0.03), name
