"""Samplers. Each node computes a table, once, and scheduler.step applies it row by row.

Settings that several samplers share: see `settings`.
"""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le

from guidegraph.graph.node import node
from guidegraph.nodes.sampling.sampler_node import Sampler as Sampler
from guidegraph.nodes.sampling.sampler_node import build_sampler, make_sampler_check
from guidegraph.nodes.sampling.scheduler_distilled import lcm as lcm
from guidegraph.nodes.sampling.scheduler_distilled import tcd as tcd
from guidegraph.nodes.sampling.scheduler_exponential import deis as deis
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_2m as dpmpp_2m
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_2m_sde as dpmpp_2m_sde
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_2s as dpmpp_2s
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_3m_sde as dpmpp_3m_sde
from guidegraph.nodes.sampling.scheduler_exponential import dpmpp_sde as dpmpp_sde
from guidegraph.nodes.sampling.scheduler_exponential import unipc as unipc
from guidegraph.nodes.sampling.settings import (
    SHARED_SETTINGS,
    AncestralEta,
    Clip,
    Eta,
    Fraction,
    NoEta,
    Offset,
    Positive,
    Steps,
)
from guidegraph.nodes.types import Levels, Schedule
from guidegraph_runtime.samplers import samplers
from guidegraph_runtime.samplers.samplers import Warmup
from guidegraph_runtime.tables.ddpm_ddim import Variance
from guidegraph_runtime.tables.noise_levels import Final, Sigmas, Spacing
from guidegraph_runtime.tables.pseudo_numerical import Combine

__doc__ = f"{__doc__}\n{SHARED_SETTINGS}"


@node("scheduler.ddpm", runtime=True, check=make_sampler_check(samplers.ddpm))
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
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """Ancestral sampling (Ho et al. 2020), by default at every timestep; variance: β̃, β, or learned between the two."""
    return build_sampler(samplers.ddpm, **locals())


@node("scheduler.ddim", runtime=True, check=make_sampler_check(samplers.ddim))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DDIM (Song et al. 2021): deterministic at eta 0, as random as DDPM at eta 1."""
    return build_sampler(samplers.ddim, **locals())


@node("scheduler.pndm", runtime=True, check=make_sampler_check(samplers.pndm))
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
    combine: Combine = "eps",
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """PNDM (Liu et al. 2022): PLMS, or Runge-Kutta for the first three steps (four calls each) and then PLMS.

    warmup: how it starts, `plms` or `runge_kutta`. combine: quantity to combine over several calls, ε, or v as in
    diffusers for models that predict v.
    """
    return build_sampler(samplers.pndm, **locals())


@node("scheduler.euler", runtime=True, check=make_sampler_check(samplers.euler))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method in x/α (Karras et al. 2022): DDIM on any grid of σ."""
    return build_sampler(samplers.euler, **locals())


@node("scheduler.euler_ancestral", runtime=True, check=make_sampler_check(samplers.euler_ancestral))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Euler's method with fresh noise at every step; eta scales that noise."""
    return build_sampler(samplers.euler_ancestral, **locals())


@node("scheduler.heun", runtime=True, check=make_sampler_check(samplers.heun))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Heun's method, of second order (Karras et al. 2022): 2·steps − 1 calls."""
    return build_sampler(samplers.heun, **locals())


@node("scheduler.dpm2", runtime=True, check=make_sampler_check(samplers.dpm2))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver-2 (Lu et al. 2022) in x/α, of second order: 2·steps − 1 calls."""
    return build_sampler(samplers.dpm2, **locals())


@node("scheduler.dpm2_ancestral", runtime=True, check=make_sampler_check(samplers.dpm2_ancestral))
def dpm2_ancestral(
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver-2 with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise."""
    return build_sampler(samplers.dpm2_ancestral, **locals())


@node("scheduler.lms", runtime=True, check=make_sampler_check(samplers.lms))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Linear multistep in x/α, of order up to 4: one call a step."""
    return build_sampler(samplers.lms, **locals())


@node("scheduler.edm", runtime=True, check=make_sampler_check(samplers.edm))
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
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): 2·steps − 1 calls; churn 0 is Heun's method.

    churn: S_churn; s_min, s_max: the σ/α between which noise is added; s_noise: S_noise.
    """
    return build_sampler(samplers.edm, **locals())
