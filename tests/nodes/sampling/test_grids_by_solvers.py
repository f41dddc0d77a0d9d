"""k-diffusion's solvers on k-diffusion's and ComfyUI's grids: our levels, tables and step compared with plain NumPy.

The data are N(0.2, 0.5²), whose denoiser is in closed form; the schedule is Stable Diffusion's. The reference
(k_diffusion.py) computes with exact σ/α in float64. Ours passes the network a timestep in float32, which changes σ/α
by at most 1.5e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from guidegraph.nodes.sampling import levels
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.types import Levels, Schedule
from tests.nodes.sampling import k_diffusion
from tests.nodes.sampling.closed_form import MEAN, STD, sample, scaled_linear
from tests.nodes.sampling.k_diffusion import Array, Grid, Solver

Sampler = Callable[[Schedule, Levels], samplers.Sampler]

SOLVERS: dict[str, tuple[Solver, Sampler]] = {
    "euler": (k_diffusion.euler, samplers.euler),
    "euler_ancestral": (k_diffusion.euler_ancestral, samplers.euler_ancestral),
    "heun": (k_diffusion.heun, samplers.heun),
    "heun as edm without churn": (k_diffusion.heun, samplers.edm),
    "dpm_2": (k_diffusion.dpm_2, samplers.dpm2),
    "dpm_2_ancestral": (k_diffusion.dpm_2_ancestral, samplers.dpm2_ancestral),
    "lms": (k_diffusion.lms, samplers.lms),
    "deis": (
        k_diffusion.deis,
        lambda schedule, levels: samplers.deis(schedule, levels, polynomial="time", lower_order_final=False),
    ),
    "dpmpp_2s_ancestral": (k_diffusion.dpmpp_2s_ancestral, samplers.dpmpp_2s_ancestral),
    "dpmpp_sde": (k_diffusion.dpmpp_sde, samplers.dpmpp_sde),
    "dpmpp_2m": (k_diffusion.dpmpp_2m, samplers.dpmpp_2m),
    "dpmpp_2m_sde": (
        k_diffusion.dpmpp_2m_sde_midpoint,
        lambda schedule, levels: samplers.dpmpp_2m_sde(schedule, levels, solver_type="midpoint"),
    ),
    "dpmpp_2m_sde heun": (
        k_diffusion.dpmpp_2m_sde_heun,
        lambda schedule, levels: samplers.dpmpp_2m_sde(schedule, levels, solver_type="heun"),
    ),
    "dpmpp_3m_sde": (k_diffusion.dpmpp_3m_sde, samplers.dpmpp_3m_sde),
}


def ddim_uniform(schedule: Schedule, *, steps: int) -> Levels:
    """`leading` if the steps divide the timesteps; otherwise a list of all timesteps that fit, as in ComfyUI."""
    train_steps = len(schedule.alphas_bar)
    if train_steps % steps == 0:
        return levels.leading(schedule, steps=steps, offset=1)
    return levels.timesteps(schedule, timesteps=[float(t) for t in range(1, train_steps, train_steps // steps)][::-1])


GRIDS: dict[str, tuple[Grid, Callable[..., Levels]]] = {
    "normal": (k_diffusion.normal, levels.linspace),
    "karras": (k_diffusion.karras, levels.karras),
    "exponential": (k_diffusion.exponential, levels.exponential),
    "sgm_uniform": (k_diffusion.sgm_uniform, levels.sgm_uniform),
    "simple": (k_diffusion.simple, levels.simple),
    "ddim_uniform": (k_diffusion.ddim_uniform, ddim_uniform),
    "beta": (k_diffusion.beta, levels.beta),
    "kl_optimal": (k_diffusion.kl_optimal, levels.kl_optimal),
    "polyexponential": (
        lambda sigmas, steps: k_diffusion.polyexponential(sigmas, steps, rho=1.5),
        lambda schedule, steps: levels.polyexponential(schedule, steps=steps, rho=1.5),
    ),
    "ays": (k_diffusion.ays, levels.ays),
}

SEED = 14
SIZE = 256


def denoise(y: Array, s: float) -> Array:
    """E[x0 | x0 + s·ε = y] of the data N(0.2, 0.5²)."""
    return (STD**2 * y + s**2 * MEAN) / (STD**2 + s**2)


def draws() -> Iterator[Array]:
    """Standard normal arrays (SIZE), the same each time; the first is the start."""
    generator = np.random.default_rng(SEED)
    while True:
        yield generator.standard_normal(SIZE)


def k_diffusion_sample(solver: Solver, grid: Grid, steps: int) -> Array:
    """The sample of k-diffusion's convention, at σ = 0, where y = x."""
    bar = scaled_linear().alphas_bar.double().numpy()
    noises = draws()
    sigmas = [*grid(np.sqrt((1 - bar) / bar), steps).tolist(), 0.0]
    return solver(denoise, sigmas[0] * next(noises), sigmas, noises)


def our_sample(sampler: Sampler, grid: Callable[..., Levels], steps: int) -> Array:
    schedule, noises = scaled_linear(), draws()
    made = sampler(schedule, grid(schedule, steps=steps))
    start = torch.from_numpy(next(noises)) * made.scheduler.sigma[0]  # α·(σ/α)·ε
    reads_noise = (made.scheduler.matrix[:, :, 3] != 0).any(1)
    fresh = [torch.from_numpy(next(noises) if reads else np.zeros(SIZE)) for reads in reads_noise]
    return sample(made, start, fresh, schedule=schedule).numpy()


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_of_k_diffusion_on_a_grid(solver: str, grid: str, steps: int) -> None:
    """Δx / max |x| is at most 1e-6."""
    (state, sampler), (state_grid, our_grid) = SOLVERS[solver], GRIDS[grid]
    expected, actual = k_diffusion_sample(state, state_grid, steps), our_sample(sampler, our_grid, steps)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
