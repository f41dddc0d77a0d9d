"""Noise levels of flow matching, as the pipelines of released models space them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import numpy as np

from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Fraction, Levels, Range, Schedule, Steps
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.operations.levels import table_shape
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.noise_levels import Final, NoiseSchedule, landing, parse_schedule
from guidegraph_runtime.tables.rows import Array

Sigma: TypeAlias = Annotated[float, Range(above=0, below=1)]
FlowSolver: TypeAlias = Literal["dpm_solver", "unipc"]


@operation("levels.flow", shape=table_shape)
def flow(
    schedule: Schedule,
    *,
    steps: Steps = 30,
    sigma_max: Fraction = 1.0,
    sigma_min: Sigma | None = None,
    terminal: Sigma | None = None,
    final: Final = "one",
) -> Levels:
    """σ evenly from sigma_max to sigma_min, then moved by the schedule's shift: the levels of Flux and Z-Image.

    The shift moves σ to sσ/(1 + (s − 1)σ) (Esser et al. 2024, section 5.3.2). Flux has `schedule.flow_shift`.
    sigma_min: by default sigma_max / steps, so that the last step has the length of the others before the shift.
    terminal: stretch the levels, after the shift, so that the last is this σ: 1 − σ′ = (1 − σ)(1 − terminal)/(1 − σ_N),
    as LTX-Video and Qwen-Image do; it takes two steps or more.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    sigmas = np.linspace(sigma_max, sigma_max / steps if sigma_min is None else sigma_min, _count(steps))
    if steps > 1 and sigmas[-1] >= sigmas[0]:
        raise ValueError(f"sigma_min {sigmas[-1]:g} must be below sigma_max {sigmas[0]:g}")
    shifted = noise.shift_sigma(sigmas)
    if terminal is not None:
        if shifted[-1] >= 1:
            raise SettingError(
                "terminal", "terminal: levels that start at σ = 1 and have one step cannot be stretched: use two steps"
            )
        shifted = 1 - (1 - shifted) * (1 - terminal) / (1 - shifted[-1])
    return _at_sigmas(noise, shifted, final)


@operation("levels.flow_sd3", shape=table_shape)
def flow_sd3(schedule: Schedule, *, steps: Steps = 28, final: Final = "one") -> Levels:
    """σ evenly from 1 to the shifted 1/T, then moved by the shift: the levels of Stable Diffusion 3.

    So the last σ is shifted twice, as in the flow schedulers of diffusers without a list of σ.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    last = float(noise.shift_sigma(np.array(1 / noise.train_steps)))
    return _at_sigmas(noise, noise.shift_sigma(np.linspace(1, last, _count(steps))), final)


@operation("levels.flow_sigmas", shape=table_shape)
def flow_sigmas(
    schedule: Schedule, *, steps: Steps = 20, solver: FlowSolver = "dpm_solver", final: Final = "one"
) -> Levels:
    """σ as with `use_flow_sigmas` in diffusers, moved by the shift.

    solver: whose rule. dpm_solver (DPM-Solver++, DEIS, SA-Solver): evenly from 1 − 1/T to 0, without the 0. unipc:
    evenly from 1 to 1/T, without the 1/T; it starts at σ = 1, and diffusers' at 1 − 1e-6 to avoid log 0.
    Raises an error for a schedule that is not a flow.
    """
    noise = _parse_flow(schedule)
    step = 1 / noise.train_steps
    ends = (1 - step, 0.0) if solver == "dpm_solver" else (1.0, step)
    return _at_sigmas(noise, noise.shift_sigma(np.linspace(*ends, _count(steps) + 1)[:-1]), final)


def _parse_flow(schedule: Schedule) -> NoiseSchedule:
    noise = parse_schedule(schedule)
    if noise.form != "flow":
        raise ValueError("schedule: expected a flow schedule, as from schedule.flow; found a variance-preserving one")
    return noise


def _count(steps: int) -> int:
    check_limit("steps", steps, f"there are {steps:,} steps", "steps")
    return steps


def _at_sigmas(noise: NoiseSchedule, sigmas: Array, final: Final) -> Levels:
    visited = [noise.near_sigma(float(sigma)) for sigma in sigmas]
    levels = noise_levels.Levels.of([*visited, landing(noise, final)])
    return noise_levels.check_levels(levels)._asdict()
