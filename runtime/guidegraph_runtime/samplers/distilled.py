"""Samplers of models distilled to jump to x̂0 in a few steps. Other settings: see `samplers`.

original_steps: the number of timesteps that the model was distilled at. spacing: by default an even choice of those.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from guidegraph_runtime.checks import check_choice, check_int, check_number
from guidegraph_runtime.tables import consistency
from guidegraph_runtime.tables.noise_levels import (
    SUBSEQUENCE,
    Final,
    Levels,
    NoiseSchedule,
    Sigmas,
    count_kept_steps,
    fit_times,
    landing,
)
from guidegraph_runtime.tables.rows import Array, Level
from guidegraph_runtime.tables.sampler_table import SamplerTable, as_noise_schedule, choose_levels, make_sampler_table

DistilledSpacing: TypeAlias = Literal["distilled", "leading", "trailing", "linspace"]


def lcm(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 4,
    original_steps: int = 50,
    spacing: DistilledSpacing = "distilled",
    offset: int = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    timestep_scaling: float = 10.0,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    strength: float = 1.0,
) -> SamplerTable:
    """Latent consistency models (Luo et al. 2023): the consistency function, then fresh noise of the next level.

    timestep_scaling: the factor of t in the consistency function's c_skip and c_out.
    """
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = _choose_levels(noise, levels, steps, original_steps, spacing, offset, final, sigmas, strength)
    rows = consistency.lcm(visited, check_number("timestep_scaling", timestep_scaling, above=0))
    return make_sampler_table(rows, clip, threshold, threshold_max)


def tcd(
    alphas_bar: Array | NoiseSchedule,
    levels: Levels | None = None,
    *,
    steps: int = 4,
    original_steps: int = 50,
    spacing: DistilledSpacing = "distilled",
    offset: int = 0,
    final: Final = "first",
    sigmas: Sigmas = "schedule",
    eta: float = 0.3,
    clip: bool | float = False,
    threshold: float | None = None,
    threshold_max: float | None = None,
    rederive_eps: bool = True,
    strength: float = 1.0,
) -> SamplerTable:
    """Trajectory consistency distillation (Zheng et al. 2024): DDIM below the next level, then fresh noise up to it.

    eta: the paper's γ, from 0, which is DDIM, to 1, which is multistep consistency sampling.
    """
    noise = as_noise_schedule(alphas_bar).with_signal(zero=True)
    visited = _choose_levels(noise, levels, steps, original_steps, spacing, offset, final, sigmas, strength)
    rows = consistency.tcd(visited, noise.at, check_number("eta", eta, low=0, high=1))
    return make_sampler_table(rows, clip, threshold, threshold_max, rederive_eps)


def _choose_levels(
    noise: NoiseSchedule,
    levels: Levels | None,
    steps: int,
    original_steps: int,
    spacing: DistilledSpacing,
    offset: int,
    final: Final,
    sigmas: Sigmas,
    strength: float,
) -> list[Level]:
    """Return the given levels, or those of the settings: by default from the timesteps of the distillation.

    Like those of `grid.timesteps`, they are mapped into the trained range of the model if they would leave it.
    """
    check_choice("spacing", spacing, get_args(DistilledSpacing))
    steps, original_steps = check_int("steps", steps, low=1), check_int("original_steps", original_steps, low=1)
    if levels is not None or spacing != "distilled" or sigmas != "schedule":
        fallback = "trailing" if spacing == "distilled" else spacing
        return choose_levels(noise, levels, SUBSEQUENCE, steps, fallback, offset, final, sigmas, strength)
    check_choice("final", final, get_args(Final))
    times = consistency.distillation_timesteps(len(noise.log_ratio), original_steps, steps)
    in_range = fit_times(np.array(times, dtype=np.float64), noise, rounds=True)
    remaining = in_range[steps - count_kept_steps(steps, check_number("strength", strength, above=0, high=1)) :]
    return [*(noise.at(float(t)) for t in remaining), landing(noise, final)]
