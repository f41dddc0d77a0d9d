"""Levels and solvers of a flow in ComfyUI's and in diffusers' convention, each against an independent statement.

ComfyUI has a table of σ(i/T) after the shift and hands a flow to k-diffusion's solvers as x and σ, so that their
statement here is k_diffusion.py with a flow's denoiser. Its ancestral solvers of a flow are written out below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_distribution

from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.types import Schedule
from tests.nodes.sampling import k_diffusion
from tests.nodes.sampling.closed_form import normal
from tests.nodes.sampling.k_diffusion import Array
from tests.nodes.sampling.mixture import sample_mixture, x0_star

diffusers = pytest.importorskip("diffusers")

T = 1000
SHIFTS = (0.6, 1.0, 1.73, 3.0)
STEPS = (1, 7, 20, 28)


def shifted(sigma: Any, shift: float) -> Any:
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigmas_of(levels: Any) -> Array:
    ratio = levels.ratio.numpy()
    with np.errstate(invalid="ignore"):
        sigmas: Array = np.where(np.isinf(ratio), 1.0, ratio / (1 + ratio))
    return sigmas


def comfyui_normal(table: Array, shift: float, steps: int) -> Array:
    """Evenly from T down to T · σ_min, of which σ is taken again."""
    return np.asarray(shifted(np.linspace(1, table[0], steps), shift))


def comfyui_beta(table: Array, shift: float, steps: int) -> Array:
    places = np.rint(beta_distribution.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6) * (len(table) - 1))
    return table[[int(place) for place in dict.fromkeys(places)]]


COMFYUI: dict[str, tuple[Callable[[Array, float, int], Array], Callable[..., Any]]] = {
    "normal": (comfyui_normal, grids.linspace),
    "sgm_uniform": (lambda table, shift, n: comfyui_normal(table, shift, n + 1)[:-1], grids.sgm_uniform),
    "simple": (lambda table, shift, n: k_diffusion.simple(table, n), grids.simple),
    "beta": (comfyui_beta, grids.beta),
    "karras": (lambda table, shift, n: k_diffusion.karras(table, n), grids.karras),
    "exponential": (lambda table, shift, n: k_diffusion.exponential(table, n), grids.exponential),
    "kl_optimal": (lambda table, shift, n: k_diffusion.kl_optimal(table, n), grids.kl_optimal),
    "polyexponential": (
        lambda table, shift, n: k_diffusion.polyexponential(table, n, 1.5),
        partial(grids.polyexponential, rho=1.5),
    ),
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", COMFYUI)
def test_levels_of_a_shifted_flow_are_those_of_comfyui(name: str, shift: float) -> None:
    theirs, ours = COMFYUI[name]
    table = np.asarray(shifted(np.arange(1, T + 1) / T, shift))
    for steps in STEPS:
        expected = theirs(table, shift, steps)
        np.testing.assert_allclose(sigmas_of(ours(schedules.flow(shift=shift), steps=steps)), [*expected, 0], atol=1e-6)


DIFFUSERS = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "linspace": {},
}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", DIFFUSERS)
def test_levels_of_a_shifted_flow_are_those_of_diffusers(name: str, shift: float) -> None:
    more = {} if name == "linspace" else {"flow": "diffusers"}
    for steps in STEPS:
        reference = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **DIFFUSERS[name])
        reference.set_timesteps(steps)
        ours = getattr(grids, name)(schedules.flow(shift=shift), steps=steps, **more)
        np.testing.assert_allclose(sigmas_of(ours), reference.sigmas.numpy(), atol=1e-6)


def test_a_range_of_training_ends_levels_where_it_ends() -> None:
    schedule = schedules.trained(schedules.flow(shift=3.0), first=200)
    for build in (grids.karras, grids.exponential, grids.kl_optimal, grids.linspace):
        assert sigmas_of(build(schedule, steps=9))[-2] == pytest.approx(0.2, rel=1e-6)
    assert sigmas_of(grids.karras(schedule, steps=9, flow="diffusers"))[-2] == pytest.approx(0.2, rel=1e-6)


def test_the_karras_setting_of_a_sampler_ends_where_levels_karras_does() -> None:
    schedule = schedules.flow(shift=3.0)
    expected = grids.karras(schedule, steps=9).t[:-1].float()
    for name in ("dpmpp_2m", "ddim", "unipc", "euler"):
        torch.testing.assert_close(getattr(samplers, name)(schedule, steps=9, sigmas="karras").steps, expected)


# Solvers


def rectified(a: float, b: float, eta: float) -> tuple[float, float, float]:
    """(σ_down, factor of x there, noise) of ComfyUI's ancestral step of a flow from σ = a to b."""
    down = b * (1 + (b / a - 1) * eta)
    factor = (1 - b) / (1 - down)
    return down, factor, math.sqrt(max(b**2 - (down * factor) ** 2, 0))


def euler_ancestral(denoise: Any, y: Array, sigmas: Any, noises: Iterator[Array], eta: float = 1.0) -> Array:
    for a, b in pairwise(sigmas):
        x0 = denoise(y, a)
        if b == 0:
            return np.asarray(x0)
        down, factor, noise = rectified(a, b, eta)
        y = factor * k_diffusion.toward(y, x0, a, down) + noise * next(noises)
    raise ValueError("sigmas must end at 0")


def dpm_2_ancestral(denoise: Any, y: Array, sigmas: Any, noises: Iterator[Array], eta: float = 1.0) -> Array:
    for a, b in pairwise(sigmas):
        if b == 0:
            return np.asarray(denoise(y, a))
        down, factor, noise = rectified(a, b, eta)
        y = factor * k_diffusion.midpoint(denoise, y, a, down) + noise * next(noises)
    raise ValueError("sigmas must end at 0")


def dpmpp_2s_ancestral(denoise: Any, y: Array, sigmas: Any, noises: Iterator[Array], eta: float = 1.0) -> Array:
    for a, b in pairwise(sigmas):
        x0 = denoise(y, a)
        if b == 0:
            return np.asarray(x0)
        down, factor, noise = rectified(a, b, eta)
        odds = math.sqrt(a / (1 - a) * down / (1 - down)) if a < 1 else 9999.0
        middle = odds / (1 + odds)
        inner = k_diffusion.toward(y, x0, a, middle)
        y = factor * k_diffusion.toward(y, denoise(inner, middle), a, down) + noise * next(noises)
    raise ValueError("sigmas must end at 0")


def lms(denoise: Any, y: Array, sigmas: Any, noises: Iterator[Array]) -> Array:
    """The polynomial through the last four slopes, and x̂0 at the end."""
    *others, last, _ = sigmas
    return np.asarray(denoise(k_diffusion.lms(denoise, y, [*others, last], noises), last))


SOLVERS: dict[str, tuple[Callable[..., Array], dict[str, Any]]] = {
    "heun": (k_diffusion.heun, {}),
    "dpm2": (k_diffusion.dpm_2, {}),
    "lms": (lms, {}),
    "deis": (k_diffusion.deis, {"polynomial": "time", "lower_order_final": False}),
    "dpmpp_2m": (k_diffusion.dpmpp_2m, {}),
    "euler_ancestral": (euler_ancestral, {}),
    "dpm2_ancestral": (dpm_2_ancestral, {}),
    "dpmpp_2s_ancestral": (dpmpp_2s_ancestral, {}),
}


def comfyui_sample(solver: Callable[..., Array], sigmas: list[float], noises: list[Array], **more: Any) -> Array:
    def denoise(x: Array, sigma: float) -> Array:
        return np.asarray(x0_star(torch.from_numpy(x), 1 - sigma, sigma).numpy())

    return solver(denoise, normal(1, 64).numpy(), sigmas, iter(noises), **more)


def our_sample(name: str, schedule: Schedule, sigmas: list[float], noises: list[Array], **settings: Any) -> Array:
    levels = grids.sigmas(schedule, sigmas=sigmas, final="listed")
    made = getattr(samplers, name)(schedule, levels, **settings)
    fresh = iter(noises)
    reads = (made.scheduler.matrix[:, :, 3] != 0).any(1)
    drawn = [torch.from_numpy(next(fresh)) if noise else torch.zeros(1, 64) for noise in reads]
    return np.asarray(sample_mixture(made, normal(1, 64), schedule, noises=drawn).numpy())


NOISES = [normal(1, 64, seed=i + 1).numpy() for i in range(40)]


@pytest.mark.parametrize("first", [1.0, 0.8], ids=["from noise", "from a picture"])
@pytest.mark.parametrize("steps", [4, 8, 20])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_of_a_flow_in_the_convention_of_comfyui(name: str, steps: int, first: float) -> None:
    """Δx / max |x| is at most 1e-6, and the convention of diffusers is another sample."""
    solver, settings = SOLVERS[name]
    schedule, sigmas = schedules.flow(shift=3.0), np.linspace(first, 0, steps + 1).tolist()
    expected = comfyui_sample(solver, sigmas, NOISES)
    actual = our_sample(name, schedule, sigmas, NOISES, flow="comfyui", **settings)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    other = our_sample(name, schedule, sigmas, NOISES, flow="diffusers", **settings)
    assert np.abs(other - expected).max() > 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral"])
def test_less_noise_of_an_ancestral_solver_in_the_convention_of_comfyui(name: str, eta: float) -> None:
    schedule, sigmas = schedules.flow(), np.linspace(1, 0, 9).tolist()
    expected = comfyui_sample(SOLVERS[name][0], sigmas, NOISES if eta else [0 * n for n in NOISES], eta=eta)
    actual = our_sample(name, schedule, sigmas, NOISES, flow="comfyui", eta=eta)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", SOLVERS)
def test_the_convention_of_a_flow_changes_nothing_on_another_schedule(name: str) -> None:
    build = getattr(samplers, name)
    ours, theirs = (build(schedules.scaled_linear(), steps=6, flow=flow) for flow in ("diffusers", "comfyui"))
    torch.testing.assert_close(ours.scheduler.matrix, theirs.scheduler.matrix, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dpm2", "dpm2_ancestral"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_four_steps_from_a_picture_as_in_comfyui(name: str, shift: float) -> None:
    """ComfyUI computes one level more for dpm_2 and drops the one before the last: 0.2 to 0.6 off without that."""
    schedule, steps = schedules.flow(shift=shift), 8
    levels = grids.start(grids.drop_penultimate(grids.linspace(schedule, steps=steps + 1)), strength=0.5)
    table = np.asarray(shifted(np.arange(1, T + 1) / T, shift))
    sigmas = [*comfyui_normal(table, shift, steps + 1)[:-1], 0.0][-5:]
    np.testing.assert_allclose(sigmas_of(levels), sigmas, atol=1e-6)
    expected = comfyui_sample(SOLVERS[name][0], sigmas, NOISES)
    made = getattr(samplers, name)(schedule, levels, flow="comfyui")
    fresh = iter(NOISES)
    reads = (made.scheduler.matrix[:, :, 3] != 0).any(1)
    drawn = [torch.from_numpy(next(fresh)) if noise else torch.zeros(1, 64) for noise in reads]
    actual = sample_mixture(made, normal(1, 64), schedule, noises=drawn).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
