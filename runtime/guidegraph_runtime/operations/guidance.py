"""Guidance scales that depend on the noise level, which are numbers of a step, known before its graphs run."""

from __future__ import annotations

import math

import numpy as np

from guidegraph_runtime.checks import check_array, check_number
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import NotNegative, Schedule, Tensor, Timesteps
from guidegraph_runtime.tables.noise_levels import parse_schedule


@operation("guidance.interval")
def interval(
    t: Timesteps,
    schedule: Schedule | None = None,
    *,
    scale: float | Tensor = 7.5,
    low: NotNegative = 0.0,
    high: NotNegative = math.inf,
) -> float | Tensor:
    """The guidance scale inside an interval of noise levels, and 1, no guidance, outside (Kynkäänniemi et al. 2024).

    t (1) or (B). low, high: ends of the interval, both included, as timesteps, or as σ/α like in the paper if a
    schedule is wired; a flow schedule has σ, from 0 to 1. By default they include all noise levels.
    Returns a number if t is one timestep and scale a number, so that guidance.cfg can skip a call; otherwise a tensor
    (B).
    Raises an error if low is above high; in a graph, where they are tensors, such an interval is empty.
    """
    if low > high:
        raise ValueError(f"no noise level is from {low:g} to {high:g}: low must not be above high")
    levels = check_array("t", t, "(B)").astype(np.float32)
    if schedule is not None:
        noise = parse_schedule(schedule)
        by_time = [noise.at(float(time)) for time in levels]
        sigmas = np.array([level.sigma for level in by_time], np.float32)
        alphas = np.array([level.alpha for level in by_time], np.float32)
        with np.errstate(divide="ignore"):
            levels = sigmas if noise.form == "flow" else sigmas / alphas
    # in the dtype of the level, so that an end such as 0.3 is included
    inside = (levels >= np.float32(low)) & (levels <= np.float32(high))
    if not isinstance(scale, np.ndarray):
        scale = check_number("scale", scale)
        if inside.size == 1:
            return scale if inside.item() else 1.0
    values = np.asarray(scale, np.float32)
    if any(size != 1 for size in values.shape[1:]):
        raise ValueError(
            f"the scales have shape {values.shape}: give one number, or a tensor (B) with one for each sample"
        )
    scales: Tensor = np.where(inside, values.reshape(-1) if values.ndim else values, np.float32(1))
    return scales
