"""Noising to the level where a sampler starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidegraph_runtime.admission import find_common_batch
from guidegraph_runtime.checks import check_array, check_fields, check_same_axes
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Noise, Sample, Scheduler, SchedulerState


def noisy_shape(x0: Any, noise: Any) -> tuple[int, ...]:
    """The shape of the result of `scheduler.add_noise`: one picture is broadcast to a batch of noise."""
    longer = noise.shape if len(noise.shape) >= len(x0.shape) else x0.shape
    return find_common_batch("x0 and noise", x0.shape[0], noise.shape[0]), *longer[1:]


@operation("scheduler.add_noise", shape=noisy_shape)
def add_noise(scheduler: Scheduler, x0: Sample, noise: Noise, state: SchedulerState | None = None) -> Sample:
    """Noise x0 to the level where the sampler starts: the start of an image-to-image loop (with `strength`).

    state: a sampler's state from `scheduler.step`, to use the level of its next model call instead; after the last
    call, x0 is returned without noise. float64 if x0 is float64, otherwise float32.
    """
    check_fields("scheduler", scheduler, "alpha", "sigma")
    check_same_axes(
        "x0 and noise", check_array("x0", x0, "(B, C, H, W)", "f"), check_array("noise", noise, "(B, C, H, W)", "f")
    )
    dtype = np.float64 if x0.dtype == np.float64 else np.float32
    row = 0
    if state is not None:
        row = int(check_array("state.index", check_fields("state", state, "index")["index"], "(1)", "i").item())
    levels = [
        np.append(check_array(f"scheduler.{name}", scheduler[name], "(R)", "f"), end).astype(dtype)
        for name, end in (("alpha", 1), ("sigma", 0))
    ]
    if not 0 <= row < len(levels[0]):
        raise ValueError(f"state.index: expected a row from 0 to {len(levels[0]) - 1}; found {row}")
    alpha, sigma = (level[row] for level in levels)
    noisy: Sample = alpha * x0.astype(dtype) + sigma * noise.astype(dtype)
    return noisy
