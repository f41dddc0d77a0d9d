"""Samplers for models distilled to jump to x̂0 in a few steps. Other settings: see `sampler_settings`.

original_steps: number of timesteps in the model's distillation. spacing: by default evenly by index among those.
"""

from __future__ import annotations

from guidegraph.graph.node import node
from guidegraph.nodes.sampler_settings import SHARED_SETTINGS, Clip, Eta, Fraction, Offset, Positive, Steps
from guidegraph.nodes.sampler_tables import Sampler, check_sampler, sampler_of
from guidegraph.nodes.types import Levels, Schedule
from guidegraph_runtime import samplers
from guidegraph_runtime.distilled_samplers import DistilledSpacing
from guidegraph_runtime.tables.grid import Final, Sigmas

__doc__ = f"{__doc__}\n{SHARED_SETTINGS}"


@node("scheduler.lcm", runtime=True, check=check_sampler(samplers.lcm))
def lcm(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 4,
    original_steps: Steps = 50,
    spacing: DistilledSpacing = "distilled",
    offset: Offset = 0,
    final: Final = "one",
    sigmas: Sigmas = "schedule",
    timestep_scaling: Positive = 10.0,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    strength: Fraction = 1.0,
) -> Sampler:
    """Latent consistency models (Luo et al. 2023): the consistency function, then fresh noise of the next level.

    timestep_scaling: factor of t in the consistency function's c_skip and c_out.
    """
    return sampler_of(samplers.lcm, **locals())


@node("scheduler.tcd", runtime=True, check=check_sampler(samplers.tcd))
def tcd(
    schedule: Schedule,
    levels: Levels | None = None,
    *,
    steps: Steps = 4,
    original_steps: Steps = 50,
    spacing: DistilledSpacing = "distilled",
    offset: Offset = 0,
    final: Final = "first",
    sigmas: Sigmas = "schedule",
    eta: Eta = 0.3,
    clip: Clip = False,
    threshold: Fraction | None = None,
    threshold_max: Positive | None = None,
    rederive_eps: bool = True,
    strength: Fraction = 1.0,
) -> Sampler:
    """Trajectory consistency distillation (Zheng et al. 2024): DDIM below the next level, then fresh noise up to it.

    eta: the paper's γ, from 0 (DDIM) to 1 (multistep consistency sampling).
    """
    return sampler_of(samplers.tcd, **locals())
