"""``scheduler.named``: a sampler chosen by its name, as a workflow's parameter or an axis of a sweep does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from guidegraph_runtime.declare.operation import OPERATIONS, operation
from guidegraph_runtime.declare.settings import Clip, Fraction, Schedule, Steps
from guidegraph_runtime.samplers.sampler import OUTPUT_HELP, SAMPLERS, Sampler, table_shape

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(sorted(SAMPLERS))]


@operation("scheduler.named", shape=table_shape, output_help=OUTPUT_HELP)
def choose_sampler(
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
    the steps. Samplers that draw noise need it at scheduler.step.
    """
    settings: dict[str, Any] = {"steps": steps, "clip": clip, "strength": strength}
    return Sampler(**OPERATIONS[f"scheduler.{sampler}"](schedule=schedule, **settings))
