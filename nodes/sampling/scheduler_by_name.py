"""A sampler chosen by its name: a workflow's parameter, or an axis of a sweep."""

from __future__ import annotations

from typing import Literal

from guidegraph.graph.node import node
from guidegraph.nodes.sampling import scheduler
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.settings import Clip, Fraction, Steps
from guidegraph.nodes.types import Schedule

SamplerName = Literal[
    "ddim",
    "ddpm",
    "deis",
    "dpm2",
    "dpm2_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "edm",
    "euler",
    "euler_ancestral",
    "heun",
    "lcm",
    "lms",
    "pndm",
    "tcd",
    "unipc",
]


@node("scheduler.named", host=True)
def sampler_by_name(
    schedule: Schedule,
    *,
    sampler: SamplerName = "ddim",
    steps: Steps = 30,
    clip: Clip = False,
    strength: Fraction = 1.0,
) -> Sampler:
    """The node `scheduler.SAMPLER`, chosen by name, with its own defaults for all other settings.

    sampler: its name; the node of that name has the source and all settings. steps: of the solver; some call the model
    more than once per step. clip: x̂0 is clipped to [−clip, clip] (true: 1). strength: run only this last fraction of
    the steps. Samplers that draw noise need it at scheduler.step. In a bundle, use the sampler's own node instead.
    """
    built: Sampler = getattr(scheduler, sampler)(schedule, steps=steps, clip=clip, strength=strength)
    return built
