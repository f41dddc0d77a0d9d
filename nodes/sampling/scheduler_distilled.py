"""Samplers for models distilled to jump to x̂0 in a few steps. Other settings: see `settings`.

original_steps: number of timesteps in the model's distillation. spacing: by default evenly by index among those.
"""

from __future__ import annotations

from guidegraph.graph.node import node
from guidegraph.nodes.sampling.sampler_node import Sampler, build_sampler, make_sampler_check
from guidegraph.nodes.sampling.settings import SHARED_SETTINGS, Clip, Eta, Fraction, Offset, Positive, Steps
from guidegraph.nodes.types import Levels, Schedule
from guidegraph_runtime.samplers import samplers
from guidegraph_runtime.samplers.distilled import DistilledSpacing
from guidegraph_runtime.tables.noise_levels import Final, Sigmas

__doc__ = f"{__doc__}\n{SHARED_SETTINGS}"


@node("scheduler.lcm", runtime=True, check=make_sampler_check(samplers.lcm))
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
    return build_sampler(samplers.lcm, **locals())


@node("scheduler.tcd", runtime=True, check=make_sampler_check(samplers.tcd))
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
    return build_sampler(samplers.tcd, **locals())
