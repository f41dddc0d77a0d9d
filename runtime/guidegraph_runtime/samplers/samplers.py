"""Samplers: each function computes a table in float64 NumPy, which a step applies row by row.

All of them take a schedule, or its ᾱ (T), decreasing, in [0, 1], and the levels to visit. Without levels, the settings
steps, spacing, offset, final, sigmas and strength choose them within the trained range of the schedule's model. They
raise ``ValueError`` for a setting out of its range, for steps that do not fit into the schedule, and for levels that
start at α = 0 if the solver needs σ/α. Shared settings are those of the nodes of the same names:
steps: steps of the solver; some take several model calls, and rows, for each. spacing: which timesteps (Lin et al.
2023, table 2), by default those of the sampler's reference implementation. offset: added to leading timesteps. final:
ᾱ after the last step, 1 or ᾱ_0. sigmas: levels of σ/α of the schedule at those timesteps, or spaced as in Karras et al.
(2022), or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile of dynamic
thresholding (Saharia et al. 2022), and threshold_max its upper bound. rederive_eps: recompute ε from the clipped
x̂0. strength: only this last fraction of the steps, rounded down but at least one, for a start from a picture. eta: the
fraction of DDPM's noise that a step adds, if the sampler has a choice; the others accept only their fixed value, so
that samplers are interchangeable.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from guidegraph_runtime.checks import check_choice, check_int, check_number
from guidegraph_runtime.samplers.distilled import lcm as lcm
from guidegraph_runtime.samplers.distilled import tcd as tcd
from guidegraph_runtime.samplers.exponential import deis as deis
from guidegraph_runtime.samplers.exponential import dpmpp_2m as dpmpp_2m
from guidegraph_runtime.samplers.exponential import dpmpp_2m_sde as dpmpp_2m_sde
from guidegraph_runtime.samplers.exponential import dpmpp_2s as dpmpp_2s
from guidegraph_runtime.samplers.exponential import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from guidegraph_runtime.samplers.exponential import dpmpp_3m_sde as dpmpp_3m_sde
from guidegraph_runtime.samplers.exponential import dpmpp_sde as dpmpp_sde
from guidegraph_runtime.samplers.exponential import unipc as unipc
from guidegraph_runtime.tables import ddpm_ddim, ode_solvers, pseudo_numerical
from guidegraph_runtime.tables.ddpm_ddim import Variance
from guidegraph_runtime.tables.noise_levels import RATIO, SUBSEQUENCE, Final, Levels, NoiseSchedule, Sigmas, Spacing
from guidegraph_runtime.tables.pseudo_numerical import Combine
from guidegraph_runtime.tables.rows import Array
from guidegraph_runtime.tables.sampler_table import (
    SamplerTable,
    as_noise_schedule,
    check_eta_is_one,
    check_eta_is_zero,
    choose_levels,
    make_sampler_table,
)

Warmup: TypeAlias = Literal["plms", "runge_kutta"]


def ddpm(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int | None = None,
    spacing: Spacing = "leading",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    variance: Variance = "fixed_small",
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """Ancestral sampling (Ho et al. 2020), by default at every timestep; variance: β̃, β, or learned between them."""
    check_eta_is_one(eta)
    check_choice("variance", variance, get_args(Variance))
    noise = as_noise_schedule(alphas_bar)
    count = noise.whole_times if steps is None else steps
    visited = choose_levels(noise, levels, SUBSEQUENCE, count, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        ddpm_ddim.ddpm(visited, variance), clip, threshold, threshold_max, learned=variance == "learned"
    )


def ddim(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 50,
    spacing: Spacing = "leading",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """DDIM (Song et al. 2021): deterministic at eta 0, as random as DDPM at eta 1."""
    visited = choose_levels(
        as_noise_schedule(alphas_bar),
        levels,
        SUBSEQUENCE,
        steps,
        spacing,
        offset,
        final,
        sigmas,
        strength,
        rising=eta == 0,
    )
    return make_sampler_table(
        ddpm_ddim.ddim(visited, check_number("eta", eta, low=0, high=1)), clip, threshold, threshold_max, rederive_eps
    )


def pndm(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 50,
    spacing: Spacing = "leading",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    warmup: Warmup = "plms",
    combine: Combine = "eps",
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """PNDM (Liu et al. 2022): PLMS, or Runge-Kutta for the first three steps (four calls each) and PLMS after it.

    warmup: which of the two. combine: the output mixed over several calls: ε, or v as in diffusers for v models.
    """
    check_eta_is_zero(eta)
    check_choice("warmup", warmup, get_args(Warmup))
    check_choice("combine", combine, get_args(Combine))
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, SUBSEQUENCE, steps, spacing, offset, final, sigmas, strength)
    rows = (
        pseudo_numerical.plms(visited, combine)
        if warmup == "plms"
        else pseudo_numerical.runge_kutta(visited, noise.at, combine)
    )
    return make_sampler_table(rows, clip, threshold, threshold_max, rederive_eps)


def euler(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    check_eta_is_zero(eta)
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength, rising=True)
    return make_sampler_table(ode_solvers.euler(visited), clip, threshold, threshold_max, rederive_eps)


def euler_ancestral(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """Euler's method with fresh noise at every step; eta scales that noise."""
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        ode_solvers.euler_ancestral(visited, check_number("eta", eta, low=0, high=1)),
        clip,
        threshold,
        threshold_max,
        rederive_eps,
    )


def heun(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """Heun's method, of second order (Karras et al. 2022): 2·steps − 1 calls."""
    check_eta_is_zero(eta)
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength, rising=True)
    return make_sampler_table(ode_solvers.heun(visited), clip, threshold, threshold_max, rederive_eps)


def dpm2(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver-2 (Lu et al. 2022) in x/α, of second order: 2·steps − 1 calls."""
    check_eta_is_zero(eta)
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength, rising=True)
    return make_sampler_table(ode_solvers.dpm2(visited, noise.near), clip, threshold, threshold_max, rederive_eps)


def dpm2_ancestral(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver-2 with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise."""
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        ode_solvers.dpm2_ancestral(visited, noise.near, check_number("eta", eta, low=0, high=1)),
        clip,
        threshold,
        threshold_max,
        rederive_eps,
    )


def lms(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 30,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    order: int = 4,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """Linear multistep in x/α, of order up to 4: one call a step."""
    check_eta_is_zero(eta)
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        ode_solvers.lms(visited, check_int("order", order, low=1, high=4)), clip, threshold, threshold_max, rederive_eps
    )


def edm(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "karras",
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): 2·steps − 1 calls; churn 0 is Heun's method.

    churn: S_churn; s_min, s_max: the σ/α between which noise is added; s_noise: S_noise.
    """
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    churn, s_min = check_number("churn", churn, low=0), check_number("s_min", s_min, low=0)
    s_max, s_noise = check_number("s_max", s_max, above=0), check_number("s_noise", s_noise, above=0)
    return make_sampler_table(
        ode_solvers.edm(visited, noise.at_ratio, churn, s_min, s_max, s_noise),
        clip,
        threshold,
        threshold_max,
        rederive_eps,
    )
