"""Each sampler on a flow schedule against diffusers', on the same σ, with the closed-form u, for the tests and for
tools/sampler_table.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from torch import Tensor

from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.types import Schedule
from tests.nodes.sampling.closed_form import network, normal, sample
from tests.nodes.sampling.parity import Case, Difference

STEPS = 20
LATENT = (1, 16, 128, 128)
"""The size of a latent of a picture of 1024 pixels, which has 4,096 tokens."""
MU = 1.15
"""Flux's μ for 4,096 tokens."""

SHIFTS: dict[str, tuple[float | None, dict[str, Any], dict[str, Any]]] = {
    "shift 1": (1.0, {"shift": 1.0}, {}),
    "shift 3": (3.0, {"shift": 3.0}, {}),
    "dynamic": (None, {"use_dynamic_shifting": True}, {"mu": MU}),
}
"""Our shift, or None for that of the latent's size; the settings of diffusers' scheduler, and of its set_timesteps."""


def flow_schedule(shift: float | None) -> Schedule:
    if shift is None:
        return schedules.flow_shift(schedules.flow(), torch.zeros(LATENT))
    return schedules.flow(shift=shift)


def cases() -> Iterator[Case]:
    """All comparisons. The settings are those of ours; `reference` is their class and the source of its σ."""
    for name in SHIFTS:
        yield Case("euler", {}, "FlowMatchEulerDiscreteScheduler", f"Flux, {name}", 1e-3, partial(flux, name))
        if name != "dynamic":
            yield Case("euler", {}, "FlowMatchEulerDiscreteScheduler", f"SD3, {name}", 1e-3, partial(sd3_euler, name))
            yield Case("heun_flow", {}, "FlowMatchHeunDiscreteScheduler", f"SD3, {name}", 1e-3, partial(sd3_heun, name))
        for spacing in ("karras", "exponential"):
            grid = f"{spacing}, {name}"
            yield Case("euler", {}, "FlowMatchEulerDiscreteScheduler", grid, 1e-3, partial(spaced, spacing, name))
        yield Case(
            "euler_stochastic", {}, "FlowMatchEulerDiscreteScheduler", f"Flux, {name}", 1e-3, partial(stochastic, name)
        )
        for sampler, settings, cls, theirs in MULTISTEP:
            run = partial(multistep, sampler, settings, cls, theirs, name)
            yield Case(sampler, settings, cls, f"use_flow_sigmas, {name}", 1.0, run)


MULTISTEP: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", {}),
    ("dpmpp_2m", {"solver_type": "heun"}, "DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("dpmpp_3m_sde", {"eta": 0.0}, "DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("unipc", {}, "UniPCMultistepScheduler", {}),
    ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
    ("unipc", {"variant": "bh1"}, "UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("deis", {"order": 2}, "DEISMultistepScheduler", {"solver_order": 2}),
]


def flux(name: str) -> Difference:
    """σ evenly from 1 to 1/N, shifted: Flux, Z-Image and others."""
    shift, theirs, more = SHIFTS[name]
    reference = diffusers.FlowMatchEulerDiscreteScheduler(**theirs)
    reference.set_timesteps(sigmas=torch.linspace(1, 1 / STEPS, STEPS).tolist(), **more)
    schedule = flow_schedule(shift)
    return compare(samplers.euler(schedule, grids.flow(schedule, steps=STEPS)), schedule, reference)


def sd3_euler(name: str) -> Difference:
    return _sd3(name, "FlowMatchEulerDiscreteScheduler", samplers.euler)


def sd3_heun(name: str) -> Difference:
    return _sd3(name, "FlowMatchHeunDiscreteScheduler", samplers.heun_flow)


def _sd3(name: str, cls: str, sampler: Callable[..., Sampler]) -> Difference:
    """Without a list of σ, diffusers shifts the last one twice."""
    shift, theirs, _ = SHIFTS[name]
    reference = getattr(diffusers, cls)(**theirs)
    reference.set_timesteps(STEPS)
    schedule = flow_schedule(shift)
    return compare(sampler(schedule, grids.flow_sd3(schedule, steps=STEPS)), schedule, reference)


def spaced(spacing: str, name: str) -> Difference:
    """σ spaced from the first to the last of Flux's."""
    shift, theirs, more = SHIFTS[name]
    reference = diffusers.FlowMatchEulerDiscreteScheduler(**theirs, **{f"use_{spacing}_sigmas": True})
    reference.set_timesteps(sigmas=torch.linspace(1, 1 / STEPS, STEPS).tolist(), **more)
    schedule = flow_schedule(shift)
    last = float(grids.flow(schedule, steps=STEPS).ratio[-2])
    levels = getattr(grids, spacing)(schedule, steps=STEPS, sigma_min=last / (1 + last))
    return compare(samplers.euler(schedule, levels), schedule, reference)


def stochastic(name: str) -> Difference:
    """x′ = (1 − σ′) x0 + σ′ z."""
    shift, theirs, more = SHIFTS[name]
    reference = diffusers.FlowMatchEulerDiscreteScheduler(**theirs, stochastic_sampling=True)
    reference.set_timesteps(sigmas=torch.linspace(1, 1 / STEPS, STEPS).tolist(), **more)
    schedule = flow_schedule(shift)
    noises = [normal(1, 64, seed=i + 1).float().double() for i in range(STEPS)]
    ours = samplers.euler_stochastic(schedule, grids.flow(schedule, steps=STEPS))
    module = sys.modules["diffusers.schedulers.scheduling_flow_match_euler_discrete"]
    with patch.object(module, "randn_tensor", side_effect=[noise.float() for noise in noises]):
        return compare(ours, schedule, reference, noises)


def multistep(sampler: str, settings: Any, cls: str, theirs: Any, name: str) -> Difference:
    shift, *_ = SHIFTS[name]
    shift = math.exp(MU) if shift is None else shift
    reference = getattr(diffusers, cls)(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, **theirs
    )
    reference.set_timesteps(STEPS)
    reference.sigmas = reference.sigmas.double()
    schedule = schedules.flow(shift=shift)
    levels = grids.sigmas(schedule, sigmas=reference.sigmas.tolist(), final="listed")
    noises = [normal(1, 64, seed=i + 1) for i in range(STEPS)] if sampler.endswith("2m_sde") else None
    return compare(getattr(samplers, sampler)(schedule, levels, **settings), schedule, reference, noises)


def compare(ours: Sampler, schedule: Schedule, reference: Any, noises: list[Tensor] | None = None) -> Difference:
    """Run both loops. Raises ``AssertionError`` if they call the network a different number of times."""
    assert len(ours.steps) == len(reference.timesteps), (len(ours.steps), len(reference.timesteps))
    x = normal(1, 64).float().double()
    actual, y = sample(ours, x, noises, kind="flow", schedule=schedule), x
    takes_noise = noises is not None and "stochastic_sampling" not in reference.config
    for i, t in enumerate(reference.timesteps):
        sigma = float(reference.sigmas[i])
        more = {"variance_noise": noises[i]} if noises is not None and takes_noise else {}
        y = reference.step(network(y, 1 - sigma, sigma, "flow").value, t, y, return_dict=False, **more)[0]
    grid = (ours.steps.double() - reference.timesteps.double()).abs().max()
    return Difference(float(grid), float((actual - y).abs().max() / y.abs().max()))
