"""Samplers that integrate in λ = log(α/σ): DPM-Solver++ (Lu et al. 2022), UniPC and DEIS.

Settings that several samplers share: see `settings`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from guidegraph.graph.node import node
from guidegraph.nodes.sampling.sampler_node import Sampler, build_sampler, make_sampler_check
from guidegraph.nodes.sampling.settings import SHARED_SETTINGS, Clip, Eta, Fraction, NoEta, Offset, Positive, Steps
from guidegraph.nodes.types import Levels, Schedule
from guidegraph_runtime.samplers import samplers
from guidegraph_runtime.tables.dpm_solver import Solver
from guidegraph_runtime.tables.noise_levels import Final, Sigmas, Spacing
from guidegraph_runtime.tables.unipc import B

__doc__ = f"{__doc__}\n{SHARED_SETTINGS}"


@node("scheduler.dpmpp_2m", runtime=True, check=make_sampler_check(samplers.dpmpp_2m))
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
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) (Lu et al. 2022): multistep, of second order, one call a step.

    solver_type: weight x̂0's slope by half of a step (midpoint), or by its integral (heun). lower_order_final: the last
    step is of first order if there are fewer than 15 steps. euler_at_final: the last step is always of first order.
    """
    return build_sampler(samplers.dpmpp_2m, **locals())


@node("scheduler.dpmpp_2m_sde", runtime=True, check=make_sampler_check(samplers.dpmpp_2m_sde))
def dpmpp_2m_sde(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 20,
    spacing: Spacing = "linspace",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    eta: Eta = 1.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022): fresh noise at every step, which eta scales.

    solver_type, lower_order_final, euler_at_final: as for dpmpp_2m.
    """
    return build_sampler(samplers.dpmpp_2m_sde, **locals())


@node("scheduler.dpmpp_2s", runtime=True, check=make_sampler_check(samplers.dpmpp_2s))
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
    solver_type: Solver = "midpoint",
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2S) (Lu et al. 2022): pairs of steps of second order, one call a step.

    solver_type: as for dpmpp_2m. Pairs are those of the full run with `strength`, and start at the first of `levels`.
    """
    return build_sampler(samplers.dpmpp_2s, **locals())


@node("scheduler.dpmpp_2s_ancestral", runtime=True, check=make_sampler_check(samplers.dpmpp_2s_ancestral))
def dpmpp_2s_ancestral(
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
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(2S) with fresh noise at every step, as in k-diffusion: 2·steps − 1 calls; eta scales that noise."""
    return build_sampler(samplers.dpmpp_2s_ancestral, **locals())


@node("scheduler.dpmpp_sde", runtime=True, check=make_sampler_check(samplers.dpmpp_sde))
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
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++ (SDE) as in k-diffusion: 2·steps − 1 calls, with noise at each; eta scales the noise."""
    return build_sampler(samplers.dpmpp_sde, **locals())


@node("scheduler.dpmpp_3m_sde", runtime=True, check=make_sampler_check(samplers.dpmpp_3m_sde))
def dpmpp_3m_sde(
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
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """DPM-Solver++(3M) for the reverse SDE, as in k-diffusion: one call a step; eta scales the fresh noise.

    Its quadratic term counts half, as there, so at eta 0 it is of second order.
    """
    return build_sampler(samplers.dpmpp_3m_sde, **locals())


@node("scheduler.unipc", runtime=True, check=make_sampler_check(samplers.unipc))
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
    lower_order_final: bool = True,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """UniPC (Zhao et al. 2023) of x̂0: predictor and corrector of the same order, one call a step.

    variant: the paper's B(h), h for bh1 and e^h − 1 for bh2. lower_order_final: the last steps have orders p − 1, …, 1.
    """
    return build_sampler(samplers.unipc, **locals())


@node("scheduler.deis", runtime=True, check=make_sampler_check(samplers.deis))
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
    lower_order_final: bool = True,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """DEIS (Zhang & Chen 2023): multistep in log σ/α, of order up to 3, one call a step.

    lower_order_final: with fewer than 15 steps, the last is of first order and the one before of at most second order.
    """
    return build_sampler(samplers.deis, **locals())
