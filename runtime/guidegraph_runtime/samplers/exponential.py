"""Samplers that integrate in λ = log(α/σ): DPM-Solver++ (Lu et al. 2022), UniPC and DEIS. Settings: see `samplers`."""

from __future__ import annotations

from typing import get_args

from guidegraph_runtime.checks import check_choice, check_flag, check_int, check_number
from guidegraph_runtime.tables import dpm_solver, ode_solvers
from guidegraph_runtime.tables import unipc as uni
from guidegraph_runtime.tables.dpm_solver import Solver
from guidegraph_runtime.tables.noise_levels import LAMBDA, RATIO, Final, Levels, NoiseSchedule, Sigmas, Spacing
from guidegraph_runtime.tables.rows import Array
from guidegraph_runtime.tables.sampler_table import (
    SamplerTable,
    as_noise_schedule,
    check_eta_is_zero,
    choose_levels,
    count_skipped_steps,
    make_sampler_table,
)


def dpmpp_2m(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++(2M) (Lu et al. 2022): multistep, of second order, one call a step.

    solver_type: x̂0's slope counts half of a step, or as its integral (heun). lower_order_final: with fewer than 15
    steps the last one is of first order. euler_at_final: the last step is of first order for any number of steps.
    """
    check_eta_is_zero(eta)
    check_choice("solver_type", solver_type, get_args(Solver))
    check_flag("lower_order_final", lower_order_final)
    check_flag("euler_at_final", euler_at_final)
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength, rising=True)
    rows = dpm_solver.dpmpp_2m(
        visited, solver_type, 0.0, lower_order_final, euler_at_final, count_skipped_steps(visited, levels, steps)
    )
    return make_sampler_table(rows, clip, threshold, threshold_max)


def dpmpp_2m_sde(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022): fresh noise at every step, which eta scales.

    solver_type, lower_order_final, euler_at_final: as for dpmpp_2m.
    """
    check_choice("solver_type", solver_type, get_args(Solver))
    check_flag("lower_order_final", lower_order_final)
    check_flag("euler_at_final", euler_at_final)
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength)
    rows = dpm_solver.dpmpp_2m(
        visited,
        solver_type,
        check_number("eta", eta, low=0, high=1),
        lower_order_final,
        euler_at_final,
        count_skipped_steps(visited, levels, steps),
    )
    return make_sampler_table(rows, clip, threshold, threshold_max)


def dpmpp_2s(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    solver_type: Solver = "midpoint",
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++(2S) (Lu et al. 2022): pairs of steps of second order, one call a step.

    solver_type: as for dpmpp_2m. With strength, pairs are those of the full run; with levels, they start at the first.
    """
    check_eta_is_zero(eta)
    check_choice("solver_type", solver_type, get_args(Solver))
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        dpm_solver.dpmpp_2s(visited, solver_type, count_skipped_steps(visited, levels, steps)),
        clip,
        threshold,
        threshold_max,
    )


def dpmpp_2s_ancestral(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++(2S) with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise."""
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        dpm_solver.dpmpp_2s_ancestral(visited, noise.near, check_number("eta", eta, low=0, high=1)),
        clip,
        threshold,
        threshold_max,
    )


def dpmpp_sde(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++ (SDE) as in k-diffusion: 2·steps − 1 calls, with noise at each; eta scales the noise."""
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, RATIO, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        dpm_solver.dpmpp_sde(visited, noise.near, check_number("eta", eta, low=0, high=1)),
        clip,
        threshold,
        threshold_max,
    )


def dpmpp_3m_sde(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 1.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """DPM-Solver++(3M) for the reverse SDE, as in k-diffusion: one call a step; eta scales the fresh noise.

    Its quadratic term counts half, as there, so at eta 0 it is of second order.
    """
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength)
    return make_sampler_table(
        dpm_solver.dpmpp_3m_sde(visited, check_number("eta", eta, low=0, high=1)), clip, threshold, threshold_max
    )


def unipc(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    order: int = 2,
    variant: uni.B = "bh2",
    lower_order_final: bool = True,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """UniPC (Zhao et al. 2023) of x̂0: predictor and corrector of the same order, one call a step.

    variant: the paper's B(h), h for bh1 and e^h − 1 for bh2. lower_order_final: the last steps have orders p − 1 to 1.
    """
    check_eta_is_zero(eta)
    check_choice("variant", variant, get_args(uni.B))
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength)
    rows = uni.unipc(
        visited, check_int("order", order, low=1, high=3), variant, check_flag("lower_order_final", lower_order_final)
    )
    return make_sampler_table(rows, clip, threshold, threshold_max)


def deis(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 20,
    spacing: Spacing = "linspace",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: float = 0.0,
    order: int = 3,
    lower_order_final: bool = True,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step.

    lower_order_final: with fewer than 15 steps the last one is of first order, and the one before at most of second.
    """
    check_eta_is_zero(eta)
    noise = as_noise_schedule(alphas_bar).with_signal()
    visited = choose_levels(noise, levels, LAMBDA, steps, spacing, offset, final, sigmas, strength)
    order, lower = check_int("order", order, low=1, high=3), check_flag("lower_order_final", lower_order_final)
    rows = ode_solvers.deis(visited, order, lower, count_skipped_steps(visited, levels, steps))
    return make_sampler_table(rows, clip, threshold, threshold_max, rederive_eps)
