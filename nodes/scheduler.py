"""Samplers: each node computes a table, once, that scheduler.step applies row by row.

Port levels: the levels to visit, of any levels node. Without it, the settings steps, spacing, offset, final, sigmas and
strength choose them within the timesteps that the schedule's model knows (trained_from … trained_to).

All settings that several samplers share:
steps: steps of the solver; some take several model calls, and rows, for each. spacing: which timesteps (Lin et al.
2023, table 2), by default as the sampler's reference implementation has it. offset: added to leading timesteps.
final: ᾱ after the last step, 1 or ᾱ_0. sigmas: levels of σ/α as the schedule has them at those timesteps, or spaced
as Karras et al. (2022) do, or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile
of dynamic thresholding (Saharia et al. 2022). rederive_eps: ε follows the clipped x̂0. strength: only this last part
of the steps, rounded down but at least one, for a start from a picture (scheduler.add_noise). eta: how much of DDPM's
noise a step adds, where the sampler has a choice; the others take only the value that they have anyway, so that one can
stand in for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le

from guidegraph.graph.context import current_device
from guidegraph.graph.node import node
from guidegraph.nodes.levels import as_noise, as_tables
from guidegraph.nodes.sampler_settings import AncestralEta, Clip, Eta, Fraction, NoEta, Offset, Steps
from guidegraph.nodes.types import Levels, Schedule, Scheduler, SchedulerState, Timesteps
from guidegraph_runtime import samplers
from guidegraph_runtime.samplers import Warmup
from guidegraph_runtime.tables.ancestral import Variance
from guidegraph_runtime.tables.grid import Final, Sigmas, Spacing
from guidegraph_runtime.tables.rows import K
from guidegraph_runtime.tables.sampler import SamplerTable, check_shorthand
from guidegraph_runtime.tables.unipc import B


class Sampler(NamedTuple):
    scheduler: Scheduler
    steps: Timesteps
    state: SchedulerState


@node("scheduler.ddpm", runtime=True)
def ddpm(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps | None = None,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: AncestralEta = 1.0,
    variance: Variance = "fixed_small",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """Ancestral sampling (Ho et al. 2020), by default at every timestep; variance: β̃, β, or learned between the two."""
    return _sampler(samplers.ddpm, **locals())


@node("scheduler.ddim", runtime=True)
def ddim(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 50,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DDIM (Song et al. 2021): deterministic at eta 0, as random as DDPM at eta 1."""
    return _sampler(samplers.ddim, **locals())


@node("scheduler.pndm", runtime=True)
def pndm(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 50,
    spacing: Spacing = "leading",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    warmup: Warmup = "plms",
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """PNDM (Liu et al. 2022): PLMS, or Runge-Kutta for the first three steps (four calls each) and PLMS after it.

    warmup: which of the two.
    """
    return _sampler(samplers.pndm, **locals())


@node("scheduler.euler", runtime=True)
def euler(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    return _sampler(samplers.euler, **locals())


@node("scheduler.euler_ancestral", runtime=True)
def euler_ancestral(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method with fresh noise at every step; eta scales that noise."""
    return _sampler(samplers.euler_ancestral, **locals())


@node("scheduler.heun", runtime=True)
def heun(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Heun's method, of second order (Karras et al. 2022): 2·steps − 1 calls."""
    return _sampler(samplers.heun, **locals())


@node("scheduler.dpm2", runtime=True)
def dpm2(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver-2 (Lu et al. 2022) in x/α, of second order: 2·steps − 1 calls."""
    return _sampler(samplers.dpm2, **locals())


@node("scheduler.lms", runtime=True)
def lms(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 30,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(4)] = 4,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Linear multistep in x/α, of order up to 4: one call a step."""
    return _sampler(samplers.lms, **locals())


@node("scheduler.dpmpp_2m", runtime=True)
def dpmpp_2m(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022): multistep, of second order, one call a step."""
    return _sampler(samplers.dpmpp_2m, **locals())


@node("scheduler.dpmpp_2m_sde", runtime=True)
def dpmpp_2m_sde(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022): fresh noise at every step."""
    return _sampler(samplers.dpmpp_2m_sde, **locals())


@node("scheduler.dpmpp_2s", runtime=True)
def dpmpp_2s(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2S) (Lu et al. 2022): pairs of steps of second order, one call a step."""
    return _sampler(samplers.dpmpp_2s, **locals())


@node("scheduler.dpmpp_sde", runtime=True)
def dpmpp_sde(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++ (SDE) as in k-diffusion: 2·steps − 1 calls, with noise at each; eta scales the noise."""
    return _sampler(samplers.dpmpp_sde, **locals())


@node("scheduler.unipc", runtime=True)
def unipc(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(3)] = 2,
    variant: B = "bh2",
    clip: Clip = False,
    threshold: Fraction | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """UniPC (Zhao et al. 2023) of x̂0: predictor and corrector of the same order, one call a step.

    variant: the paper's B(h), h for bh1 and e^h − 1 for bh2.
    """
    return _sampler(samplers.unipc, **locals())


@node("scheduler.deis", runtime=True)
def deis(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: NoEta = 0.0,
    order: Annotated[int, Ge(1), Le(3)] = 3,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step."""
    return _sampler(samplers.deis, **locals())


@node("scheduler.edm", runtime=True)
def edm(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "karras",
    churn: Annotated[float, Ge(0)] = 0.0,
    s_min: Annotated[float, Ge(0)] = 0.0,
    s_max: Annotated[float, Gt(0)] = math.inf,
    s_noise: Annotated[float, Gt(0)] = 1.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): 2·steps − 1 calls; churn 0 is Heun's method.

    churn: S_churn; s_min, s_max: the σ/α between which noise is added; s_noise: S_noise.
    """
    return _sampler(samplers.edm, **locals())


def _sampler(
    table_of: Callable[..., SamplerTable], schedule: Schedule, levels: Levels | None, **settings: Any
) -> Sampler:
    """A node's values from the table that the runtime's function of the same name computes of the same settings."""
    import torch

    device = current_device()
    visited = None if levels is None else as_tables(levels)
    check_shorthand(table_of, visited, settings)
    fields = table_of(as_noise(schedule), visited, **settings)._asdict()
    columns = {name: torch.from_numpy(v).to(device) for name, v in fields.items() if isinstance(v, np.ndarray)}
    scheduler = Scheduler(**fields | columns)
    state = SchedulerState(torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(K, device=device))
    return Sampler(scheduler, scheduler.t.float(), state)
